"""What users have seen already, and how it is left out of a ranking.

Axes: B users, N items, P pairs of a user and a seen item.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cammsr_cli.core.windows import Events


@dataclass(frozen=True)
class Seen:
    """What some users have seen, as pairs.

    Attributes:
        row_P: int64, rising: which of the users.
        item_P: int64 item index; an item seen twice is there twice.
    """

    row_P: Tensor
    item_P: Tensor

    def rows(self, first: int, past: int) -> Seen:
        """The pairs of the users `first` to `past`, counted from `first`."""
        bounds = torch.tensor([first, past], device=self.row_P.device)
        low, high = torch.searchsorted(self.row_P, bounds).tolist()
        return Seen(self.row_P[low:high] - first, self.item_P[low:high])

    def of(self, row_B: Tensor) -> Seen:
        """The pairs of the users `row_B`, which rise, counted by their place there."""
        kept_P = torch.isin(self.row_P, row_B)
        return Seen(torch.searchsorted(row_B, self.row_P[kept_P]), self.item_P[kept_P])


def seen_items(events: Events, start_B: Tensor, end_B: Tensor) -> Seen:
    """All items of the whole histories `[start, end)`, not only those a model reads."""
    length_B = end_B - start_B
    row_P = torch.repeat_interleave(length_B)
    first_B = length_B.cumsum(0) - length_B
    at_P = torch.arange(len(row_P), device=row_P.device) - first_B[row_P] + start_B[row_P]
    return Seen(row_P, events.item_E[at_P].long())


def hide(score_BN: Tensor, seen: Seen, first_item: int = 0) -> None:
    """Set the scores of seen items to minus infinity, in place.

    Args:
        score_BN: Scores of the items from `first_item` on.
        seen: What the users of the rows have seen.
        first_item: Index of the first column's item.
    """
    at_P = seen.item_P - first_item
    here_P = (at_P >= 0) & (at_P < score_BN.shape[1])
    score_BN[seen.row_P[here_P], at_P[here_P]] = float("-inf")


def hide_items(score_BN: Tensor, item_F: Tensor | None, first_item: int = 0) -> None:
    """Set the scores of some items to minus infinity for all users, in place; None if of none."""
    if item_F is None:
        return
    at_F = item_F - first_item
    score_BN.index_fill_(1, at_F[(at_F >= 0) & (at_F < score_BN.shape[1])], float("-inf"))
