"""Each thing a user gets wrong: one clear line, exit code 1 or 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

INTERACTIONS = "user,item,timestamp\n" + "".join(
    f"u{user},i{(user + step) % 7},{1_700_000_000 + step}\n"
    for user in range(9)
    for step in range(5)
)
ITEMS = "item,title,category,image\n" + "".join(
    f"i{item},Thing {item},{'ab'[item % 2]},pictures/{item}.jpg\n" for item in range(7)
)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a sound interactions file and items file, and a space in its name."""
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "interactions.csv").write_text(INTERACTIONS)
    (folder / "items.csv").write_text(ITEMS)
    return folder


def assert_refused(answer, out: Path, *said: str, code: int | None = None) -> None:
    """The command failed with a message that has all of `said`, and wrote nothing to `out`."""
    assert answer.code == code if code is not None else answer.code in (1, 2), answer
    errors = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, answer.err
    assert "Traceback" not in answer.err
    for part in said:
        assert part in answer.err, answer.err
    assert answer.out == ""
    leftovers = [path.name for path in out.parent.iterdir() if out.name in path.name]
    assert leftovers == [], leftovers


def test_no_such_file(files: Path, cammsr: Callable) -> None:
    out = files / "out.h5"
    assert_refused(cammsr("prepare", files / "no.csv", "--out", out), out, "no.csv")


def test_empty_file(files: Path, cammsr: Callable) -> None:
    (files / "empty.csv").touch()
    out = files / "out.h5"
    assert_refused(cammsr("prepare", files / "empty.csv", "--out", out), out, "empty.csv", "empty")


def test_column_that_cannot_be_found_names_the_candidates(files: Path, cammsr: Callable) -> None:
    odd = files / "odd.csv"
    odd.write_text(INTERACTIONS.replace("user,item,timestamp", "user,thing_no,timestamp"))
    out = files / "out.h5"
    assert_refused(
        cammsr("prepare", odd, "--out", out), out, "odd.csv", "thing_no", "--map", code=2
    )
    mapped = cammsr("prepare", odd, "--out", out, "--map", "item=thing_no")
    assert mapped.code == 0, mapped.err


def test_timestamp_that_is_none_names_file_line_and_value(files: Path, cammsr: Callable) -> None:
    bad = files / "bad.csv"
    lines = INTERACTIONS.splitlines()
    lines[7] = "u1,i3,yesterday"
    bad.write_text("\n".join(lines))
    out = files / "out.h5"
    assert_refused(cammsr("prepare", bad, "--out", out), out, "bad.csv", "line 8", "yesterday")


def test_unknown_encoder_lists_those_there_are(files: Path, cammsr: Callable) -> None:
    out = files / "out.h5"
    answer = cammsr("prepare", files, "--out", out, "--encoder", "imge")
    assert_refused(answer, out, "imge", "image", "text", "video", code=2)


def test_weights_that_cannot_be_had_say_what_to_do(files: Path, cammsr: Callable) -> None:
    out = files / "out.h5"
    answer = cammsr("prepare", files, "--out", out, "--encoder", "text=nobody/no-such-model")
    assert_refused(answer, out, "nobody/no-such-model", code=1)
    assert "connect" in answer.err
    assert "offline" in answer.err


def test_cuda_where_there_is_none(files: Path, cammsr: Callable) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    out = files / "out.h5"
    answer = cammsr("prepare", files, "--out", out, "--encoder", "text", "--device", "cuda")
    assert_refused(answer, out, "cuda", "--device cpu", code=2)


def test_out_is_never_overwritten_unasked(files: Path, cammsr: Callable) -> None:
    out = files / "out.h5"
    out.write_text("mine")
    answer = cammsr("prepare", files, "--out", out)
    assert answer.code == 2
    assert "--force" in answer.err
    assert out.read_text() == "mine"


def test_train_on_what_is_no_data_set(files: Path, shop, cammsr: Callable) -> None:
    run = files / "run"
    for name, content in (("text.h5", b"hello"), ("empty.h5", b"")):
        (files / name).write_bytes(content)
        assert_refused(cammsr("train", files / name, "--out", run), run, name, code=1)
    assert_refused(cammsr("train", files / "none.h5", "--out", run), run, "none.h5", code=1)


