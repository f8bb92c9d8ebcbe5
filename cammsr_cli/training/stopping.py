"""Signals that ask a training to end: noticed between steps, so that nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from cammsr_cli.errors import Terminated


@dataclass
class StopRequest:
    """Whether somebody asked for an end.

    Attributes:
        by: SIGINT or SIGTERM, once it came.
    """

    by: int | None = None

    def obey(self) -> None:
        """Raise what the signal stands for.

        Raises:
            KeyboardInterrupt: It was Ctrl-C.
            Terminated: It was SIGTERM.
        """
        if self.by == signal.SIGTERM:
            raise Terminated
        if self.by is not None:
            raise KeyboardInterrupt


@contextmanager
def noticed_signals() -> Iterator[StopRequest]:
    """Take note of Ctrl-C and SIGTERM rather than end at once; a second one ends at once.

    Signals reach the main thread alone: in another one, none is ever noticed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def notice(number: int, _frame: FrameType | None) -> None:
        again, request.by = request.by is not None, number
        if again:
            request.obey()

    before: dict[int, Any] = {
        number: signal.signal(number, notice) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
