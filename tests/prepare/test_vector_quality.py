"""What is told of vectors, so that a bad encoder is seen: planted ones, good and bad."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cammsr_cli.prepare.vector_quality import Look, look_at


def labelled(items: int, categories: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """One category an item, in turn."""
    return np.arange(items + 1), (np.arange(items) % categories).astype(np.int32)


def test_vectors_that_follow_the_categories() -> None:
    chance = np.random.default_rng(1)
    indptr, index = labelled(400, 4)
    values = (np.eye(4)[index] * 5 + chance.normal(size=(400, 4))).astype(np.float16)
    look = look_at(values, np.ones(400, bool), indptr, index)
    assert look is not None
    assert look.alike == 0
    assert look.neighbours is not None
    assert look.neighbours > 0.9
    assert look.chance == pytest.approx(99 / 399)


def test_vectors_that_know_nothing() -> None:
    chance = np.random.default_rng(1)
    indptr, index = labelled(3_000, 3)
    look = look_at(chance.normal(size=(3_000, 8)), np.ones(3_000, bool), indptr, index)
    assert look is not None
    assert look.neighbours == pytest.approx(1 / 3, abs=0.03)
    assert look.chance == pytest.approx(1 / 3, abs=0.01)


def test_equal_vectors_are_counted_among_items_that_have_one() -> None:
    values = np.zeros((6, 2), np.float32)
    values[[0, 1, 2]] = [[1, 2], [3, 4], [1, 2]]
    present = np.array([True, True, True, False, False, False])
    nothing = np.zeros(7, np.int64), np.zeros(0, np.int32)
    assert look_at(values, present, *nothing) == Look(3, 2, None, None)
    assert str(look_at(values, present, *nothing)) == "2 of 3 items (67%) have another's vector"
    assert look_at(values, ~present & False, *nothing) is None


def test_items_of_several_categories_share_one() -> None:
    # Items 0 to 10 have category 0 and one of their own, 11 to 21 another of their own.
    index = [category for item in range(11) for category in (0, item + 1)] + list(range(12, 23))
    indptr = np.cumsum([0, *[2] * 11, *[1] * 11])
    values = np.repeat(np.eye(2, dtype=np.float32), 11, axis=0)
    look = look_at(values, np.ones(22, bool), indptr, np.array(index, np.int32))
    assert look is not None
    assert look.neighbours == pytest.approx(0.5)
    assert look.chance == pytest.approx(11 * 10 / (22 * 21))
    assert look.alike == 22


def test_more_items_than_are_drawn_and_read_in_pieces() -> None:
    indptr, index = labelled(30_000, 2)
    values = np.tile(np.eye(300, dtype=np.float32), (100, 1))
    look = look_at(values, np.arange(30_000) != 7, indptr, index)
    assert look is not None
    assert (look.present, look.alike) == (29_999, 29_999)
    again = look_at(values, np.arange(30_000) != 7, indptr, index)
    assert look == again
