"""From a peer's scores to ranks and score matrices in our item order.

Axes: U users, B users of one chunk, N items, L positions. A peer numbers items from 1, 0 is its
padding; `id_N` holds its number of each of our items, 0 where it does not know the item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.split import TEST, Split

USERS_AT_ONCE = 256

Score = Callable[[NDArray[np.int64], int], NDArray[np.float32]]
"""Scores [B, N] of all items for users [B], from their histories before the event of a part."""


def recent_items(
    split: Split,
    user_B: NDArray[np.int64],
    part: int,
    id_N: NDArray[np.int64],
    length: int,
    padding: Literal["left", "right"],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The last known items of each history, padded with 0 to [B, L], and how many they are, [B]."""
    end_U = split.history_end(part)
    id_BL = np.zeros((len(user_B), length), dtype=np.int64)
    length_B = np.zeros(len(user_B), dtype=np.int64)
    for row, user in enumerate(user_B):
        ids = id_N[split.item_E[split.indptr_U[user] : end_U[user]]]
        ids = ids[ids > 0][-length:]
        first = length - len(ids) if padding == "left" else 0
        id_BL[row, first : first + len(ids)] = ids
        length_B[row] = len(ids)
    return id_BL, length_B


def in_our_order(
    peer_score_BK: NDArray[np.float32], id_N: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Scores by the peer's item numbers as scores of our items; minus infinity where unknown."""
    return np.where(id_N > 0, peer_score_BK[:, id_N], np.float32(-np.inf))


def seen_items(
    split: Split, user_B: NDArray[np.int64], part: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row in `user_B` and item of every event in the histories before the event of `part`."""
    start_B, end_B = split.indptr_U[user_B], split.history_end(part)[user_B]
    length_B = end_B - start_B
    row = np.repeat(np.arange(len(user_B)), length_B)
    first_B = np.cumsum(length_B) - length_B
    return row, split.item_E[np.arange(len(row)) - first_B[row] + start_B[row]].astype(np.int64)


def target_ranks(
    split: Split, part: int, score: Score, exclude_seen: bool = True
) -> NDArray[np.int64]:
    """Rank of the item of `part` in the whole catalogue for each user asked about.

    Seen items are left out unless told otherwise, the item to be found never; ties count against
    the peer: rank = 1 + the number of other items scored at least as high.
    """
    user_U, target_U = split.asked(part)
    rank_U = np.zeros(len(user_U), dtype=np.int64)
    for at in _chunks(len(user_U)):
        score_BN = score(user_U[at], part)
        rows = np.arange(len(score_BN))
        own_B1 = score_BN[rows, target_U[at]][:, None]
        # "Not lower", so that a score that is not a number ranks last and never first.
        above_BN = ~(score_BN < own_B1)
        if exclude_seen:
            above_BN[seen_items(split, user_U[at], part)] = False
        above_BN[rows, target_U[at]] = False
        rank_U[at] = 1 + above_BN.sum(1)
    return rank_U


def write_scores(split: Split, score: Score, file: Path) -> None:
    """Write the scores of all items for all users, [U, N] float32 as NPY, before their tests."""
    score_UN = np.lib.format.open_memmap(
        file, mode="w+", dtype=np.float32, shape=(split.users, split.items)
    )
    for at in _chunks(split.users):
        score_UN[at] = score(np.arange(split.users)[at], TEST)
    score_UN.flush()


def _chunks(users: int) -> Iterator[slice]:
    return (slice(first, first + USERS_AT_ONCE) for first in range(0, users, USERS_AT_ONCE))
