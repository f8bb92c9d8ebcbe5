"""From raw files and ready-made vectors to a data set: names, alignment, nothing half done."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from web_server import sends, web_server

from cammsr_cli.data.corpus import SourceOptions
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.encoding.features import Problem
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.media.download import Downloads
from cammsr_cli.plugins.registry import EncoderSpec
from cammsr_cli.prepare.options import PrepareOptions
from cammsr_cli.prepare.problems import write_problems
from cammsr_cli.prepare.report import PrepareReport
from cammsr_cli.prepare.run import _own_device, plan, prepare
from cammsr_cli.prepare.web_media import WebMedia

# Two users with three items in common; "d" and "e", the last rows of the items file, are rated
# once and fall to a 2-core; "cold" is rated by nobody and stays.
INTERACTIONS = "user,item,timestamp\n" + "".join(
    f"{user},{item},{time}\n" for user, items in (("u", "abcd"), ("v", "cbae"))
    for time, item in enumerate(items)
)  # fmt: skip
ITEMS = "item,title\na,A\ncold,Cold\nb,B\nc,C\nd,D\ne,E\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with interactions, items, and vectors of one column that count the items' rows."""
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "interactions.csv").write_text(INTERACTIONS)
    (folder / "items.csv").write_text(ITEMS)
    (folder / "vectors.csv").write_text("item,x\na,0\ncold,1\nb,2\nc,3\nd,4\ne,5\n")
    np.save(folder / "vectors.npy", np.arange(6.0).reshape(6, 1))
    return folder


def _options(files: Path, source: dict[str, object] | None = None, **changed) -> PrepareOptions:
    given = {"vectors": {"text": files / "vectors.csv"}, **changed}
    return PrepareOptions(SourceOptions(files, **(source or {})), files / "out.h5", **given)


@contextlib.contextmanager
def _no_bar(name: str):
    yield lambda *_: None


def _prepare(options: PrepareOptions) -> PrepareReport:
    return prepare(options, _no_bar)


@pytest.mark.parametrize("name", ["text", "a", "clip_v2", "values", "type", "x1_"])
def test_names_of_lower_case_letters_digits_and_underscores_will_do(files: Path, name: str) -> None:
    report = _prepare(_options(files, vectors={name: files / "vectors.csv"}))
    assert list(report.modalities) == [name]
    data = DataSet(files / "out.h5")
    assert data.modalities[name].dim == 1
    assert data.vectors(name)[0].ravel().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("act", [plan, _prepare], ids=["plan", "prepare"])
def test_what_vectors_leave_out_is_told(files: Path, act) -> None:
    (files / "vectors.csv").write_text("item,x,shop\na,0,mine\n")
    notes = act(_options(files)).notes
    assert any("left out of the vectors: shop" in note for note in notes)
    assert "text: 5 items have no vector in vectors.csv" in notes


@pytest.mark.parametrize("act", [plan, _prepare], ids=["plan", "prepare"])
@pytest.mark.parametrize(
    "name", ["id", "Text", "1st", "_x", "clip.v2", "a/b", "a b", "a-b", "a+b", "ä", "a\n", "²", ""]
)
def test_other_names_are_refused_and_nothing_is_written(files: Path, name: str, act) -> None:
    before = sorted(files.iterdir())
    with pytest.raises(UsageError, match="a modality cannot be called") as caught:
        act(_options(files, vectors={"text": files / "vectors.csv", name: files / "vectors.csv"}))
    assert f"'{name}'" in caught.value.message
    assert "lower-case" in (caught.value.hint or "")
    assert sorted(files.iterdir()) == before


def test_a_wrong_name_is_told_on_the_command_line(files: Path, cammsr: Callable) -> None:
    out = files / "out.h5"
    for name in ("id", "clip.v2"):
        given = f"{name}={files / 'vectors.csv'}"
        answer = cammsr("prepare", files, "--out", out, "--features", given)
        assert answer.code == 2
        assert f"error: --features {given}: a modality cannot be called '{name}'" in answer.err
        assert answer.out == ""
        assert not out.exists()


@pytest.mark.parametrize("act", [plan, _prepare], ids=["plan", "prepare"])
def test_an_array_follows_the_items_file_whose_last_rows_the_core_dropped(files: Path, act) -> None:
    options = _options(files, {"k_core": 2}, vectors={"text": files / "vectors.npy"})
    report = act(options)
    assert report.items == 4
    assert (report.modalities["text"].present, report.modalities["text"].missing) == (4, 0)
    if act is _prepare:
        data = DataSet(options.out)
        assert data.item_ids == ["a", "cold", "b", "c"]
        assert data.vectors("text")[0].ravel().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("rows", [4, 5, 7])
def test_an_array_of_another_length_is_refused(files: Path, rows: int) -> None:
    np.save(files / "vectors.npy", np.arange(float(rows)).reshape(rows, 1))
    options = _options(files, {"k_core": 2}, vectors={"text": files / "vectors.npy"})
    with pytest.raises(CammsrError, match=f"has {rows} rows and the items file has 6"):
        _prepare(options)
    assert not options.out.exists()


