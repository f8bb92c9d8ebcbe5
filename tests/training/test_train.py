"""From a data set to a run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from altered import altered
from toy_data import write_toy_data

from cammsr_cli.config import validated
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.distributed import World
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.spec import describe, training_items
from cammsr_cli.training.sizing import fitted
from cammsr_cli.training.train import make_trainer

CPU = torch.device("cpu")


@pytest.mark.parametrize(("sampled_softmax_above", "large"), [(0, True), (10**6, False)])
def test_features_are_read_by_the_step_only_where_a_step_sees_a_sample(
    toy_data: Path, sampled_softmax_above: int, large: bool
) -> None:
    data = DataSet(toy_data)
    above = {
        "sampled_softmax_above": sampled_softmax_above,
        "sparse_adam_above": 0,
        "batch_size": 8,
    }
    config, _ = fitted(validated({"training": above}), data, CPU)
    spec = describe(data, config.model, "cammsr")
    ids = [data.item_ids[item] for item in training_items(data)]
    world = World(0, 1, CPU)
    trainer = make_trainer(RunFolder(Path()), data, config, spec, ids, world, print)
    assert (trainer.corpus.sampled, trainer.corpus.large) == (large, large)
    assert trainer.state.model.items.id_table.sparse == large


def test_what_was_chosen_is_written_down(toy_data: Path, tmp_path: Path, cammsr: Callable) -> None:
    answer = cammsr("train", toy_data, "--out", tmp_path / "run", "--set", "training.epochs=1")
    assert answer.code == 0, answer.err
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["training"]["batch_size"] == 32
    assert None not in [value for name, value in written["model"].items() if name != "modalities"]
    (told,) = [line for line in answer.err.splitlines() if "chosen for this data" in line]
    for name in ("length", "dropout", "width"):
        assert f"{name} {written['model'][name]}" in told


def test_vectors_that_are_not_numbers_are_refused_before_anything_is_written(
    tmp_path: Path, cammsr: Callable
) -> None:
    # As something else than `prepare` may have made them.
    data = write_toy_data(tmp_path / "odd.h5")
    with altered(data) as file:
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
