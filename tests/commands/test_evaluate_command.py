"""`cammsr evaluate` as it is typed: what it says of data that is not what was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_data import write_toy_data

ONE_EPOCH = ["--set", "training.epochs=1", "--set", "model.width=16"]


@pytest.fixture
def run(tmp_path: Path, cammsr: Callable) -> Path:
    data = write_toy_data(tmp_path / "toy.h5")
    assert cammsr("train", data, "--out", tmp_path / "run", *ONE_EPOCH).code == 0
    return tmp_path / "run"


def test_figures_of_changed_data_are_told_to_be_too_good_perhaps(
    run: Path, tmp_path: Path, cammsr: Callable
) -> None:
    assert json.loads(cammsr("evaluate", run, "--json").out)["remarks"] == []
    write_toy_data(tmp_path / "toy.h5", users=50)
    answer = cammsr("evaluate", run, "--json")
    assert answer.code == 0, answer.err
    (remark,) = json.loads(answer.out)["remarks"]
    assert "may be among what it learnt from" in remark
    assert remark in answer.err
    assert "has changed since" in cammsr("recommend", run, "--user", "u1").err


@pytest.mark.parametrize("again", [True, False])
def test_seen_items_are_ranked_where_the_data_repeats_them_and_a_flag_wins(
    tmp_path: Path, cammsr: Callable, again: bool
) -> None:
    data, run = write_toy_data(tmp_path / "toy.h5", again=again), tmp_path / "run"
    assert cammsr("train", data, "--out", run, *ONE_EPOCH).code == 0
    chosen, kept, hidden = (
        json.loads(cammsr("evaluate", run, "--json", *flag).out)
        for flag in ((), ("--keep-seen",), ("--exclude-seen",))
    )
    assert (kept["seen_excluded"], hidden["seen_excluded"]) == (False, True)
    assert chosen == (kept if again else hidden)
    for whose in ("model", "popularity"):
        assert kept[whose] != hidden[whose]
    told = f"seen items {'kept' if again else 'excluded'}"
    assert told in cammsr("evaluate", run).out
    # Whatever the data says, two runs are compared alike.
    against = json.loads(cammsr("evaluate", run, "--against", run, "--json").out)
    assert against["seen_excluded"] != again
    assert all(one["mean"] == 0 for one in against["against"][str(run)].values())


def test_runs_trained_on_two_states_of_a_file_are_not_compared(
    run: Path, tmp_path: Path, cammsr: Callable
) -> None:
    data = write_toy_data(tmp_path / "toy.h5", users=50)
    assert cammsr("train", data, "--out", tmp_path / "later", *ONE_EPOCH).code == 0
    answer = cammsr("evaluate", run, "--against", tmp_path / "later")
    assert answer.code == 2
    assert "two states of one" in answer.err
    assert not answer.out


def test_a_name_is_no_markup(
    run: Path, tmp_path: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x[").mkdir()
    run.rename(tmp_path / "x[" / "bold]")
    monkeypatch.chdir(tmp_path)
    answer = cammsr("evaluate", "x[/bold]")
    assert answer.code == 0, answer.err
    assert "x[/bold]" in answer.out


def _shop(folder: Path, items: int, values: int = 4, title: str = "title") -> list[str]:
    """Files of a shop whose items have vectors of their own, and how they are prepared."""
    folder.mkdir()
    rows = [
        f"u{user},i{(3 * user + step) % 12},{step}\n" for user in range(20) for step in range(6)
    ]
    (folder / "interactions.csv").write_text("user,item,timestamp\n" + "".join(rows))
    names = [f"i{item}" for item in range(items)]
    (folder / "items.csv").write_text("item,title\n" + "".join(f"{n},{title}\n" for n in names))
    drawn = np.random.default_rng(0).normal(size=(items, values)).round(3).tolist()
    heads = ",".join(f"v{at}" for at in range(values))
    lines = [f"{name},{','.join(map(str, row))}" for name, row in zip(names, drawn, strict=True)]
    (folder / "vectors.csv").write_text(f"item,{heads}\n" + "\n".join(lines) + "\n")
    out = folder.with_suffix(".h5")
    return ["prepare", str(folder), "--out", str(out), "--features", f"text={folder}/vectors.csv"]


def test_a_newer_file_of_ready_made_vectors_is_welcome_if_it_is_of_the_same_size(
    tmp_path: Path, cammsr: Callable
) -> None:
    for name, items, values in (("shop", 12, 4), ("newer", 14, 4), ("wider", 14, 5)):
        answer = cammsr(*_shop(tmp_path / name, items, values))
        assert answer.code == 0, answer.err
    run = tmp_path / "run"
    assert cammsr("train", tmp_path / "shop.h5", "--out", run, *ONE_EPOCH).code == 0
    asked = ["recommend", run, "--user", "u1", "-k", "14", "--json", "--data"]
    same = cammsr(*asked, tmp_path / "shop.h5")
    assert "vectors" not in same.err
    newer = cammsr(*asked, tmp_path / "newer.h5")
    assert newer.code == 0, newer.err
    assert "cannot tell whether the same model made them" in newer.err
    items = {one["item"] for one in json.loads(newer.out)[0]["recommendations"]}
    assert {"i12", "i13"} <= items
    wider = cammsr(*asked, tmp_path / "wider.h5")
    assert wider.code == 1
    assert "its text vectors have 4 values" in wider.err


def test_a_closer_look_and_several_other_runs(run: Path, tmp_path: Path, cammsr: Callable) -> None:
    other = tmp_path / "other"
    assert cammsr("train", tmp_path / "toy.h5", "--out", other, *ONE_EPOCH, "--seed", "1").code == 0
    answer = cammsr("evaluate", run, "--details", "--against", run, "--against", other, "--json")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert list(told["against"]) == [str(run), str(other)]
    parts = {"slices", "lists", "worth", "faithfulness", "weights", "experts"}
    assert set(told["details"]) == parts
    assert set(told["details"]["worth"]) == {"image", "text"}
    shown = cammsr("evaluate", run, "--details", "--against", other)
    assert shown.code == 0, shown.err
    for words in (
        "slices of the held-out events",
        "Gini",
        "what each modality is worth",
        "what lifts",
    ):
        assert words in shown.out
    assert json.loads(cammsr("evaluate", run, "--json").out)["details"] is None


@pytest.mark.parametrize("name", ["ranks.csv", "ranks.parquet", "ranks 1.jsonl"])
def test_ranks_of_each_user_are_written(
    run: Path, tmp_path: Path, cammsr: Callable, name: str
) -> None:
    file = tmp_path / name
    answer = cammsr("evaluate", run, "--per-user", file, "--json")
    assert answer.code == 0, answer.err
    read = {".csv": pl.read_csv, ".parquet": pl.read_parquet, ".jsonl": pl.read_ndjson}
    frame = read[file.suffix](file)
    told = json.loads(answer.out)
    assert frame.height == told["users"]
    assert (frame["rank"] <= 10).mean() == pytest.approx(told["model"]["Recall@10"]["mean"])
    lists = frame["recommended"]
    lists = lists.str.split("|") if file.suffix == ".csv" else lists
    for item, rank, listed in zip(frame["item"], frame["rank"], lists, strict=True):
        if rank <= 10 and told["seen_excluded"] is False:
            assert item in listed
    again = cammsr("evaluate", run, "--per-user", file)
    assert again.code == 2
    assert "is there already" in again.err
    assert cammsr("evaluate", run, "--per-user", file, "--force").code == 0


def test_a_kind_of_file_that_cannot_be_written_is_refused(
    run: Path, tmp_path: Path, cammsr: Callable
) -> None:
    answer = cammsr("evaluate", run, "--per-user", tmp_path / "ranks.xlsx")
    assert answer.code == 2
    assert ".parquet, .jsonl, .csv" in answer.err
