"""A bad value of a raw table, told with its place."""

from __future__ import annotations

from typing import NoReturn

from cammsr_cli.data.readers.tables import Table, values_of
from cammsr_cli.errors import CammsrError

_LONGEST_SHOWN = 80  # characters of a bad value in a message


def shortened(said: str) -> str:
    """A bad value as it is shown in a message."""
    return said if len(said) <= _LONGEST_SHOWN else f"{said[:_LONGEST_SHOWN]}…"


def fail_at(table: Table, row: int, column: str, what: str, hint: str) -> NoReturn:
    """Refuse the value of a column in a row.

    Args:
        table: The raw table.
        row: 0-based.
        column: Its column.
        what: What the value is not.
        hint: How to mend it.

    Raises:
        CammsrError: Always.
    """
    [value] = values_of(table, column, [row])
    shown = "is empty" if value is None or value == "" else f"is {shortened(repr(value))}"
    raise CammsrError(f"{table.place(row)}: {column} {shown}, {what}", hint)
