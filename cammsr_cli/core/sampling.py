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
        item_C: int64 item index, rising, each once; all targets of the step are among them.
        correction_C: float, -log of the probability with which each item is among the candidates:
            added to the logits, it makes the sum of their exponentials an unbiased estimate of
            that over the whole catalogue (Horvitz and Thompson, 1952; "log-Q correction", Yi et
            al., RecSys 2019, equation 5).
        own_M: int64 place of each position's target among the candidates.
    """

    item_C: Tensor
    correction_C: Tensor
    own_M: Tensor


def draw_candidates(target_M: Tensor, share_N: Tensor, uniform: int) -> Candidates:
    """The step's own targets and `uniform` items drawn from the whole catalogue with replacement.

    Args:
        target_M: int64 items that follow the step's positions.
        share_N: float, each item's share of all training targets; sums to 1.
        uniform: Items drawn evenly; rare items are met by these alone.
    """
    drawn = torch.randint(len(share_N), (uniform,), device=target_M.device)
    item_C, place = torch.unique(torch.cat([target_M, drawn]), return_inverse=True)
    expected_C = len(target_M) * share_N[item_C].double() + uniform / len(share_N)
    probability_C = -torch.expm1(-expected_C)
    return Candidates(item_C, -probability_C.log().float(), place[: len(target_M)])
