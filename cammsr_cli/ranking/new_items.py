"""A place for new items: what has no training events must not drown among what has.

An item that nobody has met is known by its content alone, so its scores are less sure, and spread
less, than those of items with an id: by score alone it would hardly be in any list. All new items
are therefore raised by one number, such that they have a given share of the best places over all
users; which of them, and whose, remains the model's to say.

Axes: U users, B users of one chunk, N items, V score width, F some of the items, K places, J the
best new items that could have one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cammsr_cli.ranking.room import in_parts
from cammsr_cli.ranking.seen import Seen, hide_items, mark

USERS = 256
"""Users by whom the offset is found."""

PLACES = 20
"""Length of the lists that new items have their share of."""


SCORES_AT_ONCE = 2**22
"""Scores that exist at one time."""


def needs_places(new_N: Tensor) -> bool:
    """Whether there are both new items and others."""
    return bool(new_N.any()) and not bool(new_N.all())


def share_of_new(new_N: Tensor, wanted: float | None) -> float:
    """The share of the places that new items have: that wanted, else theirs of the catalogue."""
    return float(new_N.float().mean()) if wanted is None else wanted


def evenly(users: int, most: int = USERS) -> Tensor:
    """At most `most` of so many users, int64 and rising."""
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
    """What is to be added to the scores of new items for them to have `share` of all places.

    A user's j-th best new item is among the K best once it is above the (K + 1 - j)-th best old
    one. Of these K steps a user, the offset lets as many come true as there are places for.

    Args:
        query_UV: Queries of some users.
        target_NV: Targets of all items.
        new_N: bool, which items are new: some, but not all.
        share: Of the places, from 0 to 1.
        seen: What these users have seen, where that is left out.
        unknown_F: int64, the items that nobody is shown, if there are any.
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
    """The targets, `raised` where some items are new; their queries are made by `extended_queries`.

    Args:
        target_NV: Targets of all items.
        new_N: bool, which items are new.
        share: Of the places, from 0 to 1.
        users: How many users there are to ask about.
        ask: Gives the queries of some of them, and what they have seen where that is left out.
        unknown_F: int64, the items that nobody is shown, if there are any.
    """
    if not users or not needs_places(new_N):
        return target_NV
    query_UV, seen = ask(evenly(users))
    offset = offset_of_new(query_UV, target_NV, new_N, share, seen, unknown_F)
    return raised(target_NV, new_N, offset)


def raised(target_NV: Tensor, new_N: Tensor, offset: float) -> Tensor:
    """Targets with a last column that raises new items, [N, V + 1]; for `extended_queries`."""
    return torch.cat([target_NV, offset * new_N[:, None].to(target_NV)], dim=1)


def extended_queries(query_UV: Tensor, target_NV: Tensor) -> Tensor:
    """Queries for these targets: [U, V + 1] if they were `raised`, else as they are."""
    if target_NV.shape[1] == query_UV.shape[1]:
        return query_UV
    return torch.cat([query_UV, query_UV.new_ones(len(query_UV), 1)], dim=1)
