"""Whether data repeats items is learnt: a planted law of repeats is found, its absence too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_data import write_toy_data

from cammsr_cli.ranking.evaluate import evaluate
from cammsr_cli.run_folder import LoadedRun, RunFolder, load_run

CPU = torch.device("cpu")
ITEMS = 60


def _planted(path: Path) -> Path:
    """400 users; six events in ten take the item of two events ago, the others any item."""
    generator = np.random.default_rng(0)
    histories = []
    for _ in range(400):
        items = generator.integers(0, ITEMS, 12)
        for at in range(2, 12):
            if generator.random() < 0.6:
                items[at] = items[at - 2]
        histories.append(items)
    return write_toy_data(path, items=ITEMS, histories=histories)


def _trained(data: Path, out: Path, cammsr: Callable) -> LoadedRun:
    answer = cammsr(
        "train", data, "--out", out, "--set", "training.epochs=15", "--set", "model.width=16",
        "--set", "training.learning_rate=0.003", "--set", "model.dropout=0.1",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    return load_run(RunFolder(out), None, CPU)


def _biases(run: LoadedRun, most: int) -> list[float]:
    """Of items last seen 1, 2, 4, … events ago."""
    assert run.model.repeats is not None
    ages = torch.tensor([2**power for power in range(most.bit_length())])
    return run.model.repeats(ages).tolist()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, cammsr: Callable) -> LoadedRun:
    root = tmp_path_factory.mktemp("repeats")
    return _trained(_planted(root / "planted.h5"), root / "run", cammsr)


def test_the_planted_age_has_the_highest_bias(planted: LoadedRun) -> None:
    last, two, *older = _biases(planted, 8)
    assert two > 1
    assert two > max(last, *older)


def test_where_items_are_taken_again_seen_ones_are_kept_and_found(planted: LoadedRun) -> None:
    assert planted.spec.repeats
    assert planted.spec.repeat_share > 0.5
    found = evaluate(planted.data.path.parent / "run", data=None, device=CPU)
    assert not found.seen_excluded
    # Six in ten can be known, and are at the very top.
    assert found.model["Recall@5"].mean > 0.6
    assert found.popularity["Recall@5"].mean < 0.3


def test_where_nobody_takes_an_item_twice_seen_ones_fall_out(
    tmp_path: Path, cammsr: Callable
) -> None:
    data = write_toy_data(tmp_path / "never.h5", users=300, again=False)
    run = _trained(data, tmp_path / "run", cammsr)
    assert run.spec.repeat_share == 0
    assert not run.spec.repeats
    assert max(_biases(run, 8)) < -1
