"""Stop signals of a training: handled between steps, so that nothing is lost."""

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
    """Whether the training is requested to stop.

    Attributes:
        by: SIGINT or SIGTERM, once it has arrived; None before.
    """

    by: int | None = None

    def obey(self) -> None:
        """Raise the exception of the received signal, if any.

        Raises:
            KeyboardInterrupt: The signal was Ctrl-C.
            Terminated: The signal was SIGTERM.
        """
        if self.by == signal.SIGTERM:
            raise Terminated
        if self.by is not None:
            raise KeyboardInterrupt


@contextmanager
def noticed_signals() -> Iterator[StopRequest]:
    """Record Ctrl-C and SIGTERM instead of stopping at once; a second signal stops at once.

    Only the main thread receives signals. In another thread, no signal is ever recorded.
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
