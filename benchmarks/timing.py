"""How repeated timings become one figure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def median_after_first(rates: Sequence[float]) -> float:
    """Median of all but the first, which warms up; a single one counts itself.

    >>> median_after_first([1.0, 5.0, 4.0, 6.0])
    5.0
    """
    return statistics.median(rates[1:] or rates)


def median_seconds(run: Callable[[], object], times: int = 3) -> float:
    """Median wall time of doing something again and again."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
