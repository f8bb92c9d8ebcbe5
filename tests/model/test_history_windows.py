"""Windows cover every history exactly; padding, gaps and batches by hand and by property."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.model.history_windows import (
    ROW_AT_LEAST,
    TIME_BUCKETS,
    Events,
    cut,
    pack,
    shuffle_ties,
    shuffled_batches,
    training_windows,
)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _bounds(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    end = torch.tensor(lengths, dtype=torch.int64).cumsum(0)
    return end - torch.tensor(lengths, dtype=torch.int64), end


def test_cut_by_hand() -> None:
    events = Events(
        torch.tensor([7, 8, 9, 5, 6]), torch.tensor([10, 10, 11, 100, 100 + 1000], dtype=torch.long)
    )
    window = cut(events, torch.tensor([0, 3]), torch.tensor([3, 5]))
    assert window.item_BL.tolist() == [[7, 8, 9], [5, 6, 0]]
    # 1000 seconds: log2(1001) = 9.97, bucket 10; the padding and each first event: 0.
    assert window.gap_BL.tolist() == [[0, 0, 1], [0, 10, 0]]
    assert window.valid_BL.tolist() == [[True, True, True], [True, True, False]]
    assert window.length_B.tolist() == [3, 2]


def test_events_told_apart_within_a_second_are_no_ties() -> None:
    tied = torch.tensor([False, False, True, False, False])
    events = Events(torch.arange(5), torch.tensor([10, 10, 10, 10, 14]), tied)
    window = cut(events, torch.tensor([0, 2]), torch.tensor([5, 3]))
    assert window.gap_BL.tolist() == [[0, 1, 0, 1, 3], [0, 0, 0, 0, 0]]
    torch.manual_seed(0)
    dealt = {tuple(shuffle_ties(window).item_BL[0].tolist()) for _ in range(30)}
    assert dealt == {(0, 1, 2, 3, 4), (0, 2, 1, 3, 4)}


def test_cut_in_mid_history_knows_nothing_of_what_came_before() -> None:
    events = Events(torch.tensor([1, 2, 3]), torch.tensor([0, 5000, 5001]))
    window = cut(events, torch.tensor([1]), torch.tensor([3]))
    assert window.item_BL.tolist() == [[2, 3]]
    assert window.gap_BL.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("gap", "bucket"),
    [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 3),
        (7, 3),
        (8, 4),
        (3600, 12),
        (86400, 17),
        (2**38 - 1, 38),
        (2**38, 39),
        (2**50, TIME_BUCKETS - 1),
        (-5, 0),
    ],
)
def test_time_buckets_by_hand(gap: int, bucket: int) -> None:
    events = Events(torch.tensor([1, 2]), torch.tensor([1_000, 1_000 + gap]))
    assert cut(events, torch.tensor([0]), torch.tensor([2])).gap_BL.tolist() == [[0, bucket]]


def test_cut_of_no_history_is_all_padding() -> None:
    events = Events(torch.tensor([4]), torch.tensor([0]))
    window = cut(events, torch.tensor([1, 0]), torch.tensor([1, 1]))
    assert window.valid_BL.tolist() == [[False], [True]]
    assert window.length_B.tolist() == [0, 1]
    assert cut(events, torch.tensor([1]), torch.tensor([1])).valid_BL.tolist() == [[False]]


HISTORIES = st.lists(st.integers(0, 30), min_size=1, max_size=8)


@settings(max_examples=80, deadline=None)
@given(lengths=HISTORIES, length=st.integers(1, 9), seed=st.integers(0, 1000))
def test_every_event_but_a_users_first_is_a_target_exactly_once(lengths, length, seed) -> None:
    start_U, end_U = _bounds(lengths)
    start_W, end_W = training_windows(start_U, end_U, length, _generator(seed))
    targets = Counter(
        at + 1
        for start, end in zip(start_W.tolist(), end_W.tolist(), strict=True)
        for at in range(start, end)
    )
    owed = [
        at
        for start, end in zip(start_U.tolist(), end_U.tolist(), strict=True)
        for at in range(start + 1, end)
    ]
    assert targets == Counter(owed)
    assert all(1 <= size <= length for size in (end_W - start_W).tolist())
    # No window reaches over the border between two users: inputs and their last target are one's.
    owner = torch.repeat_interleave(torch.tensor(lengths))
    for start, end in zip(start_W.tolist(), end_W.tolist(), strict=True):
        assert owner[start] == owner[end]


@settings(max_examples=30, deadline=None)
@given(lengths=HISTORIES, length=st.integers(1, 9), seed=st.integers(0, 1000))
def test_windows_and_batches_are_the_same_for_the_same_seed(lengths, length, seed) -> None:
    def drawn() -> list[list[int]]:
        generator = _generator(seed)
        start, end = training_windows(*_bounds(lengths), length, generator)
        batches = shuffled_batches(len(end), 3, generator)
        return [start.tolist(), end.tolist(), *(batch.tolist() for batch in batches)]

    assert drawn() == drawn()


def test_short_histories_are_never_cut() -> None:
    start, end = training_windows(*_bounds([5, 6]), 5, _generator(0))
    assert list(zip(start.tolist(), end.tolist(), strict=True)) == [(0, 4), (5, 10)]


def test_where_a_long_history_is_cut_is_drawn_anew() -> None:
    generator = _generator(0)
    firsts = Counter(
        training_windows(*_bounds([40]), 5, generator)[1][0].item() for _ in range(200)
    )
    # The first window is 1 to 5 long, about equally often.
    assert set(firsts) == {1, 2, 3, 4, 5}
    assert min(firsts.values()) > 15


@settings(max_examples=50, deadline=None)
@given(number=st.integers(1, 60), batch_size=st.integers(1, 7), seed=st.integers(0, 1000))
def test_batches_partition_the_windows(number, batch_size, seed) -> None:
    batches = shuffled_batches(number, batch_size, _generator(seed))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(number))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert sum(len(batch) < batch_size for batch in batches) <= 1


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 13), min_size=1, max_size=30),
    most=st.integers(12, 40),
    even=st.integers(1, 4),
)
def test_rows_hold_every_stretch_once_in_one_piece_with_its_targets(lengths, most, even) -> None:
    start, end = _bounds(lengths)
    events = int(end[-1])
    window = cut(Events(torch.arange(events) + 1, torch.arange(events) ** 2), start, end)
    packed = pack(window, most, even)
    rows = packed.window
    assert rows.item_BL.shape == rows.position_BL.shape == packed.target_BL.shape
    assert rows.item_BL.shape[1] <= most
    assert len(rows.item_BL) % even == 0
    assert int(rows.valid_BL.sum()) == sum(lengths) - len(lengths)
    for stretch, length in enumerate(lengths):
        row, last = int(packed.row_W[stretch]), int(packed.last_W[stretch])
        at = slice(last - length + 2, last + 1)
        assert rows.position_BL[row, at].tolist() == list(range(length - 1))
        assert rows.valid_BL[row, at].all()
        assert torch.equal(rows.item_BL[row, at], window.item_BL[stretch, : length - 1])
        assert torch.equal(rows.gap_BL[row, at], window.gap_BL[stretch, : length - 1])
        assert torch.equal(packed.target_BL[row, at], window.item_BL[stretch, 1:length])
    for length, valid in zip(rows.length_B.tolist(), rows.valid_BL, strict=True):
        assert valid.tolist() == [True] * length + [False] * (len(valid) - length)
    padding = ~rows.valid_BL
    for values in (rows.item_BL, rows.gap_BL, rows.position_BL, packed.target_BL):
        assert not values[padding].any()


def test_short_stretches_share_rows() -> None:
    start, end = _bounds([3] * 100)  # of two positions each
    window = cut(Events(torch.arange(300), torch.zeros(300).long()), start, end)
    assert pack(window, 50).window.item_BL.shape == (7, ROW_AT_LEAST)
    assert pack(window, 20).window.item_BL.shape == (10, 20)


TIMES = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=9).map(sorted), min_size=1, max_size=5
)


@settings(max_examples=80, deadline=None)
@given(times=TIMES, seed=st.integers(0, 1000))
def test_ties_are_dealt_within_their_group_alone(times, seed) -> None:
    """Each group of events at one time keeps its items and its place; all else is untouched."""
    start, end = _bounds([len(row) for row in times])
    flat = torch.tensor([time for row in times for time in row])
    window = cut(Events(torch.arange(len(flat)) + 1, flat), start, end)
    torch.manual_seed(seed)
    dealt = shuffle_ties(window)
    for name in ("gap_BL", "valid_BL", "length_B"):
        assert torch.equal(getattr(dealt, name), getattr(window, name))
    assert torch.equal(dealt.item_BL[~window.valid_BL], window.item_BL[~window.valid_BL])
    for row, one in enumerate(times):
        for time in set(one):
            at = [place for place, other in enumerate(one) if other == time]
            assert sorted(dealt.item_BL[row, at].tolist()) == window.item_BL[row, at].tolist()


@settings(max_examples=30, deadline=None)
@given(lengths=HISTORIES, seed=st.integers(0, 1000))
def test_without_ties_nothing_is_dealt(lengths, seed) -> None:
    start, end = _bounds(lengths)
    steps = int(end[-1])
    window = cut(Events(torch.arange(steps + 1), torch.arange(steps + 1)), start, end)
    torch.manual_seed(seed)
    assert torch.equal(shuffle_ties(window).item_BL, window.item_BL)


def test_every_order_of_a_tie_turns_up_about_equally_often() -> None:
    events = Events(torch.arange(1, 7), torch.tensor([5, 5, 5, 7, 9, 9]))
    window = cut(events, torch.zeros(3000).long(), torch.full((3000,), 6))
    torch.manual_seed(0)
    seen = Counter(tuple(row) for row in shuffle_ties(window).item_BL.tolist())
    assert len(seen) == 12  # 3! orders of the first group, 2! of the last
    # 250 of each expected, with a standard deviation of 15.
    assert all(abs(count - 250) < 5 * 15.2 for count in seen.values()), seen


def test_ties_are_dealt_anew_at_each_call() -> None:
    window = cut(
        Events(torch.arange(40), torch.zeros(40).long()), torch.tensor([0]), torch.tensor([40])
    )
    assert not torch.equal(shuffle_ties(window).item_BL, shuffle_ties(window).item_BL)
