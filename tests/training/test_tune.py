"""A search for settings: it finds, goes on, gives up, and says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import yaml
from toy_data import write_toy_data

from cammsr_cli.errors import UsageError
from cammsr_cli.training.tune import Range

SMALL = ["--set", "model.width=16", "--set", "model.layers=1", "--set", "training.epochs=3"]
SEARCH = ["--search", "training.learning_rate=0.000001..0.01", "--search", "model.length=4,8"]


def test_a_search_finds_goes_on_and_gives_settings_to_train_with(
    toy_data: Path, tmp_path: Path, cammsr: Callable
) -> None:
    out = tmp_path / "my search"
    arguments = ["tune", toy_data, "--out", out, *SMALL, *SEARCH, "--json"]
    answer = cammsr(*arguments, "--trials", "3")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert [one["state"] for one in found["trials"]] == ["done"] * 3
    figures = [one["ndcg"] for one in found["trials"]]
    assert figures == sorted(figures, reverse=True)
    assert found["best"] == found["trials"][0]
    for one in found["trials"]:
        assert set(one["settings"]) == {"training.learning_rate", "model.length"}
        assert 1e-6 <= one["settings"]["training.learning_rate"] <= 0.01
        assert one["settings"]["model.length"] in (4, 8)

    # It goes on: one trial more, the others are known.
    again = json.loads(cammsr(*arguments, "--trials", "4").out)
    assert len(again["trials"]) == 4
    assert [t for t in again["trials"] if t["number"] < 3] == found["trials"]
    # Nothing is left to do.
    assert json.loads(cammsr(*arguments, "--trials", "4").out) == again

    # The best run alone is kept, and its settings are those of the best trial.
    best = again["best"]
    assert {path.name for path in out.iterdir()} == {
        "trials.log",
        "best.yaml",
        f"trial-{best['number']}",
    }
    settings = yaml.safe_load((out / "best.yaml").read_text())
    assert settings["model"]["length"] == best["settings"]["model.length"]
    assert settings["training"]["learning_rate"] == best["settings"]["training.learning_rate"]
    assert settings["model"]["width"] == 16
    trained = cammsr("train", toy_data, "--out", tmp_path / "run", "--config", again["settings"])
    assert trained.code == 0, trained.err
    assert f"{best['ndcg']:.4f}" in trained.out


def test_a_trial_that_was_killed_is_counted_as_failed(
    toy_data: Path, tmp_path: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["tune", toy_data, "--out", tmp_path / "search", *SMALL, *SEARCH, "--json"]
    with monkeypatch.context() as patch:
        patch.setattr("cammsr_cli.training.tune.train", _interrupted)
        assert cammsr(*arguments, "--trials", "1").code == 130
    found = json.loads(cammsr(*arguments, "--trials", "1").out)
    assert [one["state"] for one in found["trials"]] == ["done", "failed"]


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_training_worse_than_most_is_given_up(
    toy_data: Path, tmp_path: Path, cammsr: Callable
) -> None:
    """After five good trainings, one that learns nothing."""
    out = tmp_path / "search"
    out.mkdir()
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(out / "trials.log"))
    )
    study = optuna.create_study(study_name="cammsr", storage=storage, direction="maximize")
    for rate in [0.0101] * 5 + [1e-9]:
        study.enqueue_trial({"training.learning_rate": rate})
    answer = cammsr(
        "tune", toy_data, "--out", out, *SMALL, "--set", "training.epochs=12", "--json",
        "--search", "training.learning_rate=0.0101,0.000000001", "--trials", "6",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert len(study.trials[0].intermediate_values) == 12
    last = json.loads(answer.out)["trials"][-1]
    assert (last["number"], last["state"], last["ndcg"]) == (5, "given up", None)
    assert "given up" in answer.err


def test_a_search_that_goes_on_tries_other_values(
    toy_data: Path, tmp_path: Path, cammsr: Callable
) -> None:
    given = ["tune", toy_data, "--out", tmp_path / "search", *SMALL, "--set", "training.epochs=1"]
    given += ["--search", "training.learning_rate=0.0001..0.01", "--json", "--trials"]
    for trials in (1, 2, 3):
        answer = cammsr(*given, trials)
        assert answer.code == 0, answer.err
    rates = [one["settings"]["training.learning_rate"] for one in json.loads(answer.out)["trials"]]
    assert len(set(rates)) == 3


def test_a_training_that_fails_ends_no_search(
    toy_data: Path, tmp_path: Path, cammsr: Callable
) -> None:
    out = tmp_path / "search"
    given = ["tune", toy_data, *SMALL, "--set", "training.clip_norm=1000000000"]
    diverging = ["--search", "training.learning_rate=100000.0,1000000.0"]
    answer = cammsr(*given, "--out", out, *diverging, "--trials", "2", "--json")
    assert answer.code == 1
    assert "trial 1: failed: " in answer.err
    assert "diverged" in answer.err
    assert "Search other values" in answer.err
    mixed = ["--search", "training.learning_rate=0.001,1000000.0"]
    found = cammsr(*given, "--out", tmp_path / "other", *mixed, "--trials", "8", "--json")
    assert found.code == 0, found.err
    states = {one["state"] for one in json.loads(found.out)["trials"]}
    assert states == {"done", "failed"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--search", "model.length=4,9", *SEARCH[:2]], "is over other values"),
        ([*SEARCH, "--set", "training.epochs=4"], "was begun with other settings"),
        ([*SEARCH, "--preset", "sasrec"], "was begun with other settings"),
    ],
)
def test_trials_that_cannot_be_compared_do_not_share_a_search(
    toy_data: Path, tmp_path: Path, cammsr: Callable, more: list[str], said: str
) -> None:
    given = ["tune", toy_data, "--out", tmp_path / "search", *SMALL]
    assert cammsr(*given, *SEARCH, "--trials", "1").code == 0
    log = (tmp_path / "search" / "trials.log").read_bytes()
    answer = cammsr(*given, *more, "--trials", "2")
    assert answer.code == 1
    assert said in answer.err
    assert (tmp_path / "search" / "trials.log").read_bytes().startswith(log)


def test_lists_are_searched_too(toy_data: Path, tmp_path: Path, cammsr: Callable) -> None:
    answer = cammsr(
        "tune", toy_data, "--out", tmp_path / "search", *SMALL, "--set", "training.epochs=1",
        "--search", "model.modalities=[text, image],[text]", "--trials", "4", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    tried = {one["settings"]["model.modalities"] for one in json.loads(answer.out)["trials"]}
    assert tried <= {"[text, image]", "[text]"}
    assert "Warning" not in answer.err


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("model.widht=1..2", "did you mean model.width?"),
        ("nothing", "there is no setting"),
        ("model.dropout=0.6..0.1", "low..high"),
        ("model.dropout=a..b", "low..high"),
        ("model.dropout=0.3", "two values"),
        ("model.dropout=", "two values"),
        ("model.length=[..5", "low..high"),
        ("model.modalities=[text,image", "cannot search"),
    ],
)
def test_a_search_that_cannot_be_is_refused(search: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Range.parse(search)


def test_values_are_read_as_settings_are() -> None:
    assert Range.parse("training.learning_rate=1e-4..1e-2") == Range(
        "training.learning_rate", 1e-4, 1e-2
    )
    assert Range.parse("model.input_norm=dyt,layernorm").choices == ("dyt", "layernorm")
    assert Range.parse("model.time_gaps=true,false").choices == (True, False)
    assert Range.parse("model.width=32,64").choices == (32, 64)
    assert Range.parse("model.modalities=[a,b],[a]").choices == ("[a, b]", "[a]")
    assert Range.parse("model.modalities=[a],null").choices == ("[a]", "null")


def test_wrong_usage_is_told_and_nothing_is_lost(
    toy_data: Path, tmp_path: Path, cammsr: Callable
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    answer = cammsr("tune", toy_data, "--out", mine)
    assert answer.code == 2
    assert "holds no search" in answer.err
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]

    # A value outside a setting's bounds is found before anything is trained.
    answer = cammsr(
        "tune", toy_data, "--out", tmp_path / "new", "--search", "model.dropout=-1.0..0.5"
    )
    assert answer.code == 2
    assert "model.dropout" in answer.err
    answer = cammsr("tune", toy_data, "--out", tmp_path / "new", "--search", "model.width=7,16,32")
    assert answer.code == 2
    assert "model.width" in answer.err
    assert not (tmp_path / "new").exists()

    search = ["--out", tmp_path / "search", "--trials", "1", *SMALL, *SEARCH]
    assert cammsr("tune", toy_data, *search).code == 0
    other = write_toy_data(tmp_path / "other.h5", seed=5)
    answer = cammsr("tune", other, *search)
    assert answer.code == 1
    assert "of another data set" in answer.err
