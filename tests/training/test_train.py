"""From a data set to a run folder: settings that are left to the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from cammsr_cli.config import Config, validated
from cammsr_cli.data.splits import leave_one_out
from cammsr_cli.training.train import fitted


def _log(*lengths: int) -> SimpleNamespace:
    """The events of users with histories this long."""
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return SimpleNamespace(event_indptr=indptr, event_part=leave_one_out(indptr))


@pytest.mark.parametrize(
    ("windows", "batch_size"),
    [(1, 32), (2559, 32), (2560, 64), (5119, 64), (5120, 128), (100_000, 128)],
)
def test_batches_are_as_large_as_leaves_forty_steps_an_epoch(windows, batch_size) -> None:
    # Of 4 events 2 are for training: one input and its target.
    assert fitted(Config(), _log(*[4] * windows)).training.batch_size == batch_size


def test_users_without_a_target_make_no_window_and_long_histories_several() -> None:
    config = validated({"model": {"length": 2}})
    short = [1, 2, 3] * 5000  # none has two training events
    assert fitted(config, _log(*short)).training.batch_size == 32
    # 8 events: 6 for training, 5 targets, 3 windows of at most 2; 854 x 3 is 2562.
    assert fitted(config, _log(*short, *[8] * 853)).training.batch_size == 32
    assert fitted(config, _log(*short, *[8] * 854)).training.batch_size == 64


def test_a_batch_size_that_is_given_is_kept_and_nothing_else_is_changed() -> None:
    given = validated({"training": {"batch_size": 7, "seed": 3}})
    assert fitted(given, _log(4)) is given
    left = validated({"model": {"width": 32}, "training": {"seed": 3}})
    changed = {"batch_size": 32}
    expected = left.training.model_copy(update=changed)
    assert fitted(left, _log(4)) == left.model_copy(update={"training": expected})


def test_what_was_chosen_is_written_down(toy_data: Path, tmp_path: Path, cammsr: Callable) -> None:
    answer = cammsr("train", toy_data, "--out", tmp_path / "run", "--set", "training.epochs=1")
    assert answer.code == 0, answer.err
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["training"]["batch_size"] == 32
