"""The peers are given the events, and the held-out ones, that our own training has."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import split as peers_split
from benchmarks.peers.split import TEST, TRAIN, VALIDATION, Split
from cammsr_cli.data import splits


@pytest.fixture
def split() -> Split:
    """Users of 4, 1, 2 and 3 events; item 9 of 10 has none."""
    indptr = np.array([0, 4, 5, 7, 10])
    item = np.array([3, 1, 4, 1, 5, 2, 6, 8, 7, 0], dtype=np.int32)
    return Split(indptr, item, splits.leave_one_out(indptr), 10, "digest")


def test_numbers_of_parts_are_ours() -> None:
    assert (TRAIN, VALIDATION, TEST) == (splits.TRAIN, splits.VALIDATION, splits.TEST)


def test_round_trip(split: Split, tmp_path: Path) -> None:
    split.save(tmp_path / "split")
    loaded = peers_split.load(tmp_path / "split")
    np.testing.assert_array_equal(loaded.indptr_U, split.indptr_U)
    np.testing.assert_array_equal(loaded.item_E, split.item_E)
    np.testing.assert_array_equal(loaded.part_E, split.part_E)
    assert (loaded.users, loaded.items, loaded.content) == (4, 10, "digest")


def test_user_and_position_of_each_event(split: Split) -> None:
    assert split.event_users().tolist() == [0, 0, 0, 0, 1, 2, 2, 3, 3, 3]
    assert split.event_positions().tolist() == [0, 1, 2, 3, 0, 0, 1, 0, 1, 2]


def test_history_ends_before_what_is_held_out(split: Split) -> None:
    assert split.history_end(VALIDATION).tolist() == [2, 5, 6, 8]
    assert split.history_end(TEST).tolist() == [3, 5, 6, 9]


def test_users_asked_about(split: Split) -> None:
    users, items = split.asked(TEST)
    assert (users.tolist(), items.tolist()) == ([0, 2, 3], [1, 6, 0])
    users, items = split.asked(VALIDATION)
    assert (users.tolist(), items.tolist()) == ([0, 3], [4, 7])


def test_only_training_events_with_one_before_them_are_targets(split: Split) -> None:
    assert split.training_targets() == 1
