"""Leave-one-out, on values worked out by hand and against its definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.data.splits import leave_one_out, repeat_share


def test_by_hand() -> None:
    counts = [1, 2, 3, 0, 5]
    part = leave_one_out(np.concatenate([[0], np.cumsum(counts)]))
    assert part.dtype == np.uint8
    assert part.tolist() == [0, 0, 2, 0, 1, 2, 0, 0, 0, 1, 2]


def test_no_users() -> None:
    assert leave_one_out(np.zeros(1, dtype=np.int64)).tolist() == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=12))
def test_definition(counts: list[int]) -> None:
    indptr = np.concatenate([[0], np.cumsum(np.array(counts, dtype=np.int64))]).astype(np.int64)
    part = leave_one_out(indptr)
    for start, count in zip(indptr, counts, strict=False):
        expected = [0] * count
        if count >= 2:
            expected[-1] = 2
        if count >= 3:
            expected[-2] = 1
        assert part[start : start + count].tolist() == expected


def _share(*histories: list[int]) -> float:
    counts = [len(history) for history in histories]
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    item = np.array([item for history in histories for item in history], dtype=np.int32)
    return repeat_share(indptr, item, leave_one_out(indptr))


def test_repeats_by_hand() -> None:
    # The last two events of each are held out; of the others all but the first are targets.
    assert _share([7, 3, 7, 7, 0, 0]) == 2 / 3
    assert _share([7, 3, 7, 7, 0, 0], [1, 2, 3, 9, 9], [7, 7, 7]) == 2 / 5
    assert _share([3, 4, 5, 3, 3], [5, 4, 3, 5, 4]) == 0  # what others took is no repeat
    assert _share([1, 1, 1]) == 0  # one training event, and no target
    assert _share([], [2]) == 0
    assert _share() == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), max_size=9), max_size=6))
def test_repeats_are_counted_as_one_by_one(histories: list[list[int]]) -> None:
    targets = again = 0
    for history in histories:
        trained = history[: {0: 0, 1: 1, 2: 1}.get(len(history), len(history) - 2)]
        for at in range(1, len(trained)):
            targets += 1
            again += trained[at] in trained[:at]
    assert _share(*histories) == (again / targets if targets else 0)
