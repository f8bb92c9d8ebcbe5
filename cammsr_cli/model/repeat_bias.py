"""Repeated items: a learnt bias for items of the history, by how long ago they occurred.

Axes: B rows, L positions, J the events of a row, R buckets of age, K scores, X = B L.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.model.history_windows import Window


class LastSeen(NamedTuple):
    """The items in the history of each position of some rows, including its own event.

    Attributes:
        until_BJ: int64 first position of the row at which an event is no longer the last one of its
            item: the item's next event in that history, or the history's end. 0 in the padding,
            and if the item is not a candidate.
        age_BL: int64, how many events ago the position's target last occurred: 1 is the event at
            the position itself, 0 is never.
        correction_BJ: float, correction added to the logit of each event's item; None for none.
    """

    until_BJ: Tensor
    age_BL: Tensor
    correction_BJ: Tensor | None


def last_seen(
    window: Window,
    target_BL: Tensor,
    candidate_BJ: Tensor | None = None,
    correction_BJ: Tensor | None = None,
) -> LastSeen:
    """Find the items in the history of each position; on the host.

    Args:
        window: The rows.
        target_BL: int64 item that follows each position.
        candidate_BJ: bool, whether the event's item is among the candidates; None if all are.
        correction_BJ: Correction added to the logit of the event's item; None for none.
    """
    item_BL, length = window.item_BL, window.item_BL.shape[1]
    at_X = torch.arange(item_BL.numel())
    position_BL = (
        at_X.view_as(item_BL) % length if window.position_BL is None else window.position_BL
    )
    event_M = window.valid_BL.view(-1).nonzero().squeeze(1)
    column_M = event_M % length
    history_M = event_M - position_BL.view(-1)[event_M]  # index of the history's first event
    end_M = history_M % length + torch.bincount(history_M, minlength=1)[history_M]
    items = 1 + int(torch.maximum(item_BL, target_BL).max())

    def key(of_BL: Tensor) -> Tensor:
        """Sort key: by history, then item, then event."""
        return (history_M * items + of_BL.view(-1)[event_M]) * length + column_M

    key_M, order_M = key(item_BL).sort()
    again_M = key_M[1:] // length == key_M[:-1] // length
    end_M[order_M[:-1][again_M]] = column_M[order_M[1:][again_M]]
    until_X = torch.zeros_like(at_X)
    until_X[event_M] = end_M if candidate_BJ is None else end_M * candidate_BJ.view(-1)[event_M]
    key_of_target_M = key(target_BL)
    last_M = key_M[(torch.searchsorted(key_M, key_of_target_M, right=True) - 1).clamp(min=0)]
    age_X = torch.zeros_like(at_X)
    age_X[event_M] = (key_of_target_M - last_M + 1).where(
        last_M // length == key_of_target_M // length, 0
    )
    return LastSeen(until_X.view_as(item_BL), age_X.view_as(item_BL), correction_BJ)


class Slopes(NamedTuple):
    """Gradients of K biased cross-entropies with respect to the logits, at X positions.

    Attributes:
        factor_KX: Factor of the gradient of the plain cross-entropy.
        own_KX: Term added for the target's logit.
        seen_K: Term added for each event's item, [B, L, J] for each score.
    """

    factor_KX: Tensor
    own_KX: Tensor
    seen_K: list[Tensor]


class RepeatBias(nn.Module):
    """Bias added to the score of an item in the history, by how many events ago it last occurred.

    There is one bias for each power of two of events. If users never repeat items, the bias falls
    until seen items drop out of the ranking. Otherwise it learns after how long items repeat.

    Args:
        length: Longest history. Larger ages count as the largest bucket.
        separate: Whether the bias is learnt separately from the rest, see `loss`. This is best if
            users hardly ever repeat items. Otherwise all gradients are those of the biased logits,
            which is best if they do (docs/notebook.md).
    """

    SCALE = 10.0
    """Factor from parameter to bias: Adam changes all parameters by the same amount, and the bias
    must change by much more than other parameters."""

    LARGEST = 60.0
    """Largest bias: larger than any score, and its exponential still fits a float32."""

    def __init__(self, length: int, separate: bool = True) -> None:
        super().__init__()
        self.separate = separate
        self.weight_R = nn.Parameter(torch.zeros(length.bit_length()))
        self.length = length
        # One-hot buckets of all ages, and of each pair of position and event; 0 for later events.
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
        """Biases of items last seen `age` events ago; `age` is int64 of any shape, at least 1."""
        return self.values()[self._bucket(age)]

    def values(self) -> Tensor:
        """The bias of each bucket of age."""
        return (self.SCALE * self.weight_R).clamp(max=self.LARGEST)

    def _bucket(self, age: Tensor) -> Tensor:
        bucket: Tensor = torch.frexp(age.double())[1].long() - 1
        return bucket.clamp(max=len(self.weight_R) - 1)

    def kept(self, seen: LastSeen) -> Tensor:
        """1 where an event is the last one of its item for a position, otherwise 0: [B, L, J].

        The position's own target is 0. Values for later events are arbitrary.
        """
        age_LJ = self.age_LJ[: seen.age_BL.shape[1], : seen.age_BL.shape[1]]
        kept_BLJ, other_BLJ = torch.empty(
            2, *seen.age_BL.shape, len(age_LJ), device=age_LJ.device
        ).unbind()
        torch.ge(seen.until_BJ[:, None, :], age_LJ[:, :1], out=kept_BLJ)
        torch.ne(seen.age_BL[:, :, None], age_LJ, out=other_BLJ)
        return kept_BLJ.mul_(other_BLJ)

    def shares(
        self,
        logit_BLJ: Tensor,
        log_sum_BL: Tensor,
        kept_BLJ: Tensor,
        correction_BJ: Tensor | None = None,
    ) -> Tensor:
        """Probability of each event's item at each position that has seen it, else 0: [B, L, J].

        Args:
            logit_BLJ: Logit of each event's item at each position of its row.
            log_sum_BL: Log-sum-exp of the position's logits.
            kept_BLJ: Result of `kept`.
            correction_BJ: Correction added to the logits; None for none.
        """
        share_BLJ = logit_BLJ - log_sum_BL[:, :, None]
        if correction_BJ is not None:
            share_BLJ += correction_BJ[:, None, :]
        # Kept values are at most 0 anyway; the exponential of others could overflow.
        return share_BLJ.clamp_(max=0.0).exp_().mul_(kept_BLJ)

    def by_age(self, share_BLJ: Tensor) -> Tensor:
        """Sum the result of `shares` by bucket of age: [X, R]."""
        length = share_BLJ.shape[1]
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
        """Change of the cross-entropies of K scores by the bias: [K].

        Its value and the bias's gradient are those of the biased logits. All other parameters have
        no gradient here: they are still trained on the unbiased logits.

        Args:
            share_KXR: Probability of the seen items for each score, by bucket, without the bias.
            own_share_KX: Probability of the positions' targets, without the bias.
            scale_K: Factor of the bias in each score.
            age_X: int64, how many events ago the target last occurred, 0 for never.
            weight_X: Each position's weight in the mean.
        """
        more_KX, own_KX = self._more(share_KXR, own_share_KX, scale_K, age_X)
        return (more_KX.log1p() - own_KX) @ weight_X

    def _more(
        self, share_KXR: Tensor, own_share_KX: Tensor, scale_K: Tensor, age_X: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Relative change of the sum of exponentials by the bias; and the targets' biases."""
        value_KR = scale_K[:, None] * self.values()
        own_KX = value_KR @ functional.embedding(age_X, self.hot_AR).T
        seen_KX = (share_KXR @ value_KR.expm1()[:, :, None]).squeeze(-1)
        # It is greater than -1, except for rounding errors.
        return (own_share_KX * own_KX.expm1() + seen_KX).clamp(min=-1 + 1e-6), own_KX

    @torch.no_grad()
    def slopes(
        self,
        share_KBLJ: Sequence[Tensor],
        share_KXR: Tensor,
        own_share_KX: Tensor,
        scale_K: Tensor,
        age_X: Tensor,
    ) -> Slopes:
        """Gradient of the biased cross-entropy, expressed by that of the plain one.

        Let S be the sum of exponentials of a position's logits l, and T the sum with the biases b.
        Then d log T = S/T (d log S + sum of share (exp(b) - 1) dl over all biased items).

        Args:
            share_KBLJ: Result of `shares` for each score.
            share_KXR: The same, summed `by_age`.
            own_share_KX: As in `loss`.
            scale_K: As in `loss`.
            age_X: As in `loss`.
        """
        more_KX, own_KX = self._more(share_KXR, own_share_KX, scale_K, age_X)
        factor_KX = 1 / (1 + more_KX)
        own_slope_KX = factor_KX * (1 + own_share_KX * own_KX.expm1()) - 1
        length = share_KBLJ[0].shape[1]
        hot_LJR = self.hot_LJR[:length, :length]
        seen_K = [
            share_BLJ * (hot_LJR @ value_R.expm1()) * factor_X.view(-1, length, 1)
            for share_BLJ, value_R, factor_X in zip(
                share_KBLJ, scale_K[:, None] * self.values(), factor_KX, strict=True
            )
        ]
        return Slopes(factor_KX, own_slope_KX, seen_K)