def test_truncated_data_set(files: Path, shop, cammsr: Callable) -> None:
    cut = files / "cut.h5"
    cut.write_bytes(shop.data.read_bytes()[:-5000])
    run = files / "run"
    assert_refused(cammsr("train", cut, "--out", run), run, "cut.h5", "cammsr prepare", code=1)


def test_data_set_of_another_schema_version(files: Path, shop, cammsr: Callable) -> None:
    old = shutil.copy(shop.data, files / "old.h5")
    with h5py.File(old, "r+") as file:
        file.attrs["schema"] = 99
    run = files / "run"
    assert_refused(cammsr("train", old, "--out", run), run, "schema 99", "schema 1", code=1)


def test_unknown_user_gets_close_ids(shop, cammsr: Callable) -> None:
    answer = cammsr("recommend", shop.run, "--user", "user-01")
    assert answer.code == 1
    assert "no user 'user-01'" in answer.err
    assert "user-0" in answer.err.partition("ids like:")[2]


def test_run_on_another_data_set_is_refused(files: Path, shop, cammsr: Callable) -> None:
    other = files / "other.h5"
    assert cammsr("prepare", files, "--out", other, "--encoder", "text").code == 0
    for command in (
        ["evaluate", shop.run, "--data", other],
        ["recommend", shop.run, "--data", other, "--user", "u1"],
    ):
        answer = cammsr(*command)
        assert answer.code == 1
        assert "another data set" in answer.err


def test_checkpoint_for_another_data_set_is_refused(files: Path, shop, cammsr: Callable) -> None:
    other, run = files / "other.h5", files / "run"
    assert cammsr("prepare", files, "--out", other).code == 0
    begun = shutil.copytree(shop.run, run)
    (begun / "model.safetensors").unlink()
    answer = cammsr("train", other, "--out", run, "--resume")
    assert answer.code == 1
    assert "another data set" in answer.err


def test_unknown_setting_and_wrong_value_are_told_at_once(shop, tmp_path, cammsr: Callable) -> None:
    run = tmp_path / "run"
    answer = cammsr(
        "train", shop.data, "--out", run, "--set", "model.widht=3", "--set", "training.epochs=no"
    )
    assert_refused(answer, run, "model.widht", "model.width", "training.epochs", code=2)


def test_media_that_cannot_be_used_are_counted_listed_and_never_fatal(
    files: Path, shop, cammsr: Callable
) -> None:
    pictures = files / "pictures"
    pictures.mkdir()
    good = next((shop.folder / "images").glob("*.jpg"))
    for item in (0, 1, 2):
        shutil.copy(good, pictures / f"{item}.jpg")
    (pictures / "3.jpg").write_text("I am no picture")
    (pictures / "4.jpg").write_bytes(good.read_bytes()[:300])
    (pictures / "5.jpg").touch()
    out = files / "out.h5"
    arguments = ["prepare", files, "--out", out, "--encoder", "image=,size=64"]
    answer = cammsr(*arguments, "--json")
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    assert report["modalities"]["image"]["present"] == 3
    assert report["modalities"]["image"]["problems"] == 4
    listed = (files / "out.h5.problems.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in listed] == ["item", "i6", "i3", "i4", "i5"]
    with h5py.File(out) as file:
        present = file["features/image/present"][()].tolist()
    assert present == [True] * 3 + [False] * 4

    strict = cammsr(*arguments[:3], files / "strict.h5", *arguments[4:], "--strict")
    assert strict.code == 1
    assert "4 item(s)" in strict.err
    assert not (files / "strict.h5").exists()


def test_fault_of_ours_is_one_line_and_says_how_to_see_more(
    shop, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cammsr_cli.data.summary

    def fail(_path: Path) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(cammsr_cli.data.summary, "summarise", fail)
    answer = cammsr("info", shop.data)
    assert answer.code == 1
    assert "planted" in answer.err
    assert "CAMMSR_DEBUG=1" in answer.err
    assert "Traceback" not in answer.err


def test_pipe_that_closes_early_is_no_fault(shop) -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m cammsr_cli train --list-settings | head -1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr
