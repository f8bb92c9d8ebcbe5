"""Seen items of users, which a ranking excludes or gives a bias.

Axes: B users, N items, P pairs of a user and a seen item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.model.history_windows import Events
from cammsr_cli.model.repeat_bias import RepeatBias


@dataclass(frozen=True)
class Seen:
    """Seen items of some users, as pairs of user and item.

    Attributes:
        row_P: int64 row of the user, in ascending order.
        item_P: int64 item index.
        bias_P: Bias added to the score of each pair; the pairs are then unique. None if seen items
            are excluded from the ranking.
    """

    row_P: Tensor
    item_P: Tensor
    bias_P: Tensor | None = None

    def rows(self, first: int, past: int) -> Seen:
        """The pairs of the rows `[first, past)`, with rows counted from `first`."""
        bounds = torch.tensor([first, past], device=self.row_P.device)
        low, high = torch.searchsorted(self.row_P, bounds).tolist()
        bias_P = None if self.bias_P is None else self.bias_P[low:high]
        return Seen(self.row_P[low:high] - first, self.item_P[low:high], bias_P)

    def of(self, row_B: Tensor) -> Seen:
        """The pairs of the rows `row_B`, in ascending order, renumbered by index in `row_B`."""
        kept_P = torch.isin(self.row_P, row_B)
        bias_P = None if self.bias_P is None else self.bias_P[kept_P]
        return Seen(torch.searchsorted(row_B, self.row_P[kept_P]), self.item_P[kept_P], bias_P)


@dataclass(frozen=True)
class Histories:
    """Seen items of users, and how a ranking treats them.

    Attributes:
        events: All events.
        exclude: Whether seen items are excluded.
        repeats: The model's bias for items of the history, if they are not excluded.
        rejections: Items that users rejected; they are excluded from then on.
    """

    events: Events
    exclude: bool
    repeats: RepeatBias | None = None
    rejections: Rejections | None = None

    def seen(self, start_B: Tensor, end_B: Tensor) -> Seen | None:
        """Seen items of the full histories `[start, end)`; None if they need no treatment."""
        seen = None
        if self.exclude:
            seen = seen_items(self.events, start_B, end_B)
        elif self.repeats is not None:
            seen = biased_items(self.events, start_B, end_B, self.repeats)
        if self.rejections is None:
            return seen
        return without(seen, *self.rejections.until(start_B, end_B))


@dataclass(frozen=True)
class Rejections:
    """Rejected items with the time of rejection; J pairs of a user and an item.

    Attributes:
        start_J: int64 first event of the user, in ascending order.
        item_J: int64 item index.
        before_J: int64 event before which it was rejected, or one past the user's last event.
    """

    start_J: Tensor
    item_J: Tensor
    before_J: Tensor

    def until(self, start_B: Tensor, end_B: Tensor) -> tuple[Tensor, Tensor]:
        """Row and item of each rejection before event `end`, for users with first event `start`."""
        start_J = self.start_J.to(start_B.device)
        low_B = torch.searchsorted(start_J, start_B)
        row_Q, at_Q = _places(low_B, torch.searchsorted(start_J, start_B, right=True))
        known_Q = self.before_J.to(start_B.device)[at_Q] <= end_B[row_Q]
        return row_Q[known_Q], self.item_J.to(start_B.device)[at_Q][known_Q]


def rejections(data: DataSet) -> Rejections | None:
    """Rejected items of all users of a data set, on the host; None if there are none."""
    row, item, place = data.rejected(np.arange(len(data.event_indptr) - 1))
    if not len(row):
        return None
    start = data.event_indptr[row]
    return Rejections(*map(torch.from_numpy, (start, item, start + place)))


def seen_items(events: Events, start_B: Tensor, end_B: Tensor) -> Seen:
    """All items of the full histories `[start, end)`, not only those that the model reads."""
    row_P, at_P = _places(start_B, end_B)
    return Seen(row_P, events.item_E[at_P].long())


@torch.inference_mode()
def biased_items(events: Events, start_B: Tensor, end_B: Tensor, repeats: RepeatBias) -> Seen:
    """The items of the histories, deduplicated, with the bias of their last occurrence."""
    row_P, at_P = _places(start_B, end_B)
    item_P = events.item_E[at_P].long()
    age_P = end_B[row_P] - at_P
    items = int(item_P.max()) + 1 if len(item_P) else 1
    pair_Q, which_P = torch.unique(row_P * items + item_P, return_inverse=True)
    age_Q = torch.full_like(pair_Q, 2**62).scatter_reduce(0, which_P, age_P, "amin")
    row_Q = torch.div(pair_Q, items, rounding_mode="floor")
    return Seen(row_Q, pair_Q - row_Q * items, repeats(age_Q))


def without(seen: Seen | None, row_Q: Tensor, item_Q: Tensor) -> Seen | None:
    """Add pairs of users and items that are excluded, such as rejections, to the seen items.

    Args:
        seen: Seen items of the users; None for none.
        row_Q: int64 row of the user of each pair, in ascending order.
        item_Q: int64 item index of each pair.
    """
    if not len(row_Q):
        return seen
    if seen is None:
        return Seen(row_Q, item_Q)
    if seen.bias_P is not None:  # then pairs must be unique
        items = 1 + int(torch.cat([seen.item_P, item_Q]).max())
        pair_P = seen.row_P * items + seen.item_P
        other_P = ~torch.isin(pair_P, row_Q * items + item_Q)
        seen = Seen(seen.row_P[other_P], seen.item_P[other_P], seen.bias_P[other_P])
    row_P, order_P = torch.cat([seen.row_P, row_Q]).sort(stable=True)
    item_P = torch.cat([seen.item_P, item_Q])[order_P]
    if seen.bias_P is None:
        return Seen(row_P, item_P)
    never_Q = seen.bias_P.new_full((len(row_Q),), float("-inf"))
    return Seen(row_P, item_P, torch.cat([seen.bias_P, never_Q])[order_P])


def _places(start_B: Tensor, end_B: Tensor) -> tuple[Tensor, Tensor]:
    """Row and index of every event of the ranges `[start, end)`."""
    length_B = end_B - start_B
    row_P = torch.repeat_interleave(length_B)
    first_B = length_B.cumsum(0) - length_B
    at_P = torch.arange(len(row_P), device=row_P.device) - first_B[row_P] + start_B[row_P]
    return row_P, at_P


def mark(score_BN: Tensor, seen: Seen, first_item: int = 0) -> None:
    """Set the scores of seen items to minus infinity, or add their bias, in place.

    Args:
        score_BN: Scores of the items from `first_item` on.
        seen: Seen items of the users of the rows.
        first_item: Index of the first column's item.
    """
    at_P = seen.item_P - first_item
    here_P = (at_P >= 0) & (at_P < score_BN.shape[1])
    row_P, at_P = seen.row_P[here_P], at_P[here_P]
    if seen.bias_P is None:
        score_BN[row_P, at_P] = float("-inf")
    else:
        score_BN[row_P, at_P] += seen.bias_P[here_P].to(score_BN.dtype)


def hide_items(score_BN: Tensor, item_F: Tensor | None, first_item: int = 0) -> None:
    """Set the scores of some items to minus infinity for all users, in place; None for no items."""
    _fill(score_BN, item_F, float("-inf"), first_item)


def put_last(score_BN: Tensor, item_F: Tensor | None) -> None:
    """Set the scores of some items below all others but above excluded ones, in place."""
    _fill(score_BN, item_F, torch.finfo(score_BN.dtype).min)


def _fill(score_BN: Tensor, item_F: Tensor | None, score: float, first_item: int = 0) -> None:
    if item_F is None:
        return
    at_F = item_F - first_item
    score_BN.index_fill_(1, at_F[(at_F >= 0) & (at_F < score_BN.shape[1])], score)
