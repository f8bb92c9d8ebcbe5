"""Leave-one-out: a user's last event tests, the one before validates, the rest trains."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 0, 1, 2


def leave_one_out(event_indptr: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The part of every event.

    Users with three events or more give one to validation and one to test, users with two give
    one to test, users with one train only.

    Args:
        event_indptr: int64 [U+1], CSR offsets of each user's events, in sequence order.

    Returns:
        uint8 [E]: 0 train, 1 validation, 2 test.
    """
    part = np.full(int(event_indptr[-1]), TRAIN, dtype=np.uint8)
    ends = event_indptr[1:]
    counts = np.diff(event_indptr)
    part[ends[counts >= 2] - 1] = TEST
    part[ends[counts >= 3] - 2] = VALIDATION
    return part


def repeat_share(
    event_indptr: NDArray[np.int64], event_item: NDArray[np.integer[Any]], part: NDArray[np.uint8]
) -> float:
    """Share of the training events, users' first ones apart, whose item the user had before.

    Args:
        event_indptr: int64 [U+1], CSR offsets of each user's events, in sequence order.
        event_item: Item index of each event [E].
        part: Part of each event [E].
    """
    counts = np.diff(event_indptr)
    user_E = np.repeat(np.arange(len(counts)), counts)
    trained = part == TRAIN
    pair_T = user_E[trained] * (int(event_item.max(initial=0)) + 1) + event_item[trained]
    targets = len(pair_T) - len(np.unique(user_E[trained]))
    return (len(pair_T) - len(np.unique(pair_T))) / max(1, targets)
