"""All output: results to stdout, everything else to stderr.

stdout contains only the requested result. Progress, notes and errors are written to stderr, and
progress bars only if stderr is a terminal.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from cammsr_cli.errors import CammsrError

ZERO_WIDTH_JOINER = "\u200d"  # joins emoji


def write_what_can_be_written() -> None:
    """Replace characters that the encoding of stdout or stderr lacks by question marks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def plain(text: str) -> str:
    """Replace characters that control a terminal, because ids and titles are untrusted."""
    return "".join(
        c if c.isprintable() or c == ZERO_WIDTH_JOINER else " " if c.isspace() else "\ufffd"
        for c in text
    )


def result(text: str) -> None:
    """Print a human-readable result, one line."""
    sys.stdout.write(plain(text) + "\n")


def result_json(value: Any) -> None:
    """Print a machine-readable result: one JSON document."""
    ascii_only = not sys.stdout.encoding.lower().startswith("utf")
    text = json.dumps(value, ensure_ascii=ascii_only, indent=2, allow_nan=False)
    sys.stdout.write(text + "\n")


def result_table(
    columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]], title: str | None = None
) -> None:
    """Print a table; each column is (heading, whether it holds numbers)."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading, numeric in columns:
        table.add_column(
            Text(plain(heading)), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    # A pipe has no width: use a large one, so that nothing is truncated.
    output = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if title is not None:
        output.print(Text(plain(title), style="bold"))
    output.print(table)


def result_decisions(decisions: Sequence[Sequence[str]]) -> None:
    """Print how the raw files were read, if it is known."""
    if decisions:
        result_table([("read", False), ("as", False)], [list(pair) for pair in decisions])


def note(text: str) -> None:
    """Print a message for the user to stderr."""
    sys.stderr.write("\n".join(plain(line) for line in text.split("\n")) + "\n")


def next_command(*words: str | Path) -> None:
    """Print the usual next command after a success; quote paths, print words unchanged."""
    shown = [shlex.quote(str(word)) if isinstance(word, Path) else word for word in words]
    note("Next: " + " ".join(shown))


def show_cause(error: CammsrError) -> None:
    """Print the traceback of an error's cause, if there is one and CAMMSR_DEBUG is 1."""
    if _debugging() and error.__cause__ is not None:
        note("".join(traceback.format_exception(error.__cause__)).rstrip())


def report_error(error: CammsrError) -> None:
    """Print an error that the user can fix: what is wrong and where, then the hint."""
    show_cause(error)
    note(f"error: {error.message}")
    if error.hint:
        note(f"  {error.hint}")


def report_fault(error: BaseException) -> None:
    """Print an internal error: one line, or the traceback if CAMMSR_DEBUG is 1."""
    if _debugging():
        traceback.print_exception(error)
        return
    note(f"error: {type(error).__name__}: {error}")
    note("  This looks like a fault in cammsr. CAMMSR_DEBUG=1 shows where it happened.")


def _debugging() -> bool:
    return os.environ.get("CAMMSR_DEBUG") == "1"


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int, int], None]]:
    """Show a progress bar on stderr; the yielded function takes done, total and failed.

    If stderr is not a terminal, nothing is drawn: the caller reports the counts at the end.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total, _failed: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(description, total=None, rate="", failed="")

        def update(done: int, total: int, failed: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task,
                completed=done,
                total=total,
                rate=f"{speed:.1f}/s" if speed else "",
                failed=f"{failed} failed" if failed else "",
            )

        yield update
