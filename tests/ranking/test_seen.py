"""What users have seen: left out of a score, or biased, against a dictionary of each history."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.model.history_windows import Events
from cammsr_cli.model.repeat_bias import RepeatBias
from cammsr_cli.ranking.seen import (
    Histories,
    Seen,
    biased_items,
    hide_items,
    mark,
    seen_items,
    without,
)

ITEMS = 7


def _repeats(length: int = 8, seed: int = 0) -> RepeatBias:
    repeats = RepeatBias(length)
    with torch.no_grad():
        repeats.weight_R.normal_(generator=torch.Generator().manual_seed(seed))
    return repeats


def _events(items: list[int]) -> Events:
    return Events(torch.tensor(items, dtype=torch.int32), torch.arange(len(items)))


def _biases(history: list[int], repeats: RepeatBias) -> dict[int, float]:
    """Item to the bias of its last occurrence; 1, 2-3, 4-7 and so on events ago are alike."""
    weight = repeats.weight_R.tolist()
    last = {item: len(history) - at for at, item in enumerate(history)}
    return {i: 10 * weight[min(age.bit_length(), len(weight)) - 1] for i, age in last.items()}


def _require_same(seen: Seen, expected: list[dict[int, float]]) -> None:
    """The pairs are those of each user's dictionary, and their rows rise."""
    assert seen.bias_P is not None
    assert seen.row_P.tolist() == sorted(seen.row_P.tolist())
    pairs = list(zip(seen.row_P.tolist(), seen.item_P.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)
    found = dict(zip(pairs, seen.bias_P.tolist(), strict=True))
    wanted = {(row, i): bias for row, each in enumerate(expected) for i, bias in each.items()}
    assert found == pytest.approx(wanted)


def test_what_is_rejected_after_all_is_biased_no_more() -> None:
    repeats = _repeats()
    seen = biased_items(_events([5, 5, 2, 3]), torch.tensor([0, 3]), torch.tensor([3, 4]), repeats)
    told = without(seen, torch.tensor([0, 1]), torch.tensor([5, 6]))
    assert told is not None
    pairs = sorted(zip(told.row_P.tolist(), told.item_P.tolist(), strict=True))
    assert pairs == [(0, 2), (0, 5), (1, 3), (1, 6)]
    score_BN = torch.zeros(2, ITEMS)
    mark(score_BN, told)
    assert score_BN.isinf().nonzero().tolist() == [[0, 5], [1, 6]]


def test_each_item_is_biased_by_its_last_occurrence() -> None:
    repeats = RepeatBias(4)
    with torch.no_grad():
        repeats.weight_R.copy_(torch.tensor([0.1, 0.2, 0.3]))
    events = _events([5, 5, 2, 0, 2, 6, 5, 1, 3, 3])
    start, end = torch.tensor([0, 7, 7, 8]), torch.tensor([7, 7, 8, 10])
    seen = biased_items(events, start, end, repeats)
    # 7 events: 5 was 1 ago, 6 2, 2 3 and 0 4; nobody's; 1 alone; 3 twice, last 1 ago.
    _require_same(seen, [{5: 1, 6: 2, 2: 2, 0: 3}, {}, {1: 1}, {3: 1}])
    # What was longer ago than the model looks counts like the longest.
    old = biased_items(_events([0, *[1] * 20]), torch.tensor([0]), torch.tensor([21]), repeats)
    _require_same(old, [{0: 3, 1: 1}])


HISTORIES = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=20), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(histories=HISTORIES, length=st.integers(2, 9), seed=st.integers(0, 9))
def test_biased_items_are_those_of_each_history(histories, length: int, seed: int) -> None:
    repeats = _repeats(length, seed)
    events = _events([item for history in histories for item in history])
    end = torch.tensor([len(history) for history in histories]).cumsum(0)
    start = end - torch.tensor([len(history) for history in histories])
    expected = [_biases(history, repeats) for history in histories]
    _require_same(biased_items(events, start, end, repeats), expected)
    # Users asked about in any order, and some twice.
    again = torch.arange(len(histories)).flip(0).repeat(2)
    seen = biased_items(events, start[again], end[again], repeats)
    _require_same(seen, [expected[user] for user in again.tolist()])


