"""Sampled softmax: who is among the candidates, and that they stand for the whole catalogue."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.model.losses import NOWHERE, catalogue_cross_entropy, sampled_cross_entropy
from cammsr_cli.model.negatives import Candidates, draw_candidates, places


@settings(max_examples=80, deadline=None)
@given(
    items=st.integers(1, 40),
    positions=st.integers(1, 30),
    number=st.integers(2, 120),
    seed=st.integers(0, 1000),
)
def test_candidates_are_no_more_than_asked_for_each_once_and_in_order(
    items, positions, number, seed
) -> None:
    torch.manual_seed(seed)
    target = torch.randint(0, items, (positions,))
    drawn = draw_candidates(target, torch.rand(items).softmax(0), number)
    item = drawn.item_C.tolist()
    assert item == sorted(set(item))
    assert set(item) <= set(range(items))
    assert 1 <= len(item) <= number
    if positions <= number // 2:
        assert set(target.tolist()) <= set(item)
    for own, one in zip(places(target, drawn.item_C).tolist(), target.tolist(), strict=True):
        assert own == (item.index(one) if one in item else -1)
    assert drawn.correction_C.shape == drawn.item_C.shape
    assert drawn.correction_C.dtype == torch.float32
    assert (drawn.correction_C >= 0).all()  # a probability is at most 1


def test_correction_by_hand() -> None:
    # 3 targets of which a share of 1/2, 1/4, ... is expected, and 8 draws from 4 items, 2 of each.
    # Half of 16 would be 8 targets, but there are 3.
    torch.manual_seed(0)
    share = torch.tensor([0.5, 0.25, 0.25, 0.0])
    drawn = draw_candidates(torch.tensor([0, 1, 2]), share, number=16)
    expected = {0: 3.5, 1: 2.75, 2: 2.75, 3: 2.0}
    for item, correction in zip(drawn.item_C.tolist(), drawn.correction_C.tolist(), strict=True):
        assert correction == pytest.approx(-math.log(1 - math.exp(-expected[item])), rel=1e-5)


def test_a_tiny_probability_is_not_rounded_away() -> None:
    torch.manual_seed(0)
    items = 10**6
    drawn = draw_candidates(torch.tensor([5]), torch.zeros(items), number=2)
    torch.testing.assert_close(
        drawn.correction_C, torch.full((len(drawn.item_C),), math.log(items))
    )


ITEMS, POSITIONS, NUMBER, DRAWS = 120, 40, 50, 4000


def _shares() -> torch.Tensor:
    """A few items make up much of the log, most hardly any."""
    share = 1 / torch.arange(1, ITEMS + 1).double()
    share[20:40] = 0  # new ones, that the log has never met
    share = share.clamp(max=0.2)
    return (share / share.sum()).float()


def _drawn_again_and_again(draws: int = DRAWS) -> list[Candidates]:
    torch.manual_seed(0)
    share = _shares()
    targets = torch.multinomial(share, draws * POSITIONS, replacement=True).view(draws, POSITIONS)
    return [draw_candidates(target, share, NUMBER) for target in targets]


def test_the_correction_is_how_rarely_an_item_is_among_the_candidates() -> None:
    count = torch.zeros(ITEMS)
    claimed = torch.zeros(ITEMS)
    for one in _drawn_again_and_again():
        count[one.item_C] += 1
        claimed[one.item_C] = torch.exp(-one.correction_C)
    assert (claimed > 0).all()
    deviation = (claimed * (1 - claimed) / DRAWS).sqrt()
    # exp(-x) for (1 - x / n)**n is an approximation: off by x**2 / 2n of what is left.
    half = NUMBER // 2
    approximate = (half * _shares() + half / ITEMS) ** 2 / (2 * half)
    assert ((count / DRAWS - claimed).abs() < 4.5 * deviation + approximate * (1 - claimed)).all()
    assert claimed.max() > 2.5 * claimed.min()  # or there would be nothing to correct


def test_the_sum_of_exponentials_is_estimated_without_bias() -> None:
    score = torch.randn(ITEMS, generator=torch.Generator().manual_seed(1)) * 1.5
    score[:5] += 2  # what is bought often scores high, as in life
    drawn = _drawn_again_and_again()
    estimates = torch.stack([(score[d.item_C] + d.correction_C).exp().sum() for d in drawn])
    naive = torch.stack([score[d.item_C].exp().sum() for d in drawn])
    exact = score.exp().sum()
    error = estimates.std() / DRAWS**0.5
    assert error < 0.01 * exact  # or the test could not fail
    assert abs(estimates.mean() - exact) < 4 * error + 0.002 * exact
    assert abs(naive.mean() - exact) > 0.2 * exact


def test_a_draw_of_everything_gives_the_full_softmax() -> None:
    torch.manual_seed(0)
    query, table = torch.randn(POSITIONS, 8), torch.randn(ITEMS, 8)
    target = torch.multinomial(_shares(), POSITIONS, replacement=True)
    drawn = draw_candidates(target, _shares(), number=50 * ITEMS)
    assert len(drawn.item_C) == ITEMS
    sampled = sampled_cross_entropy(
        query,
        table[target],
        table[drawn.item_C],
        places(target, drawn.item_C),
        drawn.correction_C,
    ).loss
    torch.testing.assert_close(sampled, catalogue_cross_entropy(query, table, target))


def test_the_loss_of_a_sample_is_about_that_of_all() -> None:
    torch.manual_seed(0)
    table, share = torch.randn(ITEMS, 8) * 0.4, _shares()
    corrected, uncorrected, exact = [], [], []
    for _ in range(150):
        query = torch.randn(POSITIONS, 8)
        target = torch.multinomial(share, POSITIONS, replacement=True)
        drawn = draw_candidates(target, share, NUMBER)
        # After the candidates one of no part, for targets that are none.
        none = torch.zeros(1)
        table_C = torch.cat([table[drawn.item_C], table[:1]])
        place = places(target, drawn.item_C)
        own = place.where(place >= 0, len(drawn.item_C))
        for losses, correction in (
            (corrected, drawn.correction_C),
            (uncorrected, torch.zeros_like(drawn.correction_C)),
        ):
            added = torch.cat([correction, none + NOWHERE])
            found = sampled_cross_entropy(query, table[target], table_C, own, added)
            losses.append(found.loss)
        exact.append(catalogue_cross_entropy(query, table, target))
    mean = torch.stack(exact).mean().item()
    # The logarithm of an estimate is low by half its relative variance: a little.
    assert torch.stack(corrected).mean().item() == pytest.approx(mean, abs=0.06)
    assert abs(torch.stack(uncorrected).mean().item() - mean) > 0.5
