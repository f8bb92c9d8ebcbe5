"""Sampled softmax: a few thousand items that stand for a catalogue of millions.

Axes: M positions that have a target, N items, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The items that a step's positions are told apart from.

    Attributes:
        item_C: int64 item index, rising, each once.
        correction_C: None where they are all that could be drawn; else float, -log of the
            probability with which each item is among the candidates:
            added to the logits, it makes the sum of their exponentials an unbiased estimate of
            that over the whole catalogue (Horvitz and Thompson, 1952; "log-Q correction", Yi et
            al., RecSys 2019, equation 5).
    """

    item_C: Tensor
    correction_C: Tensor | None


def draw_candidates(
    target_M: Tensor,
    share_N: Tensor,
    number: int,
    pool_R: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Candidates:
    """At most `number` items: half from the step's own targets, half from the whole catalogue.

    Their number, and with it the cost of a step, does not grow with the catalogue or the batch.

    Args:
        target_M: int64 items that follow the step's positions.
        share_N: float, each item's share of all training targets; sums to 1.
        number: How many are drawn; some are drawn twice and count once.
        pool_R: The items that stand for the whole catalogue, int64; None if it is all.
        generator: What draws, a CPU's; torch's own if None.
    """
    popular = target_M[torch.randperm(len(target_M), generator=generator)[: number // 2]]
    uniform = number - number // 2  # with replacement; rare items are met by these alone
    of = len(share_N) if pool_R is None else len(pool_R)
    drawn = torch.randint(of, (uniform,), generator=generator)
    if pool_R is not None:
        drawn = pool_R[drawn]
    item_C = torch.unique(torch.cat([popular, drawn]))
    expected_C = len(popular) * share_N[item_C].double() + uniform / of
    probability_C = -torch.expm1(-expected_C)
    return Candidates(item_C, -probability_C.log().float())


def places(item: Tensor, item_C: Tensor) -> Tensor:
    """Place of each item, of any shape, among `item_C`, which rises; -1 where it is none."""
    place = torch.searchsorted(item_C, item).clamp(max=len(item_C) - 1)
    return torch.where(item_C[place] == item, place, -1)
