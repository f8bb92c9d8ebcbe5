"""Lists with a limited number of items per category.

Axes: U users, F items fetched for each, K items kept, N items, C categories.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cammsr_cli.ranking.seen import Seen
from cammsr_cli.ranking.top_k import Index, Top

FETCHED = 4
"""Number of items fetched per requested item; multiplied by this again until lists are full."""

VALUES_AT_ONCE = 2**24
"""Largest number of fetched items in memory at once, over all users."""


@torch.inference_mode()
def spread(
    index: Index, query_UV: Tensor, k: int, seen: Seen | None, label_NC: Tensor, most: int
) -> Top:
    """The `k` best items of each user, at most `most` of them per category.

    Items are chosen greedily, best first. An item of several categories counts in each of them,
    and all of them must have room. An item without a category always has room.

    Args:
        index: Index to search.
        query_UV: The users' queries.
        k: Number of items.
        seen: Items that the users have seen.
        label_NC: bool, the items' categories.
        most: Largest number of items of one category in a list.
    """
    items = len(label_NC)
    fetched = min(FETCHED * k, items)
    found = _kept(index.top_k(query_UV, fetched, seen), k, label_NC, most)
    item_UK, score_UK = found.item_UK.clone(), found.score_UK.clone()
    row_B = score_UK.isinf().any(1).nonzero().squeeze(1)
    while len(row_B) and fetched < items:
        fetched = min(FETCHED * fetched, items)
        at_once = max(1, VALUES_AT_ONCE // fetched)
        for some_B in torch.split(row_B, at_once):
            top = index.top_k(query_UV[some_B], fetched, seen.of(some_B) if seen else None)
            kept = _kept(top, k, label_NC, most)
            item_UK[some_B], score_UK[some_B] = kept.item_UK, kept.score_UK
        row_B = row_B[score_UK[row_B].isinf().any(1)]
    return Top(item_UK, score_UK)


def _kept(top: Top, k: int, label_NC: Tensor, most: int) -> Top:
    """The first `k` allowed items of each list; scores are minus infinity if there are fewer."""
    users, fetched = top.item_UK.shape
    item_UK = top.item_UK.new_zeros(users, k)
    score_UK = top.score_UK.new_full((users, k), float("-inf"))
    count_UC = torch.zeros(users, label_NC.shape[1], dtype=torch.int32, device=label_NC.device)
    taken_U = torch.zeros(users, dtype=torch.int64, device=label_NC.device)
    for place in range(fetched):
        item_U, score_U = top.item_UK[:, place], top.score_UK[:, place]
        label_UC = label_NC[item_U]
        room_U = (~label_UC | (count_UC < most)).all(1) & score_U.isfinite() & (taken_U < k)
        row = room_U.nonzero().squeeze(1)
        item_UK[row, taken_U[row]] = item_U[row]
        score_UK[row, taken_U[row]] = score_U[row]
        taken_U[row] += 1
        count_UC[row] += label_UC[row].int()
    return Top(item_UK, score_UK)
