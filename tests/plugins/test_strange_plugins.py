"""`prepare` with encoders that strangers wrote, faults and all: what it makes of them and says."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cammsr_cli.data.dataset import DataSet

PLUGIN = """
import sys
import numpy as np

class Encoder:
    api, modality, fields = 1, "price", ("title",)
    dim = 1
    fingerprint = "1.0"
    def __init__(self, model=None, *, device="cpu", precision="float32"): ...
    def load(self, item):
        return len(item["title"])
    def encode(self, samples):
        return np.array(samples, np.float32).reshape(-1, 1)
"""

_number = itertools.count()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs `PLUGIN`, some of its words replaced by others, as the encoder of a name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def installed(name: str, *others: tuple[str, str]) -> None:
        code = PLUGIN
        for words, instead in others:
            assert words in code
            code = code.replace(words, instead)
        module = f"strange_{next(_number)}"  # what is imported once stays
        (site / f"{module}.py").write_text(code)
        told = site / f"{module}-1.0.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (told / "entry_points.txt").write_text(f"[cammsr.encoders]\n{name} = {module}:Encoder\n")

    return installed


@pytest.fixture
def prepare(tmp_path: Path, cammsr: Callable) -> Callable:
    """Runs `prepare` on three items with titles."""
    source = tmp_path / "raw"
    source.mkdir()
    (source / "items.csv").write_text("item,title\na,A\nb,BB\nc,CCC\n")
    events = [f"{user},{item},{time}\n" for user in "uv" for time, item in enumerate("abc")]
    (source / "interactions.csv").write_text("user,item,timestamp\n" + "".join(events))

    def run(*names: str, more: tuple[str, ...] = ()):
        encoders = [word for name in names for word in ("--encoder", name)]
        return cammsr("prepare", source, "--out", tmp_path / "out.h5", *encoders, *more)

    return run


def test_two_encoders_of_one_fingerprint_are_not_taken_for_each_other(
    install: Callable, prepare: Callable, tmp_path: Path
) -> None:
    install("cheap")
    install("dear", ("np.array(samples", "100 * np.array(samples"))
    assert prepare("cheap").code == 0
    assert DataSet(tmp_path / "out.h5").vectors("price")[0].ravel().tolist() == [1, 2, 3]
    planned = prepare("dear", more=("--force", "--dry-run"))
    assert "3 unchanged; the encoder or its options are others" in planned.err
    answer = prepare("dear", more=("--force", "--json"))
    assert "the encoder or its options are others" in answer.err
    assert json.loads(answer.out)["modalities"]["price"]["cached"] == 0
    assert DataSet(tmp_path / "out.h5").vectors("price")[0].ravel().tolist() == [100, 200, 300]
    again = prepare("dear", more=("--force", "--json"))
    assert "are others" not in again.err
    assert json.loads(again.out)["modalities"]["price"]["cached"] == 3


@pytest.mark.parametrize(
    ("words", "instead", "told"),
    [
        ('fingerprint = "1.0"', "fingerprint = None", "its `fingerprint` is None; it must be"),
        ('fingerprint = "1.0"', 'fingerprint = ""', "its `fingerprint` is ''; it must be"),
        (
            'fingerprint = "1.0"',
            'def fingerprint(self): return "1.0"',
            "its `fingerprint` is a method (is @property missing?); it must be",
        ),
        ("dim = 1", 'dim = "2"', "its `dim` is '2'; it must be the length of the vectors"),
        ("dim = 1", "dim = 0", "its `dim` is 0; it must be"),
        ("dim = 1", "dim = None", "its `dim` is None; it must be"),
    ],
)
def test_what_cannot_be_a_fingerprint_or_a_dim_is_told_as_the_plugins_fault(
    install: Callable,
    prepare: Callable,
    cammsr: Callable,
    tmp_path: Path,
    words: str,
    instead: str,
    told: str,
) -> None:
    install("price", (words, instead))
    for answer in (prepare("price"), cammsr("encoders", "info", "price")):
        assert answer.code == 1
        assert answer.err.startswith(f"error: encoder 'price': {told}"), answer.err
        assert "fault in cammsr" not in answer.err
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.usefixtures("prepare")
@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
@pytest.mark.parametrize("field", ["title", "image"])  # in this process, in those that decode
def test_what_a_plugin_prints_is_no_result(
    install: Callable, tmp_path: Path, field: str, device: str
) -> None:
    install(
        "chatty",
        ('("title",)', f'("{field}",)'),
        ("return len(item", 'print("loading", flush=True); return len(item'),
        ('item["title"]', f'item["{field}"]'),
        ("return np.array", 'print("encoding", flush=True); return np.array'),
    )
    raw = tmp_path / "raw"
    (raw / "one.bin").write_text("a picture")
    (raw / "items.csv").write_text("item,title,image\na,A,one.bin\nb,BB,\nc,CCC,\n")
    done = subprocess.run(
        [
            sys.executable, "-m", "cammsr_cli", "prepare", raw, "--out", tmp_path / "out.h5",
            "--encoder", "chatty", "--device", device, "--workers", "1", "--json",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["modalities"]["price"]["encoded"] > 0
    assert {"loading", "encoding"} <= {*done.stderr.splitlines()}


def test_a_plugin_that_exits_ends_nothing(
    install: Callable, prepare: Callable, cammsr: Callable, tmp_path: Path
) -> None:
    load, encode = 'return len(item["title"])', "return np.array"
    install("leaver", (load, f'if item["title"] == "BB": sys.exit(3)\n        {load}'))
    assert prepare("leaver").code == 0
    assert DataSet(tmp_path / "out.h5").vectors("price")[1].tolist() == [True, False, True]
    assert "b,price,,SystemExit: 3" in (tmp_path / "out.h5.problems.csv").read_text()
    install("ender", (encode, f"sys.exit(0); {encode}"))
    ended = prepare("ender", more=("--force",))
    assert ended.code == 1
    assert ended.err.startswith("error: encoder 'ender' failed on a batch of 3: SystemExit: 0")
    checked = cammsr("encoders", "check", "ender", "--json")
    assert checked.code == 1
    found = {one["check"]: one["fault"] for one in json.loads(checked.out)}
    assert str(found["keeps_the_order"]).startswith("SystemExit: 0")
    assert found["says_what_it_is"] is None


def test_an_encoder_that_fails_on_every_item_is_told_and_the_data_set_is_written(
    install: Callable, prepare: Callable, tmp_path: Path
) -> None:
    install("typo", ('item["title"]', 'item["titel"]'))
    answer = prepare("typo")
    assert answer.code == 0
    told = "encoder 'typo' failed on all 3 items that it was given; the first: item a: KeyError: "
    assert f"note: price: {told}'titel'" in answer.err
    assert not DataSet(tmp_path / "out.h5").vectors("price")[1].any()
    install(
        "choosy", ('return len(item["title"])', 'return [len(item["title"])][item["title"]>"A"]')
    )
    some = prepare("choosy", more=("--force",))
    assert some.code == 0
    assert "failed on all" not in some.err
    assert "IndexError" in (tmp_path / "out.h5.problems.csv").read_text()


@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_the_line_of_a_plugins_fault_is_shown_if_asked_for(
    install: Callable,
    prepare: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    device: str,
) -> None:
    install("faulty", ("return np.array(samples", "return self.no_such_thing(samples"))
    answer = prepare("faulty", more=("--device", device))
    assert answer.code == 1
    assert "AttributeError: 'Encoder' object has no attribute 'no_such_thing'\n" in answer.err
    assert answer.err.endswith("  CAMMSR_DEBUG=1 shows where it happened\n")
    assert "Traceback" not in answer.err + capfd.readouterr().err
    monkeypatch.setenv("CAMMSR_DEBUG", "1")
    answer = prepare("faulty", more=("--device", device))
    told = answer.err + capfd.readouterr().err  # of this process, and of those on other devices
    assert answer.code == 1
    assert "Traceback (most recent call last):" in told
    assert re.search(r'strange_\d+\.py", line 13, in encode\n    return self\.no_such_thing', told)
    assert "error: " in answer.err
