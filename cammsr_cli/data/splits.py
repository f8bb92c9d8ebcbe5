"""Leave-one-out split: a user's last event is for test, the previous one for validation.

All other events are for training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 0, 1, 2


def leave_one_out(event_indptr: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The part of every event: training, validation or test.

    Users with at least three events have one validation event and one test event. Users with two
    events have one test event. Users with one event have only a training event.

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
    """Share of repeat events: training events whose item is in an earlier event of the user.

    The first event of each user is not counted.

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
