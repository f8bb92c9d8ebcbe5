"""Errors that a user can fix: each becomes one message and an exit code, never a traceback."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path

SEE_WHERE = "CAMMSR_DEBUG=1 shows where it happened"
"""The hint for failures in plugin code: it names the setting that prints the cause's traceback."""


class CammsrError(Exception):
    """An error that the user can act on (exit code 1).

    Args:
        message: What is wrong and where, in one line.
        hint: How to fix it, preferably with the command that does; printed on a separate line.
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
    """Return a path as it is typed in a command, for hints that users copy."""
    return shlex.quote(str(path))


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message; its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def closest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Return the known words most similar to `word`, best first, for "did you mean" hints."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)


class Terminated(KeyboardInterrupt):
    """The process received SIGTERM, and ends with a normal shutdown."""
