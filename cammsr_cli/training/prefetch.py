"""Prefetching: a background thread computes results a little before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def made_ahead(calls: Iterable[Callable[[], T]], most: int) -> Generator[T, None, None]:
    """Yield the results of `calls` in order, each computed before it is needed.

    An exception in a call is raised where its result is consumed. When the generator is closed, or
    left by an exception, it waits for the running call, starts no further calls and leaves no
    thread behind.

    Args:
        calls: Functions that compute the results. The consumer's thread iterates over them.
        most: Largest number of results that are computed and not yet consumed. With 0, each result
            is computed when it is consumed, without a thread.
    """
    if not most:
        for call in calls:
            yield call()
        return
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        waiting: deque[Future[T]] = deque()
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
