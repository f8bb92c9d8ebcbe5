"""Commands run one at a time as processes of their own, with their wall time and peak memory."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """What one command took and said.

    Attributes:
        command: As a user types it.
        seconds: Wall time.
        megabytes: Peak resident memory of the process, in MiB.
        out: Its stdout.
    """

    command: str
    seconds: float
    megabytes: float
    out: str


def measure(shown: str, *command: str, environment: Mapping[str, str] | None = None) -> Measured:
    """Run a command as a process of its own, and stop if it fails.

    Linux counts the peak memory of the process that starts another as the other's too: one that
    measures must stay small itself.

    Args:
        shown: The command as a user types it.
        command: Path of the program, and its arguments.
        environment: Variables of the process, this one's own if not given.

    Raises:
        SystemExit: The command failed.
    """
    with tempfile.TemporaryFile("w+") as out:
        began = time.perf_counter()
        process = os.posix_spawn(
            command[0],
            command,
            os.environ if environment is None else environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)],
        )
        _, status, usage = os.wait4(process, 0)
        seconds = time.perf_counter() - began
        out.seek(0)
        said = out.read()
    if status:
        sys.exit(f"failed: {shown}")
    return Measured(shown, seconds, usage.ru_maxrss / 1024, said)


def cammsr(*arguments: str) -> Measured:
    """Run our tool as a process of its own, and stop if it fails."""
    return measure(f"cammsr {' '.join(arguments)}", sys.executable, "-m", "cammsr_cli", *arguments)
