"""Computing a ranking in parts, smaller ones where the device's memory does not hold more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cammsr_cli.devices import is_out_of_memory
from cammsr_cli.errors import CammsrError

T = TypeVar("T")

SCORES_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}
"""Scores that exist at one time: what a CPU's cache holds, or what keeps a GPU busy."""


def in_parts(number: int, at_once: Callable[[int], int], part: Callable[[int, int], T]) -> list[T]:
    """What `part(first, past)` gives for all of `number` rows, some at a time, in order.

    Where the device's memory gives out, half as many are taken at a time from there on.

    Args:
        number: How many rows there are.
        at_once: How many are taken at a time from the row `first` on, 1 or more.
        part: Computes the rows `[first, past)`. After memory gave out it is called anew for some of
            them.

    Raises:
        CammsrError: The memory does not hold a single row.
    """
    made: list[T] = []
    first = halvings = 0
    while first < number:
        past = min(first + max(1, at_once(first) >> halvings), number)
        try:
            made.append(part(first, past))
            first = past
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # Out of the handler, whose traceback would keep the tensors of the part alive.
        if past - first == 1:
            raise CammsrError(
                "the device's memory does not hold what ranking one row takes",
                "Rank where there is more memory: --device cpu",
            )
        halvings += 1
    return made
