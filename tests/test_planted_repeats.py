"""Data in which users take items again, and data in which they never do: what is learnt of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cammsr_cli.config import validated
from cammsr_cli.data.corpus import Corpus
from cammsr_cli.data.dataset_write import write_dataset
from cammsr_cli.data.splits import TEST, leave_one_out
from cammsr_cli.distributed import World
from cammsr_cli.ranking.full_ranking import evaluation_cases, model_ranks
from cammsr_cli.ranking.metrics import per_user
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import LoadedRun, load_run
from cammsr_cli.training.train import Listener, train

CPU = torch.device("cpu")
USERS, ITEMS, EVENTS = 150, 60, 20


def _planted(generator: np.random.Generator) -> list[int]:
    """A user's few favourites; six in ten events take the item of two events ago again."""
    favourites = generator.choice(ITEMS, 8, replace=False)
    history: list[int] = []
    for at in range(EVENTS):
        again = at > 1 and generator.random() < 0.6
        history.append(history[-2] if again else int(generator.choice(favourites)))
    return history


def _never(generator: np.random.Generator) -> list[int]:
    """Six in ten events take the item after the one before; none an item that was had."""
    history = [int(generator.integers(ITEMS))]
    while len(history) < EVENTS:
        left = np.setdiff1d(np.arange(ITEMS), history)
        after = (history[-1] + 1) % ITEMS
        follows = generator.random() < 0.6 and after in left
        history.append(after if follows else int(generator.choice(left)))
    return history


def _trained(folder: Path, histories: list[list[int]]) -> LoadedRun:
    """A run on these histories, without any content."""
    indptr = np.arange(0, USERS * EVENTS + 1, EVENTS, dtype=np.int64)
    corpus = Corpus(
        user_ids=[f"u{user}" for user in range(USERS)],
        item_ids=[f"i{item}" for item in range(ITEMS)],
        fields={"title": [f"Thing {item}" for item in range(ITEMS)]},
        item_rows=list(range(ITEMS)),
        listed_rows=ITEMS,
        category_names=[],
        category_indptr=np.zeros(ITEMS + 1, dtype=np.int64),
        category_index=np.zeros(0, dtype=np.int32),
        event_indptr=indptr,
        event_item=np.array(histories, dtype=np.int32).ravel(),
        event_time=np.arange(USERS * EVENTS, dtype=np.int64) * 60,
        event_part=leave_one_out(indptr),
        sources={},
        notes=[],
    )
    write_dataset(folder / "data.h5", corpus, {})
    config = validated(
        {
            "model": {"width": 16, "layers": 1, "length": 20, "dropout": 0.1},
            "training": {
                "epochs": 20, "batch_size": 16, "learning_rate": 3e-3, "precision": "float32",
            },
        }
    )  # fmt: skip
    quiet = Listener(*[lambda _: None] * 4)
    world = World(0, 1, CPU)
    train(folder / "data.h5", folder / "run", config, preset="cammsr", world=world, listener=quiet)
    return load_run(RunFolder(folder / "run"), None, CPU)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    generator = np.random.default_rng(0)
    histories = [_planted(generator) for _ in range(USERS)]
    return _trained(tmp_path_factory.mktemp("planted"), histories)


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    generator = np.random.default_rng(1)
    histories = [_never(generator) for _ in range(USERS)]
    return _trained(tmp_path_factory.mktemp("never"), histories)


def _biases(run: LoadedRun) -> list[float]:
    """Of items last taken 1, 2 and 3, 4 to 7, 8 to 15 events ago."""
    assert run.model.repeats is not None
    return run.model.repeats(torch.tensor([1, 2, 4, 8])).tolist()


def _accuracy(run: LoadedRun, metric: str, k: int, exclude_seen: bool) -> float:
    rank = model_ranks(
        run.model, run.catalogue, run.events, evaluation_cases(run.data, TEST), exclude_seen
    )
    return float(per_user(rank, metric, k).mean())


def test_after_how_long_items_are_taken_again_is_learnt(planted: LoadedRun) -> None:
    biases = _biases(planted)
    assert max(biases) == biases[1] > 1
    assert biases[1] > 1 + max(biases[:1] + biases[2:])


def test_what_is_taken_again_is_found_where_it_stays_in_the_ranking(planted: LoadedRun) -> None:
    assert planted.spec.repeats
    for metric, k in (("Recall", 1), ("NDCG", 10)):
        kept, hidden = (
            _accuracy(planted, metric, k, exclude_seen=exclude) for exclude in (False, True)
        )
        assert kept > hidden + 0.1
        assert kept > 0.5  # six in ten are known


def test_without_repeats_what_was_seen_falls_out_of_the_ranking_by_itself(
    never: LoadedRun,
) -> None:
    assert not never.spec.repeats
    assert max(_biases(never)) < -1.5
    # With a third of the items seen, those left have their places either way.
    kept, hidden = (
        _accuracy(never, "Recall", 20, exclude_seen=exclude) for exclude in (False, True)
    )
    assert kept == pytest.approx(hidden, abs=0.02)
