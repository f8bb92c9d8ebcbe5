"""`cammsr runs`: what is said of run folders, and of those that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_data import write_toy_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cammsr: Callable) -> Path:
    """Three runs on two data sets, in one folder."""
    folder = tmp_path_factory.mktemp("runs")
    data, other = (write_toy_data(folder / f"{n}.h5", seed=n) for n in (1, 2))
    for name, of, more in (
        ("plain", data, ("--seed", "3")),
        ("wide", data, ("--set", "model.width=24")),
        ("ids", other, ("--preset", "sasrec")),
    ):
        answer = cammsr("train", of, "--out", folder / name, "--set", "training.epochs=2", *more)
        assert answer.code == 0, answer.err
    return folder


def test_runs_of_a_folder_are_told_the_best_first(folder: Path, cammsr: Callable) -> None:
    told = {Path(one["run"]).name: one for one in json.loads(cammsr("runs", folder, "--json").out)}
    assert set(told) == {"plain", "wide", "ids"}
    figures = [one["best_ndcg"] for one in told.values()]
    assert figures == sorted(figures, reverse=True)
    wide = told["wide"]
    assert (wide["preset"], wide["finished"], wide["epochs"]) == ("cammsr", True, 2)
    assert wide["data"] == str(folder / "1.h5")
    assert wide["chosen"]["model.width"] == 24
    assert wide["changed"] == {"training.epochs": 2}
    assert told["plain"]["changed"] == {"training.epochs": 2, "training.seed": 3}
    assert told["ids"]["preset"] == "sasrec"
    files = [path for path in (folder / "wide").rglob("*") if path.is_file()]
    assert wide["bytes"] == sum(path.stat().st_size for path in files)
    lines = (folder / "wide" / "metrics.jsonl").read_text().splitlines()
    assert wide["best_ndcg"] == json.loads(lines[-1])["best_ndcg"]


def test_runs_on_different_data_do_not_compare_and_that_is_said(
    folder: Path, cammsr: Callable
) -> None:
    remark = "trained on different data sets"
    assert remark in cammsr("runs", folder).err
    answer = cammsr("runs", folder / "plain", folder / "wide")
    assert remark not in answer.err
    assert "training.seed=3" in answer.out
    assert "model.width=24" in answer.out
    assert "model.heads" not in answer.out  # alike in both


def test_a_run_that_cannot_be_read_stands_last_with_the_reason(
    folder: Path, tmp_path: Path, cammsr: Callable
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "item_ids.json").write_text("[]")
    (broken / "config.json").write_text("{")
    answer = cammsr("runs", tmp_path, folder / "plain", "--json")
    assert answer.code == 0, answer.err
    first, last = json.loads(answer.out)
    assert first["fault"] is None
    assert "config.json is damaged" in last["fault"]
    assert "config.json is damaged" in cammsr("runs", tmp_path).err


def test_a_run_in_training_is_unfinished(folder: Path, tmp_path: Path, cammsr: Callable) -> None:
    run = tmp_path / "going-on"
    run.mkdir()
    for name in ("item_ids.json", "config.json", "config.yaml"):
        (run / name).write_bytes((folder / "plain" / name).read_bytes())
    line = (folder / "plain" / "metrics.jsonl").read_text().splitlines(keepends=True)[0]
    (run / "metrics.jsonl").write_text(line + '{"epoch": 2, "ste')  # it is being written
    (one,) = json.loads(cammsr("runs", run, "--json").out)
    assert (one["finished"], one["epochs"], one["best_epoch"]) == (False, 1, 1)
    assert "1 of 1, unfinished" in cammsr("runs", run).out


def test_no_run_and_no_folder_are_told(tmp_path: Path, cammsr: Callable) -> None:
    none = cammsr("runs", tmp_path)
    assert (none.code, none.out) == (1, "")
    assert "no run is in" in none.err
    assert cammsr("runs", tmp_path / "nowhere").code == 2
