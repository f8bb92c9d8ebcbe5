"""Each thing a user gets wrong: one clear line, exit code 1 or 2, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from cammsr_cli.locks import only_writer

ONE_EPOCH = ("--set", "training.epochs=1")

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
    assert [line.split(",")[0] for line in listed] == ["item", "i3", "i4", "i5", "i6"]
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

    def fail(*_: object) -> None:
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


def test_force_loses_no_run_to_a_mistyped_name(shop, tmp_path: Path, cammsr: Callable) -> None:
    run = tmp_path / "run"
    shutil.copytree(shop.run, run)
    (run / "my notes.txt").write_text("mine")
    before = {path.name: path.stat().st_size for path in run.iterdir()}
    for arguments in (
        ["train", tmp_path / "mistyped.h5", "--out", run, "--force"],
        ["train", shop.data, "--out", run, "--force", "--set", "model.modalities=[sound]"],
    ):
        assert cammsr(*arguments).code == 1
        assert {path.name: path.stat().st_size for path in run.iterdir()} == before
    again = cammsr("train", shop.data, "--out", run, "--force", "--set", "training.epochs=1")
    assert again.code == 0, again.err
    assert (run / "my notes.txt").read_text() == "mine"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_force_replaces_no_folder_that_is_no_run(shop, tmp_path: Path, cammsr: Callable) -> None:
    """Other models have a config.json, weights and a README, too."""
    other = tmp_path / "other model"
    other.mkdir()
    for name in ("config.json", "model.safetensors", "README.md", "vocab.txt"):
        (other / name).write_text("{}")
    answer = cammsr("train", shop.data, "--out", other, "--force")
    assert answer.code == 2
    assert "--force replaces only a run" in answer.err
    assert {path.name: path.read_text() for path in other.iterdir()} == dict.fromkeys(
        ("config.json", "model.safetensors", "README.md", "vocab.txt"), "{}"
    )


def test_a_run_has_one_writer(shop, tmp_path: Path, cammsr: Callable) -> None:
    run = tmp_path / "my run"
    shutil.copytree(shop.run, run)
    with only_writer(run, folder=True):
        before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
        for arguments in (["--force"], ["--force", "--set", "model.width=16"]):
            answer = cammsr("train", shop.data, "--out", run, *arguments)
            assert answer.code == 1
            assert "my run is being written by process" in answer.err
        assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before
    again = cammsr("train", shop.data, "--out", run)
    assert again.code == 2  # it is there; and the hint can be pasted
    assert f"--out '{run}' --resume" in again.err
    assert cammsr("train", shop.data, "--out", run, "--force", *ONE_EPOCH).code == 0
    assert not (run / ".lock").exists()


def test_force_never_replaces_raw_data(files: Path, cammsr: Callable) -> None:
    source = files / "interactions.csv"
    answer = cammsr("prepare", source, "--out", source, "--force")
    assert answer.code == 2
    assert source.read_text() == INTERACTIONS


def test_nothing_to_learn_from_is_told(tmp_path: Path, cammsr: Callable) -> None:
    (tmp_path / "interactions.csv").write_text(
        "user,item,timestamp\n"
        + "".join(f"u{u},i{(u + s) % 5},{s}\n" for u in range(5) for s in range(3))
    )
    data, run = tmp_path / "few.h5", tmp_path / "run"
    assert cammsr("prepare", tmp_path, "--out", data).code == 0
    assert_refused(cammsr("train", data, "--out", run), run, "nothing to learn from", code=1)


def test_log_without_items_or_encoders_says_so_and_trains(tmp_path: Path, cammsr: Callable) -> None:
    (tmp_path / "events.csv").write_text(INTERACTIONS)
    data, run = tmp_path / "ids.h5", tmp_path / "run"
    answer = cammsr("prepare", tmp_path / "events.csv", "--out", data)
    assert answer.code == 0, answer.err
    assert "no encoder is given" in answer.err
    assert cammsr("info", data).code == 0
    assert cammsr("train", data, "--out", run, "--set", "training.epochs=1").code == 0
    answer = cammsr("recommend", run, "--user", "u1", "--json")
    assert json.loads(answer.out)[0]["recommendations"][0]["weights"] == {"id": 1.0}


def test_columns_with_odd_names_and_other_separators_are_read(
    tmp_path: Path, cammsr: Callable
) -> None:
    (tmp_path / "interactions.csv").write_text(INTERACTIONS.replace(",", ";"))
    (tmp_path / "items.csv").write_text(
        ",item,title,price/usd,.,price\n" + "".join(f"{i},i{i},T{i},{i}.5,x,9\n" for i in range(7))
    )
    data = tmp_path / "odd.h5"
    answer = cammsr("prepare", tmp_path, "--out", data)
    assert answer.code == 0, answer.err
    from cammsr_cli.data.dataset import DataSet

    found = DataSet(data)
    assert set(found.field_names) == {"title", "price/usd", ".", "price"}
    assert found.field("price/usd")[2] == "2.5"


def test_dates_as_numbers_are_dates(tmp_path: Path, cammsr: Callable) -> None:
    (tmp_path / "interactions.csv").write_text(
        "user,item,date\nu,a,20240103\nu,b,20240101\nu,c,20240102\n"
    )
    data = tmp_path / "dates.h5"
    assert cammsr("prepare", tmp_path, "--out", data).code == 0
    from cammsr_cli.data.dataset import DataSet

    found = DataSet(data)
    assert [found.item_ids[item] for item in found.event_item] == ["b", "c", "a"]
    assert found.event_time[0] == 1_704_067_200


def test_titles_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from cammsr_cli import console

    console.result_table([("title", False)], [["\x1b[31mred\x1b[0m \u202e two\nlines"]])
    console.note("user \x1b]0;x\x07")
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "\u202e" not in out
    assert "�[31mred" in out
    assert "two lines" in out


def test_each_broken_file_is_listed_under_its_own_name(tmp_path: Path, cammsr: Callable) -> None:
    (tmp_path / "interactions.csv").write_text(INTERACTIONS)
    (tmp_path / "items.csv").write_text("item,image\ni1,one.jpg\ni2,two.jpg\n")
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).touch()
    data = tmp_path / "x.h5"
    answer = cammsr("prepare", tmp_path, "--out", data, "--encoder", "image=,size=64")
    assert answer.code == 0, answer.err
    assert "no item has the modality image" in answer.err
    listed = (tmp_path / "x.h5.problems.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:3] for line in listed] == [
        ["i1", "image", "one.jpg"],
        ["i2", "image", "two.jpg"],
    ]


def test_moved_data_set_is_asked_for(shop, tmp_path: Path, cammsr: Callable) -> None:
    data, run = tmp_path / "here.h5", tmp_path / "run"
    shutil.copy(shop.data, data)
    assert cammsr("train", data, "--out", run, "--set", "training.epochs=1").code == 0
    data.rename(tmp_path / "there.h5")
    answer = cammsr("evaluate", run)
    assert answer.code == 1
    assert "--data FILE" in answer.err
    assert cammsr("evaluate", run, "--data", tmp_path / "there.h5").code == 0


def test_a_run_is_no_data_set(toy_data: Path, tmp_path: Path, cammsr: Callable) -> None:
    run, out = tmp_path / "run", tmp_path / "other"
    assert cammsr("train", toy_data, "--out", run, *ONE_EPOCH).code == 0
    assert_refused(cammsr("train", run, "--out", out), out, f"{run} is a folder", ".h5 file")


@pytest.mark.parametrize("as_json", [False, True])
def test_letters_that_the_output_lacks_are_no_fault(
    files: Path, tmp_path: Path, cammsr: Callable, as_json: bool
) -> None:
    """As on Windows, where a file that output goes to has an old encoding."""
    items = (files / "items.csv").read_text().replace("Thing", "Šíp\u2028🍎")
    (files / "items.csv").write_text(items, encoding="utf-8")
    data, run = tmp_path / "x.h5", tmp_path / "run"
    vectors = files / "vectors.csv"
    vectors.write_text("item,a\n" + "".join(f"i{item},{item}\n" for item in range(7)))
    told = cammsr("prepare", files, "--out", data, "--features", f"v={vectors}")
    assert told.code == 0, told.err
    assert cammsr("train", data, "--out", run, *ONE_EPOCH).code == 0
    done = subprocess.run(
        [sys.executable, "-m", "cammsr_cli", "recommend", run, "--user", "u1"]
        + ["--json"] * as_json,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("latin-1")
    if as_json:
        titles = [one["title"] for one in json.loads(text)[0]["recommendations"]]
        assert titles[0].startswith("Šíp\u2028🍎")
    else:
        assert "?íp ?" in text