def test_an_array_without_an_items_file_is_refused(files: Path) -> None:
    (files / "items.csv").unlink()
    with pytest.raises(CammsrError, match="has 6 rows and the items file has 0"):
        _prepare(_options(files, vectors={"text": files / "vectors.npy"}))


@pytest.mark.parametrize("act", [plan, _prepare], ids=["plan", "prepare"])
def test_vectors_and_an_encoder_for_one_modality_are_refused(files: Path, act) -> None:
    options = _options(files, encoders=[EncoderSpec.parse("text")])
    with pytest.raises(UsageError, match="two sources for the modality 'text': ready-made") as told:
        act(options)
    assert "encoder text" in told.value.message
    assert not options.out.exists()


def test_two_files_for_one_modality_are_refused(files: Path, cammsr: Callable) -> None:
    out = files / "out.h5"
    given = [x for name in ("csv", "npy") for x in ("--features", f"text={files}/vectors.{name}")]
    answer = cammsr("prepare", files, "--out", out, *given)
    assert answer.code == 2
    assert "--features text is given twice" in answer.err
    assert not out.exists()


def test_two_modalities_from_two_files(files: Path) -> None:
    both = {"text": files / "vectors.csv", "audio": files / "vectors.npy"}
    report = _prepare(_options(files, vectors=both))
    assert list(report.modalities) == ["text", "audio"]
    assert report.modalities["audio"].made_by == str(files / "vectors.npy")
    assert report.problems_file is None
    data = DataSet(files / "out.h5")
    np.testing.assert_array_equal(data.vectors("text")[0], data.vectors("audio")[0])


def test_a_plan_says_what_is_then_done_and_writes_nothing(files: Path) -> None:
    planned = plan(_options(files))
    assert not (files / "out.h5").exists()
    done = _prepare(_options(files))
    assert planned.modalities == done.modalities
    assert (planned.users, planned.items, planned.events) == (2, 6, 8)
    assert (done.users, done.items, done.events) == (2, 6, 8)


def test_where_no_user_has_events_enough_training_is_not_proposed(
    files: Path, cammsr: Callable
) -> None:
    out = files / "out.h5"
    for length in (3, 4):
        rows = "".join(f"u,{item},{time}\n" for time, item in enumerate("abcd"[:length]))
        (files / "interactions.csv").write_text(f"user,item,time\n{rows}v,a,1\n")
        planned = cammsr("prepare", files, "--out", out, "--force", "--json", "--dry-run")
        done = cammsr("prepare", files, "--out", out, "--force")
        assert done.code == 0
        assert json.loads(planned.out)["trainable"] is (length == 4)
        for answer in (planned, done):
            assert ("no user has 4 events" in answer.err) is (length == 3)
        assert (f"Next: cammsr train {out}" in done.err.replace("'", "")) is (length == 4)
        assert len(DataSet(out).event_part) == length + 1
        trained = cammsr("train", out, "--out", files / "run", "--set", "training.epochs=1")
        assert (trained.code == 0) is (length == 4), trained.err


def test_items_whose_vector_is_no_number_are_listed_and_strict_stops(files: Path) -> None:
    (files / "vectors.csv").write_text("item,x\na,1\nb,nan\n")
    listed = files / "out.h5.problems.csv"
    with pytest.raises(CammsrError, match="--strict is on"):
        _prepare(_options(files, strict=True))
    assert not (files / "out.h5").exists()
    report = _prepare(_options(files))
    assert report.problems_file == str(listed)
    assert listed.read_text().splitlines()[1].startswith("b,text,")
    assert (report.modalities["text"].present, report.modalities["text"].problems) == (1, 1)
    # A list of problems that are mended does not stay behind.
    (files / "vectors.csv").write_text("item,x\na,1\nb,2\n")
    assert _prepare(_options(files, force=True)).problems_file is None
    assert not listed.exists()


def test_half_an_emoji_in_a_reason_is_listed_as_what_it_is(tmp_path: Path) -> None:
    listed = write_problems(tmp_path / "x.h5", [Problem("a", "toy", None, "broken \ud83d emoji")])
    assert listed is not None
    assert listed.read_text(encoding="utf-8").splitlines()[1] == r"a,toy,,broken \ud83d emoji"


def test_the_same_input_gives_the_same_bytes(files: Path) -> None:
    _prepare(_options(files))
    first = (files / "out.h5").read_bytes()
    _prepare(_options(files, force=True))
    assert (files / "out.h5").read_bytes() == first
    with h5py.File(files / "out.h5") as file:
        assert set(file["features"]) == {"text"}


