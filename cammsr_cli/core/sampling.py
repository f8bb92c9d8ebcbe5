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
        correction_C: float, -log of the probability with which each item is among the candidates:
            added to the logits, it makes the sum of their exponentials an unbiased estimate of
            that over the whole catalogue (Horvitz and Thompson, 1952; "log-Q correction", Yi et
            al., RecSys 2019, equation 5).
        own_M: int64 place of each position's target among the candidates; -1 where it is none.
    """

    item_C: Tensor
    correction_C: Tensor
    own_M: Tensor


def draw_candidates(target_M: Tensor, share_N: Tensor, number: int) -> Candidates:
    """At most `number` items: half from the step's own targets, half from the whole catalogue.

    Their number, and with it the cost of a step, does not grow with the catalogue or the batch.

    Args:
        target_M: int64 items that follow the step's positions.
        share_N: float, each item's share of all training targets; sums to 1.
        number: How many are drawn; some are drawn twice and count once.
    """
    device = target_M.device
    popular = target_M[torch.randperm(len(target_M), device=device)[: number // 2]]
    uniform = number - number // 2  # with replacement; rare items are met by these alone
    drawn = torch.randint(len(share_N), (uniform,), device=device)
    item_C = torch.unique(torch.cat([popular, drawn]))
    expected_C = len(popular) * share_N[item_C].double() + uniform / len(share_N)
    probability_C = -torch.expm1(-expected_C)
    place_M = torch.searchsorted(item_C, target_M).clamp(max=len(item_C) - 1)
    own_M = torch.where(item_C[place_M] == target_M, place_M, -1)
    return Candidates(item_C, -probability_C.log().float(), own_M)
