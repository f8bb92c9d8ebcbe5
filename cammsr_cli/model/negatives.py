"""Sampled softmax: a few thousand candidate items instead of a catalogue of millions.

Axes: M positions that have a target, N items, C candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The candidate items of a step.

    Attributes:
        item_C: int64 item indices in ascending order, each once.
        correction_C: float, -log of the probability that each item is among the candidates; None
            if the candidates are all items of the pool. Added to the logits, it makes the sum of
            their exponentials an unbiased estimate of the sum over the whole catalogue (Horvitz
            and Thompson, 1952; "log-Q correction", Yi et al., RecSys 2019, equation 5).
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
    """Draw at most `number` items: half from the step's targets, half from the whole catalogue.

    Their number does not grow with the catalogue or the batch, and so neither does the cost of a
    step.

    Args:
        target_M: int64 items that follow the step's positions.
        share_N: float, each item's share of all training targets; sums to 1.
        number: Number of draws. Items that are drawn more than once are deduplicated.
        pool_R: int64 items to draw from instead of the whole catalogue; None for all items.
        generator: Random generator on the CPU; torch's default generator if None.
    """
    popular = target_M[torch.randperm(len(target_M), generator=generator)[: number // 2]]
    uniform = number - number // 2  # with replacement; only these can draw rare items
    of = len(share_N) if pool_R is None else len(pool_R)
    drawn = torch.randint(of, (uniform,), generator=generator)
    if pool_R is not None:
        drawn = pool_R[drawn]
    item_C = torch.unique(torch.cat([popular, drawn]))
    expected_C = len(popular) * share_N[item_C].double() + uniform / of
    probability_C = -torch.expm1(-expected_C)
    return Candidates(item_C, -probability_C.log().float())


def places(item: Tensor, item_C: Tensor) -> Tensor:
    """Index of each item, of any shape, in the ascending `item_C`; -1 if it is not there."""
    place = torch.searchsorted(item_C, item).clamp(max=len(item_C) - 1)
    return torch.where(item_C[place] == item, place, -1)
