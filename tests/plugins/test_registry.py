from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cammsr_encoders.contract import CHECKS
from conftest import PROJECT

from cammsr_cli.encoding.encode import encode_items
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.plugins.encoder_check import check_encoder
from cammsr_cli.plugins.registry import EncoderSpec, find_encoders, make_encoder

GOOD = """
class Encoder:
    api, modality, fields, dim, fingerprint = 1, "toy", ("title",), 1, "toy"
    def __init__(self, model=None, *, device="cpu", precision="float32"): ...
    def load(self, item): ...
    def encode(self, samples): ...
"""


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("text", EncoderSpec("text")),
        ("text=", EncoderSpec("text")),
        ("text=BAAI/bge-small-en", EncoderSpec("text", "BAAI/bge-small-en")),
        ("text=/a b/c:d-e,f", EncoderSpec("text", "/a b/c:d-e,f")),
        ("video=,frames=4", EncoderSpec("video", None, {"frames": "4"})),
        (
            "video=hf-hub:timm/x.y,frames=4,size=96",
            EncoderSpec("video", "hf-hub:timm/x.y", {"frames": "4", "size": "96"}),
        ),
        ("text=,prompt=a, b: ", EncoderSpec("text", None, {"prompt": "a, b:"})),
    ],
)
def test_specs_are_read_and_written(text: str, spec: EncoderSpec) -> None:
    assert EncoderSpec.parse(text) == spec
    assert EncoderSpec.parse(str(spec)) == spec


@pytest.mark.parametrize("text", ["", "=x", "a b", "video=frames=4", "v=,a", "v=,a=1,a=2"])
def test_bad_specs_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        EncoderSpec.parse(text)


def test_the_built_in_encoders_are_found_as_plugins() -> None:
    found = {entry.name: entry for entry in find_encoders()}
    assert {"text", "image", "video"} <= found.keys()
    assert found["video"].distribution == "cammsr"
    assert found["video"].target == "cammsr_encoders.video:VideoEncoder"
    assert found["video"].fields == ("video",)
    assert found["video"].broken is None


def test_making_one() -> None:
    encoder = make_encoder(EncoderSpec.parse("video=,frames=4"), precision="bfloat16")
    assert encoder.modality == "video"
    with pytest.raises(UsageError, match=r"'vidoe'; there are: .*image, text, video") as told:
        make_encoder(EncoderSpec("vidoe"))
    assert told.value.hint == "did you mean video?"
    with pytest.raises(UsageError, match="no option 'frame'; it has: frames, size"):
        make_encoder(EncoderSpec("video", None, {"frame": "4"}))
    with pytest.raises(UsageError, match="not between"):
        make_encoder(EncoderSpec("video", None, {"frames": "0"}))


def _installed(folder: Path, distribution: str, name: str, code: str) -> None:
    """A package as pip leaves it: a module and its metadata."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    told = folder / f"{module}-1.0.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (told / "entry_points.txt").write_text(f"[cammsr.encoders]\n{name} = {module}:Encoder\n")


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_broken_plugins_are_listed_with_the_reason_and_harm_nothing(
    plugins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _installed(plugins, "raises-on-import", "raising", "print('hello')\nraise OSError('no driver')")
    _installed(plugins, "exits-on-import", "exiting", "raise SystemExit(3)")
    _installed(plugins, "from-the-future", "future", "class Encoder: api = 2")
    _installed(plugins, "without-class", "classless", "")
    _installed(plugins, "half-done", "half", "class Encoder: api = 1; modality = 'x'")
    found = {entry.name: entry for entry in find_encoders()}
    assert found["raising"].broken == "OSError: no driver"
    assert found["exiting"].broken == "SystemExit: 3"
    assert found["future"].broken == "written for encoder api 2; this version has api 1"
    assert "Encoder" in str(found["classless"].broken)
    assert found["half"].broken == "lacks fields, load, encode"
    assert capsys.readouterr().out == ""
    assert make_encoder(EncoderSpec("image")).modality == "image"
    with pytest.raises(CammsrError, match="'raising' of raises-on-import is broken: OSError"):
        make_encoder(EncoderSpec("raising"))


@pytest.mark.parametrize(
    ("words", "instead", "told"),
    [
        ('("title",)', '("title")', "`fields` is 'title'; it must be a tuple of item fields"),
        ('("title",)', '["title"]', "`fields` is ['title']; it must be a tuple of item fields"),
        ('("title",)', "()", "`fields` is (); it must be a tuple of item fields"),
        ('"toy", (', '"Price tag", (', "`modality` is 'Price tag'; it must be lower-case letters"),
        ('"toy", (', '"id", (', "`modality` is 'id'; it must be lower-case letters"),
        ('device="cpu", ', "", "(model, device=, precision=): got an unexpected keyword argument"),
        ("model=None, *", "*", "(model, device=, precision=): too many positional arguments"),
    ],
)
def test_what_cannot_be_used_is_listed_as_broken(
    plugins: Path, request: pytest.FixtureRequest, words: str, instead: str, told: str
) -> None:
    number = request.node.callspec.indices["words"]
    assert words in GOOD
    _installed(plugins, f"unfit-{number}", "unfit", GOOD.replace(words, instead))
    (entry,) = (one for one in find_encoders() if one.name == "unfit")
    assert told in str(entry.broken)
    with pytest.raises(CammsrError, match=re.escape(told)):
        make_encoder(EncoderSpec("unfit"))


def test_what_only_an_encoder_that_is_made_can_tell_is_asked_of_it(plugins: Path) -> None:
    late = """
    def __init__(self, model=None, *, device="cpu", precision="float32", must): self.must = must
    fields = property(lambda self: (self.must,) if self.must else self.must)
    modality = property(lambda self: self.must)
