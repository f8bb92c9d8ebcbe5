"""What is made a little before it is wanted, by a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def made_ahead(calls: Iterable[Callable[[], T]], most: int) -> Generator[T, None, None]:
    """The results of calls, in order, each made before it is wanted.

    What a call raises is raised where its result is taken. Closed, or left by an exception, it
    waits for the call under way, makes no further ones, and leaves no thread behind.

    Args:
        calls: What makes the results; iterated where they are taken.
        most: Results made and not yet taken, at most; with 0 each is made when it is taken, without
            a thread.
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