def test_what_would_fail_late_fails_before_anything_is_downloaded(
    files: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMMSR_CACHE_DIR", str(files / "cache"))
    with web_server() as server:
        (files / "items.csv").write_text(f"item,title,image\na,A,{server.url('/a.png')}\n")
        base = ("prepare", files, "--out", files / "out.h5", "--allow-private-hosts")
        base += ("--encoder", "image=,size=32")
        answer = cammsr(*base, "--encoder", "text=nobody/nothing")
        assert (answer.code, "nobody/nothing" in answer.err) == (1, True)
        answer = cammsr(*base, "--features", f"text={files / 'nowhere.csv'}")
        assert (answer.code, "no vectors file" in answer.err) == (2, True)
        assert not server.asked


def test_a_plan_loads_no_model_and_says_what_it_does_not_know(
    files: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMMSR_CACHE_DIR", str(files / "cache"))
    base = ("prepare", files, "--out", files / "out.h5", "--encoder", "text", "--dry-run")
    planned = json.loads(cammsr(*base, "--json").out)
    assert (planned["modalities"]["text"]["dim"], planned["bytes"]) == (None, None)
    assert "its size is known once an encoder has run" in cammsr(*base).out
    assert cammsr(*base[:-1]).code == 0
    planned = json.loads(cammsr(*base, "--force", "--json").out)
    assert planned["modalities"]["text"]["dim"] == 384
    assert planned["bytes"] > 6 * 384 * 2


def test_no_gpu_is_taken_by_the_process_that_only_deals_out(files: Path) -> None:
    for given, own in (("cuda:1", "cuda:1"), ("cuda:0,cuda:1", "cpu"), ("cpu", "cpu")):
        assert _own_device(_options(files, device=given)) == own
    assert _own_device(_options(files, device="cuda", engine="ray")) == "cpu"


def test_urls_are_counted_by_host_in_words() -> None:
    def note(urls: list[str]) -> str:
        [told] = WebMedia(dict.fromkeys(urls, "image")).notes(Downloads(urls=len(urls)), None)
        return told.partition(": ")[0]

    assert note(["http://localhost/a.png"]) == "1 media URL (1 on localhost)"
    urls = [f"http://{host}.org/{n}.png" for host in "abcdefg" for n in range(8 - ord(host) % 8)]
    assert note(urls) == (
        "28 media URLs (7 on a.org, 6 on b.org, 5 on c.org, 4 on d.org, 3 on e.org, "
        "others on 2 more hosts)"
    )
    assert note(["http://"]) == "1 media URL"


def test_pictures_behind_urls_are_planned_downloaded_kept_and_reported(
    files: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMMSR_CACHE_DIR", str(files / "cache"))
    picture = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(picture, "PNG")
    out = files / "out.h5"
    base = ["prepare", files, "--out", out, "--encoder", "image=,size=32", "--json"]
    with web_server() as server:
        server.answers |= dict.fromkeys(("/a.png", "/b.png"), sends(picture.getvalue()))
        pictures = [*map(server.url, ("/a.png", "/b.png", "/gone.png")), "ftp://host/x.png"]
        rows = zip("abcd", pictures, strict=True)
        (files / "items.csv").write_text("item,image\n" + "".join(f"{i},{u}\n" for i, u in rows))
        hosts = "3 media URLs (3 on 127.0.0.1): "

        planned = cammsr(*base, "--dry-run", "--allow-private-hosts")
        assert hosts + "0 in the cache, 3 to download" in planned.err
        assert json.loads(planned.out)["downloads"] == {
            "urls": 3, "hosts": 1, "cached": 0, "fetched": 3, "failed": 0, "bytes": 0,
        }  # fmt: skip
        assert json.loads(planned.out)["modalities"]["image"]["encoded"] == 3
        refused = cammsr(*base)  # loopback is private
        assert json.loads(refused.out)["downloads"]["failed"] == 3
        assert "private address" in (files / "out.h5.problems.csv").read_text()
        assert not server.asked

        done = cammsr(*base, "--force", "--allow-private-hosts")
        size = len(picture.getvalue())
        assert json.loads(done.out)["downloads"] == {
            "urls": 3, "hosts": 1, "cached": 0, "fetched": 2, "failed": 1, "bytes": 2 * size,
        }  # fmt: skip
        assert hosts + "0 in the cache, 2 downloaded (0.0 MB), 1 failed" in done.err
        image = json.loads(done.out)["modalities"]["image"]
        assert (image["present"], image["encoded"], image["problems"]) == (2, 1, 2)
        listed = (files / "out.h5.problems.csv").read_text().splitlines()[1:]
        assert listed == [
            f"c,image,{server.url('/gone.png')},not downloaded: HTTP 404 Not Found",
            "d,image,ftp://host/x.png,only http and https URLs are downloaded",
        ]
        server.asked.clear()
        again = cammsr(*base, "--force", "--no-download")
        assert hosts + "2 in the cache, 1 not there and not downloaded" in again.err
        assert json.loads(again.out)["modalities"]["image"]["present"] == 2
        assert not server.asked
        strict = cammsr(*base, "--force", "--allow-private-hosts", "--strict")
        assert strict.code == 1
        assert set(server.asked) == {"/gone.png"}
