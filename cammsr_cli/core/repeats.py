"""Items that are in the history already: whether this data repeats them, and after how long.

Axes: B rows, L positions, J the events of a row, R buckets of age, K scores, X = B L.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.core.losses import NOWHERE
from cammsr_cli.core.windows import Window


class LastSeen(NamedTuple):
    """What each position of some rows has in its history, its own event included.

    Attributes:
        until_BJ: int64 first position of the row to which an event is not the last of its item: the
            item's next event in that history, or the history's end; 0 in the padding.
        age_BL: int64 how many events ago the position's target was last; 1 is the event at the
            position itself, 0 never.
        told_BJ: float, what is added to the logit of each event's item where targets are told from
            it, and `NOWHERE` where they are not; None for nothing.
    """

    until_BJ: Tensor
    age_BL: Tensor
    told_BJ: Tensor | None


def last_seen(window: Window, target_BL: Tensor, told_BJ: Tensor | None = None) -> LastSeen:
    """What the positions of rows on the host have seen; the item `target_BL` follows each."""
    item_BL, length = window.item_BL, window.item_BL.shape[1]
    at_X = torch.arange(item_BL.numel())
    within_BL = at_X.view_as(item_BL) % length if window.within_BL is None else window.within_BL
    event_M = window.valid_BL.view(-1).nonzero().squeeze(1)
    column_M = event_M % length
    history_M = event_M - within_BL.view(-1)[event_M]  # where it begins
    end_M = history_M % length + torch.bincount(history_M, minlength=1)[history_M]
    items = 1 + int(torch.maximum(item_BL, target_BL).max())

    def key(of_BL: Tensor) -> Tensor:
        """Rises by history, item and event."""
        return (history_M * items + of_BL.view(-1)[event_M]) * length + column_M

    key_M, order_M = key(item_BL).sort()
    again_M = key_M[1:] // length == key_M[:-1] // length
    end_M[order_M[:-1][again_M]] = column_M[order_M[1:][again_M]]
    until_X = torch.zeros_like(at_X)
    until_X[event_M] = end_M
    asked_M = key(target_BL)
    last_M = key_M[(torch.searchsorted(key_M, asked_M, right=True) - 1).clamp(min=0)]
    age_X = torch.zeros_like(at_X)
    age_X[event_M] = (asked_M - last_M + 1).where(last_M // length == asked_M // length, 0)
    return LastSeen(until_X.view_as(item_BL), age_X.view_as(item_BL), told_BJ)


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
        self.length = length
        # The buckets of all ages, and of each position and event; of what is not past, none.
        age_LJ = 1 + torch.arange(length)[:, None] - torch.arange(length)
        hot_AR = functional.one_hot(self._bucket(torch.arange(1, length + 1)), len(self.weight_R))
        hot_AR = functional.pad(hot_AR.float(), (0, 0, 1, 0))
        self.age_LJ: Tensor
        self.hot_AR: Tensor
        self.hot_LJR: Tensor
        self.register_buffer("age_LJ", age_LJ, persistent=False)
        self.register_buffer("hot_AR", hot_AR, persistent=False)
        self.register_buffer("hot_LJR", hot_AR[age_LJ.clamp(min=0)], persistent=False)

    def forward(self, age: Tensor) -> Tensor:
        """The biases of items last seen `age` events ago, int64 of any shape, at least 1."""
        return self.SCALE * self.weight_R[self._bucket(age)]

    def _bucket(self, age: Tensor) -> Tensor:
        bucket: Tensor = torch.frexp(age.double())[1].long() - 1
        return bucket.clamp(max=len(self.weight_R) - 1)

    def told(self, seen: LastSeen) -> Tensor:
        """What is added to the logit of each event's item at each position, [B, L, J].

        `NOWHERE` for what a position has not seen, for all but the last event of an item, and for
        the position's own target; what it says of events ahead does not matter.
        """
        length = seen.age_BL.shape[1]
        age_LJ = self.age_LJ[:length, :length]
        over_BLJ = seen.until_BJ[:, None, :] < age_LJ[:, :1]
        hidden_BLJ = over_BLJ | (seen.age_BL[:, :, None] == age_LJ)
        if seen.told_BJ is None:
            return torch.zeros_like(hidden_BLJ, dtype=torch.float32).masked_fill_(
                hidden_BLJ, NOWHERE
            )
        return seen.told_BJ[:, None, :].masked_fill(hidden_BLJ, NOWHERE)

    @torch.no_grad()
    def shares(self, logit_BLJ: Tensor, told_BLJ: Tensor, log_sum_BL: Tensor) -> Tensor:
        """Probability of all that each position has seen, by its bucket of age: [X, R].

        Args:
            logit_BLJ: Logit of each event's item at each position of its row.
            told_BLJ: What `told` says.
            log_sum_BL: Logarithm of what the exponentials of the position's logits sum to.
        """
        length = logit_BLJ.shape[1]
        share_BLJ = (logit_BLJ + told_BLJ).sub_(log_sum_BL[:, :, None]).exp_()
        hot_LJR = self.hot_LJR[:length, :length]
        return torch.bmm(share_BLJ.transpose(0, 1), hot_LJR).transpose(0, 1).flatten(0, 1)

    def loss(
        self,
        share_KXR: Tensor,
        own_share_KX: Tensor,
        scale_K: Tensor,
        age_X: Tensor,
        weight_X: Tensor,
    ) -> Tensor:
        """What the bias adds to the cross-entropies of K scores: [K].

        The value is that of the biased logits. The bias is learnt beside the rest: its gradient,
        too, is that of the biased logits, but all else has the gradient of the logits without it.
        So what the bias tells is still learnt by the rest too, which ranks better for it
        (docs/notebook.md).

        Args:
            share_KXR: Probability of what has been seen, of each score, by bucket, without a bias.
            own_share_KX: That of the positions' targets.
            scale_K: The part of the bias that each score has.
            age_X: int64 how many events ago the target was last, 0 for never.
            weight_X: Each position's part of the mean.
        """
        value_KR = scale_K[:, None] * (self.SCALE * self.weight_R)
        own_KX = value_KR @ functional.embedding(age_X, self.hot_AR).T
        seen_KX = (share_KXR @ value_KR.expm1()[:, :, None]).squeeze(-1)
        # It is above -1 but for rounding.
        more_KX = (own_share_KX * own_KX.expm1() + seen_KX).clamp(min=-1 + 1e-6).log1p()
        return (more_KX - own_KX) @ weight_X
