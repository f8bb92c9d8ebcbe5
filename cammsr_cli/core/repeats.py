"""Items that are in the history already: whether this data repeats them, and after how long.

Axes: B rows, L positions, P pairs of a position and an item before it, R buckets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from cammsr_cli.core.windows import Window


class Pairs(NamedTuple):
    """Positions, and the items that are in their histories; each item once a position.

    Attributes:
        position_P: int64 number of the position among those that are valid, rising.
        item_P: int64 item.
        age_P: int64 how many events ago the item was last; 1 is the event at the position itself.
    """

    position_P: Tensor
    item_P: Tensor
    age_P: Tensor


class RepeatBias(nn.Module):
    """What is added to the score of an item that the history holds, by how long ago it was last.

    One number for each power of two of events. Where data never repeats, it falls until the item is
    out of the ranking; where it does, it learns after how long.

    Args:
        length: Longest history; what was longer ago counts like the longest.
    """

    SCALE = 10.0
    """The bias is this many times its parameter: Adam moves all parameters alike, and this one has
    a long way to go."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.weight_R = nn.Parameter(torch.zeros(length.bit_length()))

    def forward(self, age: Tensor) -> Tensor:
        """The biases of items last seen `age` events ago, int64 of any shape, at least 1."""
        bucket = torch.frexp(age.double())[1].long() - 1
        return self.SCALE * self.weight_R[bucket.clamp(max=len(self.weight_R) - 1)]


def seen_before(window: Window) -> Pairs:
    """The pairs of all valid positions with the items of their own history, their own included."""
    item_BL, valid_BL = window.item_BL, window.valid_BL
    at_L = torch.arange(item_BL.shape[1], device=item_BL.device)
    within_BL = at_L.expand_as(item_BL) if window.within_BL is None else window.within_BL
    # [B, L, J]: whether event j is in the history of position l.
    before_BLJ = (at_L[:, None] - at_L[None, :] <= within_BL[:, :, None]) & (
        at_L[:, None] >= at_L[None, :]
    )
    # The next event of j's own history with its item: later positions see the item there.
    again_BJL = item_BL[:, :, None] == item_BL[:, None, :]
    again_BJL &= at_L[None, :] > at_L[:, None]
    next_BJ = torch.where(again_BJL, at_L, len(at_L)).amin(-1)
    latest_BLJ = before_BLJ & (at_L[:, None] < next_BJ[:, None, :]) & valid_BL[:, :, None]
    row_P, l_P, j_P = latest_BLJ.nonzero(as_tuple=True)
    number_BL = valid_BL.flatten().cumsum(0).view_as(item_BL) - 1
    return Pairs(number_BL[row_P, l_P], item_BL[row_P, j_P], l_P - j_P + 1)
