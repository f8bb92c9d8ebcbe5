"""Errors about a bad value of a raw table, with its place."""

from __future__ import annotations

from typing import NoReturn

from cammsr_cli.data.readers.tables import Table, values_of
from cammsr_cli.errors import CammsrError

_LONGEST_SHOWN = 80  # characters of a bad value in a message


def shortened(said: str) -> str:
    """Shorten a bad value for a message."""
    return said if len(said) <= _LONGEST_SHOWN else f"{said[:_LONGEST_SHOWN]}…"


def fail_at(table: Table, row: int, column: str, what: str, hint: str) -> NoReturn:
    """Raise an error about the value of a column in a row.

    Args:
        table: The raw table.
        row: 0-based.
        column: Its column.
        what: The error, such as "not a number".
        hint: How to fix it.

    Raises:
        CammsrError: Always.
    """
    [value] = values_of(table, column, [row])
    shown = "is empty" if value is None or value == "" else f"is {shortened(repr(value))}"
    raise CammsrError(f"{table.place(row)}: {column} {shown}, {what}", hint)
