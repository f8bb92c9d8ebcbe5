"""The errors a user can mend: each becomes one message and an exit code, never a traceback."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path

SEE_WHERE = "CAMMSR_DEBUG=1 shows where it happened"
"""The hint where a plugin's code has failed: the traceback of an error's cause is then printed."""


class CammsrError(Exception):
    """Something went wrong that the user can act on (exit code 1).

    Args:
        message: What is wrong and where, in one line.
        hint: How to mend it, best ending in the command that does; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CammsrError):
    """The options or the configuration are wrong (exit code 2)."""

    exit_code = 2


def typed(path: Path | str) -> str:
    """A path as it is typed in a command, for hints that are pasted."""
    return shlex.quote(str(path))


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its kind if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def closest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known words most like `word`, best first, for "did you mean" hints."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, and did so in good order."""
