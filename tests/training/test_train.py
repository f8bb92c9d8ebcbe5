"""From a data set to a run folder: settings that are left to the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
import yaml
from toy_data import write_toy_data

from cammsr_cli.config import Config, validated
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import leave_one_out
from cammsr_cli.distributed import World
from cammsr_cli.run_folder import RunFolder, describe, training_items
from cammsr_cli.training.train import fitted, make_trainer, multiplies_bfloat16_fast


def _log(*lengths: int) -> SimpleNamespace:
    """The events of users with histories this long."""
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    part = leave_one_out(indptr)
    return SimpleNamespace(event_indptr=indptr, event_part=part, item_ids=["a", "b", "c"])


CPU = torch.device("cpu")


def _batch_size(config: Config, *lengths: int) -> int:
    return fitted(config, _log(*lengths), CPU).training.batch_size


@pytest.mark.parametrize(
    ("windows", "batch_size"),
    [(1, 32), (2559, 32), (2560, 64), (5119, 64), (5120, 128), (10_240, 256), (20_480, 512)],
)
def test_batches_are_as_large_as_leaves_forty_steps_an_epoch(windows, batch_size) -> None:
    # Of 4 events 2 are for training: one input and its target.
    assert _batch_size(Config(), *[4] * windows) == batch_size


@pytest.mark.parametrize(
    ("targets", "batch_size"),
    [(12, 512), (13, 256), (25, 256), (26, 128), (50, 128), (51, 64), (90, 64), (180, 64)],
)
def test_long_histories_are_taken_fewer_at_a_time(targets, batch_size) -> None:
    assert _batch_size(Config(), *[targets + 3] * 21_000) == batch_size


def test_users_without_a_target_make_no_window_and_long_histories_several() -> None:
    config = validated({"model": {"length": 2}})
    short = [1, 2, 3] * 5000  # none has two training events
    assert _batch_size(config, *short) == 32
    # 8 events: 6 for training, 5 targets, 3 windows of at most 2; 854 x 3 is 2562.
    assert _batch_size(config, *short, *[8] * 853) == 32
    assert _batch_size(config, *short, *[8] * 854) == 64


def test_what_is_given_is_kept_and_nothing_else_is_changed() -> None:
    given = validated({"training": {"batch_size": 7, "precision": "float32", "seed": 3}})
    assert fitted(given, _log(4), CPU) == given
    left = validated({"model": {"width": 32}, "training": {"seed": 3}})
    precision = "bfloat16" if multiplies_bfloat16_fast(CPU) else "float32"
    expected = left.training.model_copy(update={"batch_size": 32, "precision": precision})
    assert fitted(left, _log(4), CPU) == left.model_copy(update={"training": expected})


def test_neighbours_are_not_looked_for_in_a_catalogue_too_large_for_it() -> None:
    for above, neighbours in ((2, 0), (3, 5)):
        given = {"model": {"id_neighbours": 5}, "training": {"lazy_above": above}}
        assert fitted(validated(given), _log(4), CPU).model.id_neighbours == neighbours


@pytest.mark.parametrize(("sampled_above", "large"), [(0, True), (10**6, False)])
def test_features_are_read_by_the_step_only_where_a_step_sees_a_sample(
    toy_data: Path, sampled_above: int, large: bool
) -> None:
    data = DataSet(toy_data)
    above = {"sampled_above": sampled_above, "lazy_above": 0, "batch_size": 8}
    config = fitted(validated({"training": above}), data, CPU)
    spec = describe(data, config.model, "cammsr")
    ids = [data.item_ids[item] for item in training_items(data)]
    world = World(0, 1, CPU)
    trainer = make_trainer(RunFolder(Path()), data, config, spec, ids, world, print)
    assert (trainer.corpus.sampled, trainer.corpus.large) == (large, large)
    assert trainer.state.model.id_table.sparse == large


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_is_chosen_where_the_cpu_is_made_for_it(monkeypatch, able) -> None:
    # What this CPU says of itself, and its contrary.
    said = {**torch.cpu.get_capabilities(), "avx512_bf16": able, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: said)
    chosen = fitted(Config(), _log(4), CPU).training.precision
    assert chosen == ("bfloat16" if able else "float32")


def test_what_was_chosen_is_written_down(toy_data: Path, tmp_path: Path, cammsr: Callable) -> None:
    answer = cammsr("train", toy_data, "--out", tmp_path / "run", "--set", "training.epochs=1")
    assert answer.code == 0, answer.err
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["training"]["batch_size"] == 32


def test_vectors_that_are_not_numbers_are_refused_before_anything_is_written(
    tmp_path: Path, cammsr: Callable
) -> None:
    # As something else than `prepare` may have made them.
    data = write_toy_data(tmp_path / "odd.h5")
    with h5py.File(data, "r+") as file:
        text = file["features/text"]
        at = np.flatnonzero(text["present"][()])[[1, 4]].tolist()
        text["values"][at[0], 2] = np.nan
        text["values"][at[1]] = np.inf
        absent = int(np.flatnonzero(~text["present"][()])[0])
        text["values"][absent, 0] = np.nan  # nobody reads that
    answer = cammsr("train", data, "--out", tmp_path / "run")
    assert answer.code == 1
    assert "the text vectors of 2 of 40 items are not finite numbers" in answer.err
    assert f"the first that of item i{at[0]}" in answer.err
    assert not (tmp_path / "run").exists()


def test_a_run_is_finished_only_once_all_of_it_is_there(
    toy_data: Path, tmp_path: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def die(self: RunFolder, name: str, text: str) -> None:
        if name == "README.md":
            raise RuntimeError
        return whole(self, name, text)

    whole = RunFolder.write_text
    monkeypatch.setattr(RunFolder, "write_text", die)
    options = ("train", toy_data, "--out", run, "--set", "training.epochs=1")
    assert cammsr(*options).code != 0
    assert not RunFolder(run).finished
    monkeypatch.undo()
    answer = cammsr(*options[:4], "--resume")
    assert answer.code == 0, answer.err
    assert RunFolder(run).finished
    assert (run / "README.md").is_file()