@settings(max_examples=40, deadline=None)
@given(histories=HISTORIES, data=st.data())
def test_a_part_of_the_pairs_is_that_of_a_part_of_the_users(histories, data) -> None:
    repeats = _repeats()
    events = _events([item for history in histories for item in history])
    end = torch.tensor([len(history) for history in histories]).cumsum(0)
    start = end - torch.tensor([len(history) for history in histories])
    seen = biased_items(events, start, end, repeats)
    expected = [_biases(history, repeats) for history in histories]
    first = data.draw(st.integers(0, len(histories)))
    past = data.draw(st.integers(first, len(histories) + 1))
    _require_same(seen.rows(first, past), expected[first:past])
    chosen = sorted(data.draw(st.sets(st.integers(0, len(histories) - 1))))
    _require_same(seen.of(torch.tensor(chosen, dtype=torch.int64)), [expected[u] for u in chosen])


def test_histories_say_what_becomes_of_what_was_seen() -> None:
    events, repeats = _events([1, 2, 1]), _repeats()
    bounds = torch.tensor([0]), torch.tensor([3])
    hidden = Histories(events, exclude=True, repeats=repeats).seen(*bounds)
    assert hidden is not None
    assert hidden.bias_P is None
    assert hidden.item_P.tolist() == [1, 2, 1]
    biased = Histories(events, exclude=False, repeats=repeats).seen(*bounds)
    assert biased is not None
    _require_same(biased, [_biases([1, 2, 1], repeats)])
    assert Histories(events, exclude=False).seen(*bounds) is None


def test_hidden_is_the_whole_history_not_only_what_the_model_reads() -> None:
    events = _events([1, 2, 2, 5, 0])
    seen = seen_items(events, torch.tensor([0, 4]), torch.tensor([4, 4]))
    score = torch.zeros(2, 6)
    mark(score, seen)
    assert torch.isinf(score).tolist() == [[False, True, True, False, False, True], [False] * 6]


def test_seen_items_are_hidden_in_a_part_of_the_catalogue_and_of_the_users() -> None:
    events = _events([1, 2, 5, 0, 3, 4])
    seen = seen_items(events, torch.tensor([0, 3, 4]), torch.tensor([3, 4, 6]))
    score = torch.zeros(2, 3)
    mark(score, seen.rows(1, 3), first_item=3)  # the second and third user, items 3 to 5
    assert torch.isinf(score).tolist() == [[False] * 3, [True, True, False]]
    score = torch.zeros(2, 6)
    mark(score, seen.of(torch.tensor([0, 2])))
    hidden = torch.isinf(score).nonzero().tolist()
    assert hidden == [[0, 1], [0, 2], [0, 5], [1, 3], [1, 4]]
    whole = seen.rows(0, 99)
    assert torch.equal(whole.row_P, seen.row_P)
    assert torch.equal(whole.item_P, seen.item_P)


def test_a_bias_is_added_once_in_whatever_part_of_the_catalogue() -> None:
    seen = Seen(torch.tensor([0, 0, 1]), torch.tensor([1, 4, 4]), torch.tensor([0.5, -3.0, 2.0]))
    expected = torch.ones(2, 6)
    expected[[0, 0, 1], [1, 4, 4]] += torch.tensor([0.5, -3.0, 2.0])
    for cut in range(7):
        score = torch.ones(2, 6)
        mark(score[:, :cut], seen)
        mark(score[:, cut:], seen, first_item=cut)
        assert torch.equal(score, expected)
    half = torch.ones(2, 6, dtype=torch.bfloat16)
    mark(half, seen)
    torch.testing.assert_close(half.float(), expected)


def test_what_is_hidden_from_all_stays_so_whatever_its_bias() -> None:
    seen = Seen(torch.tensor([0]), torch.tensor([2]), torch.tensor([99.0]))
    for first, then in ((True, False), (False, True)):
        score = torch.zeros(1, 4)
        for hides in (first, then):
            if hides:
                hide_items(score, torch.tensor([2]))
            else:
                mark(score, seen)
        assert score.tolist() == [[0, 0, float("-inf"), 0]]


@pytest.mark.parametrize("kind", ["none", "excluded", "biased"])
def test_pairs_to_be_left_out_stand_beside_what_is_seen(kind: str) -> None:
    bias_P = torch.tensor([1.0, 2.0, 3.0]) if kind == "biased" else None
    seen = Seen(torch.tensor([0, 0, 2]), torch.tensor([4, 1, 0]), bias_P)
    ours = without(None if kind == "none" else seen, torch.tensor([0, 1]), torch.tensor([2, 3]))
    assert ours is not None
    score = torch.zeros(3, 5)
    expected = torch.zeros(3, 5)
    if kind != "none":
        mark(expected, seen)
    expected[0, 2] = expected[1, 3] = float("-inf")
    mark(score, ours)
    assert torch.equal(score, expected)
    assert (ours.row_P.diff() >= 0).all()
    nobody = torch.zeros(0, dtype=torch.long)
    assert without(seen, nobody, nobody) is seen
