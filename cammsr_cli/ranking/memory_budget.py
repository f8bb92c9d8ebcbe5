"""Computation of a ranking in chunks, which shrink if the device runs out of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cammsr_cli.devices import is_out_of_memory
from cammsr_cli.errors import CammsrError

T = TypeVar("T")

SCORES_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}
"""Largest number of scores in memory at once: what fits a CPU's cache, or keeps a GPU busy."""


def in_parts(number: int, at_once: Callable[[int], int], part: Callable[[int, int], T]) -> list[T]:
    """Collect the results of `part(first, past)` for chunks of `number` rows, in order.

    If the device runs out of memory, the size of all further chunks is halved.

    Args:
        number: Number of rows.
        at_once: Size of a chunk that starts at row `first`, 1 or more.
        part: Computes the rows `[first, past)`. After running out of memory, it is called again for
            fewer of these rows.

    Raises:
        CammsrError: The device's memory does not hold a single row.
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
            # Continue outside the handler: its traceback would keep the part's tensors alive.
        if past - first == 1:
            raise CammsrError(
                "the device's memory does not hold what ranking one row takes",
                "Rank where there is more memory: --device cpu",
            )
        halvings += 1
    return made
