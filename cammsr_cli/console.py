"""The one sink: results to stdout, everything else to stderr.

stdout carries nothing but the result a program or a person asked for; progress, notes and errors
go to stderr, and progress bars only where that is a terminal.
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
    """Let characters that stdout's or stderr's encoding lacks become question marks, not errors."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def plain(text: str) -> str:
    """Text without characters that a terminal would obey: ids and titles come from strangers."""
    return "".join(
        c if c.isprintable() or c == ZERO_WIDTH_JOINER else " " if c.isspace() else "\ufffd"
        for c in text
    )


def result(text: str) -> None:
    """Print a result for people, one line."""
    sys.stdout.write(plain(text) + "\n")


def result_json(value: Any) -> None:
    """Print a result for programs: one JSON document."""
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
    # A pipe has no width: give it room enough, so that nothing is cut.
    output = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if title is not None:
        output.print(Text(plain(title), style="bold"))
    output.print(table)


def result_decisions(decisions: Sequence[Sequence[str]]) -> None:
    """Print how raw files were read, if it is known."""
    if decisions:
        result_table([("read", False), ("as", False)], [list(pair) for pair in decisions])


def note(text: str) -> None:
    """Tell the person something on stderr."""
    sys.stderr.write("\n".join(plain(line) for line in text.split("\n")) + "\n")


def next_command(*words: str | Path) -> None:
    """End a success with the command that usually follows; paths are quoted, words are as given."""
    shown = [shlex.quote(str(word)) if isinstance(word, Path) else word for word in words]
    note("Next: " + " ".join(shown))


def show_cause(error: CammsrError) -> None:
    """Print the traceback of what an error tells in one line, if asked for and there is one."""
    if _debugging() and error.__cause__ is not None:
        note("".join(traceback.format_exception(error.__cause__)).rstrip())


def report_error(error: CammsrError) -> None:
    """Print an error a user can mend: what and where, then how."""
    show_cause(error)
    note(f"error: {error.message}")
    if error.hint:
        note(f"  {error.hint}")


def report_fault(error: BaseException) -> None:
    """Print an error of ours: one line, and the traceback only if asked for."""
    if _debugging():
        traceback.print_exception(error)
        return
    note(f"error: {type(error).__name__}: {error}")
    note("  This looks like a fault in cammsr. CAMMSR_DEBUG=1 shows where it happened.")


def _debugging() -> bool:
    return os.environ.get("CAMMSR_DEBUG") == "1"


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int, int], None]]:
    """A progress bar on stderr; the yielded function takes done, total and failed.

    Where stderr is no terminal nothing is drawn: the counts are told at the end by the caller.
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