"""
    _installed(plugins, "late-toy", "late", GOOD + late)
    (entry,) = (one for one in find_encoders() if one.name == "late")
    assert (entry.broken, entry.modality, entry.fields) == (None, None, ())
    assert make_encoder(EncoderSpec("late", None, {"must": "title"})).fields == ("title",)
    with pytest.raises(CammsrError, match=r"late-toy 1\.0 cannot be used: its `fields` is ''"):
        make_encoder(EncoderSpec("late", None, {"must": ""}))
    with pytest.raises(CammsrError, match="cannot be used: its `modality` is 'A b'"):
        make_encoder(EncoderSpec("late", None, {"must": "A b"}))


def test_a_name_claimed_twice_is_an_error_only_when_asked_for(plugins: Path) -> None:
    _installed(plugins, "toy-one", "toy", GOOD)
    _installed(plugins, "toy-two", "toy", GOOD)
    both = [entry for entry in find_encoders() if entry.name == "toy"]
    assert [entry.distribution for entry in both] == ["toy-one", "toy-two"]
    assert [entry.target for entry in both] == ["toy_one:Encoder", "toy_two:Encoder"]
    claim = "claimed by toy-one 1.0 (toy_one:Encoder) and toy-two 1.0 (toy_two:Encoder)"
    assert all(claim in str(entry.broken) for entry in both)
    assert make_encoder(EncoderSpec("image")).modality == "image"
    with pytest.raises(CammsrError, match=re.escape(claim)) as told:
        make_encoder(EncoderSpec("toy"))
    assert str(told.value.hint).startswith("keep one of them: pip uninstall toy-")


def test_the_built_in_encoders_have_no_privilege(plugins: Path) -> None:
    _installed(plugins, "toy-text", "text", GOOD)
    with pytest.raises(CammsrError, match=r"claimed by cammsr .* and toy-text 1\.0") as told:
        make_encoder(EncoderSpec("text"))
    assert told.value.hint == "keep one of them: pip uninstall toy-text"
    assert make_encoder(EncoderSpec("image")).modality == "image"


def test_options_of_strangers_are_checked_for_them(plugins: Path) -> None:
    _installed(plugins, "toy-one", "toy", GOOD)
    with pytest.raises(UsageError, match="encoder 'toy' has no option 'size'; it has none"):
        make_encoder(EncoderSpec("toy", None, {"size": "3"}))
    with pytest.raises(UsageError, match="'device' is no option of an encoder; write --device"):
        make_encoder(EncoderSpec("text", None, {"device": "cpu"}))


def test_a_constructor_that_fails_is_told_as_the_plugins_fault(plugins: Path) -> None:
    code = GOOD.replace('precision="float32"): ...', 'precision="float32"): 1 / 0')
    _installed(plugins, "toy-zero", "zero", code)
    with pytest.raises(CammsrError, match=r"of toy-zero 1\.0 cannot be made: ZeroDivisionError"):
        make_encoder(EncoderSpec("zero"))


@pytest.fixture
def toy_of_the_guide(plugins: Path) -> str:
    """The code that the guide begins with, installed as the encoder `length`."""
    guide = (PROJECT / "docs" / "guides" / "write-an-encoder.md").read_text(encoding="utf-8")
    code = guide.split("```python\n")[1].split("```")[0]
    _installed(plugins, "my-package", "length", code.replace("LengthEncoder", "Encoder"))
    return code


def test_the_toy_in_the_guide_is_ten_lines_and_works(toy_of_the_guide: str) -> None:
    assert sum(bool(line.strip()) for line in toy_of_the_guide.splitlines()) <= 10
    encoder = make_encoder(EncoderSpec("length"))
    features = encode_items(encoder, [{"title": "abc"}, {}], ["1", "2"], None)
    assert features.present.tolist() == [True, False]
    np.testing.assert_allclose(features.values[0], [np.log(4), 0], rtol=1e-3)


@pytest.mark.usefixtures("toy_of_the_guide")
def test_the_toy_in_the_guide_passes_the_contract() -> None:
    found = list(check_encoder(EncoderSpec("length")))
    assert {one.check for one in found} == {check.__name__ for check in CHECKS}
    assert [one.fault for one in found if one.fault is not None] == []
