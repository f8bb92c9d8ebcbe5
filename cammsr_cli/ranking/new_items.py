"""Boost for new items, so that items without training events appear in recommendations.

A new item is known by its content only. So its scores are less certain, and vary less, than those
of items with an id: by score alone it would hardly be in any list. Therefore one offset is added
to the scores of all new items, so that they have a given share of the top places over all users.
The model still decides which new items are recommended, and to whom.

Axes: U users, B users of one chunk, N items, V score width, F some of the items, K places, J the
best new items that could have one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cammsr_cli.ranking.memory_budget import in_parts
from cammsr_cli.ranking.seen import Seen, hide_items, mark

USERS = 256
"""Number of users by whom the offset is computed."""

PLACES = 20
"""Length of the lists in which new items have their share of places."""


SCORES_AT_ONCE = 2**22
"""Largest number of scores in memory at once."""


def needs_places(new_N: Tensor) -> bool:
    """Whether there are both new items and items that are not new."""
    return bool(new_N.any()) and not bool(new_N.all())


def share_of_new(new_N: Tensor, wanted: float | None) -> float:
    """Share of the places for new items: `wanted`, or if None their share of the catalogue."""
    return float(new_N.float().mean()) if wanted is None else wanted


def evenly(users: int, most: int = USERS) -> Tensor:
    """At most `most` evenly spaced indices of `users` users, int64 in ascending order."""
    return torch.arange(0, users, max(1, -(-users // most)))


@torch.inference_mode()
def offset_of_new(
    query_UV: Tensor,
    target_NV: Tensor,
    new_N: Tensor,
    share: float,
    seen: Seen | None,
    unknown_F: Tensor | None = None,
) -> float:
    """Compute the offset to the scores of new items that gives them `share` of all places.

    A user's j-th best new item is among the K best if its score is above that of the (K + 1 - j)-th
    best old item. Each user has up to K such score differences. The offset exceeds as many of them
    as there are places for new items.

    Args:
        query_UV: Queries of some users.
        target_NV: Targets of all items.
        new_N: bool, whether each item is new; True for some items but not all.
        share: Share of the places, from 0 to 1.
        seen: Items that these users have seen, if they are excluded or biased; None otherwise.
        unknown_F: int64 items that are never recommended; None if there are none.
    """
    new_F = new_N.nonzero().squeeze(1)
    places = min(PLACES, len(new_N) - len(new_F))
    steps = min(places, len(new_F))
    rows = max(1, SCORES_AT_ONCE // len(new_N))

    def steps_up(first: int, past: int) -> Tensor:
        score_BN = query_UV[first:past] @ target_NV.T
        if seen is not None:
            mark(score_BN, seen.rows(first, past))
        hide_items(score_BN, unknown_F)
        best_BJ = score_BN[:, new_F].topk(steps, dim=1)[0]
        score_BN[:, new_F] = float("-inf")
        last_BK = score_BN.topk(places, dim=1)[0].flip(1)
        return (last_BK[:, :steps] - best_BJ).flatten()

    step_X = torch.cat(in_parts(len(query_UV), lambda _: rows, steps_up))
    step_X = step_X[step_X.isfinite()].sort()[0]
    if not len(step_X):
        return 0.0
    taken = min(round(share * places * len(query_UV)), len(step_X))
    edge_X = torch.cat([step_X[:1] - 2, step_X, step_X[-1:] + 2])
    return float(edge_X[taken : taken + 2].mean())


def with_places(
    target_NV: Tensor,
    new_N: Tensor,
    share: float,
    users: int,
    ask: Callable[[Tensor], tuple[Tensor, Seen | None]],
    unknown_F: Tensor | None = None,
) -> Tensor:
    """The targets, `raised` if some items are new; use `extended_queries` for their queries.

    Args:
        target_NV: Targets of all items.
        new_N: bool, whether each item is new.
        share: Share of the places, from 0 to 1.
        users: Number of users.
        ask: Returns the queries of the given users, and the items that they have seen, if those
            are excluded or biased.
        unknown_F: int64 items that are never recommended; None if there are none.
    """
    if not users or not needs_places(new_N):
        return target_NV
    query_UV, seen = ask(evenly(users))
    offset = offset_of_new(query_UV, target_NV, new_N, share, seen, unknown_F)
    return raised(target_NV, new_N, offset)


def raised(target_NV: Tensor, new_N: Tensor, offset: float) -> Tensor:
    """Append a column with the offset of new items to the targets, [N, V + 1]."""
    return torch.cat([target_NV, offset * new_N[:, None].to(target_NV)], dim=1)


def extended_queries(query_UV: Tensor, target_NV: Tensor) -> Tensor:
    """Queries for these targets: with a column of ones, [U, V + 1], if they are `raised`."""
    if target_NV.shape[1] == query_UV.shape[1]:
        return query_UV
    return torch.cat([query_UV, query_UV.new_ones(len(query_UV), 1)], dim=1)
