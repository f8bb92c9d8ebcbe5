"""Leave-one-out, on values worked out by hand and against its definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.data.splits import leave_one_out


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
