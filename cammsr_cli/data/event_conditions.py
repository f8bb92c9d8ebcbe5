"""Conditions on columns of the interactions, as `--where` takes them: which events are used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from cammsr_cli.data.readers.columns import listed
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.numbers import as_numbers
from cammsr_cli.data.readers.tables import Table, counted
from cammsr_cli.data.readers.timestamps import read_values
from cammsr_cli.errors import CammsrError, UsageError, closest

Relation = Literal["=", "!=", ">=", "<=", "in"]

_FORM = re.compile(
    r"\s*(?P<column>[^=!<>]+?)\s*(?P<relation>!=|>=|<=|=|(?<=\s)in(?=\s))(?P<value>.*)"
)


@dataclass(frozen=True)
class Condition:
    """A condition on the value of one column of an event.

    Attributes:
        column: A column of the interactions, or a field such as `rating` that one is read for.
        relation: The comparison operator.
        values: The values to compare with; several for "in".
    """

    column: str
    relation: Relation
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, option: str = "--where") -> Condition:
        """Read "COLUMN=VALUE", with !=, >= or <= in place of =, or "COLUMN in VALUE,VALUE".

        Raises:
            UsageError: The text has another form.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{option} {text}: not a condition",
                "Write COLUMN=VALUE, COLUMN!=VALUE, COLUMN>=VALUE, COLUMN<=VALUE or "
                "'COLUMN in VALUE,VALUE'.",
            )
        relation: Relation = match["relation"]  # type: ignore[assignment]
        values = match["value"].split(",") if relation == "in" else [match["value"]]
        return cls(match["column"], relation, tuple(value.strip() for value in values))

    def __str__(self) -> str:
        between = " in " if self.relation == "in" else self.relation
        return f"{self.column}{between}{','.join(self.values)}"

    def holds(self, table: Table, columns: Mapping[str, str], option: str = "--where") -> pl.Series:
        """Whether each row of a table fulfils the condition.

        Values are compared as text, without spaces around them. With >= and <= they are compared
        as numbers, or as times if the value is a date. An empty cell equals the empty value.

        Args:
            table: The interactions.
            columns: Field to column.
            option: The option that the condition was given with, for messages.

        Raises:
            UsageError: There is no such column, no row has such a value, or it cannot be compared.
        """
        column = column_of(f"{option} {self}", self.column, table, columns)
        if self.relation in (">=", "<="):
            return self._compared(table, column, option)
        equal = self._equal(table, column, option)
        return ~equal if self.relation == "!=" else equal

    def _equal(self, table: Table, column: str, option: str) -> pl.Series:
        must_be = self.relation != "!="
        found = pl.repeat(False, table.frame.height, eager=True)
        for value in self.values:
            found = found | rows_with(f"{option} {self}", value, table, column, must_be)
        return found

    def _compared(self, table: Table, column: str, option: str) -> pl.Series:
        values, [written] = table.frame[column], self.values
        number = _number(written)
        own: pl.Series | None
        if number is not None and not values.dtype.is_temporal():
            own, limit = as_numbers(values), number
        else:
            own, limit = _instants(values), -1.0
            wanted = _instants(pl.Series([written]))
            if wanted is None:
                own = None
            else:
                limit = float(wanted[0])
        if own is None or own.null_count() == len(own):
            raise UsageError(
                f"{option} {self}: {written!r} and column {column!r} of {table.path} cannot be "
                "compared",
                "Give a number for a column of numbers, or a date such as 2024-03-20 for times.",
            )
        holds = own >= limit if self.relation == ">=" else own <= limit
        return holds.fill_null(False)


def column_of(option: str, name: str, table: Table, columns: Mapping[str, str]) -> str:
    """Find a column of a table by its name, or by the name of the field it is read for.

    Raises:
        UsageError: There is no such column; the message begins with `option`.
    """
    there = table.frame.columns
    column = name if name in there else columns.get(name, name)
    if column in there:
        return column
    meant = closest(column, there, 1)
    question = f", did you mean {meant[0]!r}?" if meant else ""
    raise UsageError(
        f"{option}: {table.path} has no column {column!r}{question}",
        f"Its columns: {listed(there)}",
    )


def rows_with(
    option: str, value: str, table: Table, column: str, must_be: bool = True
) -> pl.Series:
    """Whether each row has a value, as the same text or as the same number.

    Raises:
        UsageError: No row has it and `must_be` is true; the hint lists the column's values.
    """
    texts = clean_ids(table, column).fill_null("")
    same = texts == value
    if not same.any() and table.frame[column].dtype == pl.Boolean:
        same = texts == value.lower()
    if not same.any() and (number := _number(value)) is not None:
        same = (as_numbers(texts) == number).fill_null(False)
    if must_be and not same.any():
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in kinds_of(texts, 10))
        raise UsageError(
            f"{option}: no row of {table.path} has {column!r} {value!r}", f"It holds {kinds}"
        )
    return same


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _instants(values: pl.Series) -> pl.Series | None:
    """Seconds since 1970; None if the values are not timestamps."""
    reading = read_values(values)
    if reading.readings or reading.times["second"].null_count() == len(values):
        return None
    return reading.times["second"].cast(pl.Float64) + reading.times["fraction"] / 1e9


def kinds_of(texts: pl.Series, most: int) -> list[tuple[str, int]]:
    """The most frequent values and their counts, in descending order."""
    counts = (
        texts.alias("kind")
        .value_counts(sort=True)
        .sort(["count", "kind"], descending=[True, False])
    )
    return [(str(kind), int(count)) for kind, count in counts.head(most).iter_rows()]


def chosen_rows(
    table: Table, columns: Mapping[str, str], conditions: tuple[Condition, ...], notes: list[str]
) -> pl.Series:
    """Whether a row fulfils all conditions; notes count the rows that each condition drops.

    Raises:
        UsageError: See `Condition.holds`.
        CammsrError: No row fulfils them all.
    """
    chosen = pl.repeat(True, table.frame.height, eager=True)
    for condition in conditions:
        left = chosen & condition.holds(table, columns)
        out = int(chosen.sum()) - int(left.sum())
        notes.append(f"{counted(out, 'row')} left out by --where {condition}")
        chosen = left
    if not chosen.any():
        option = " and ".join(map(str, conditions))
        raise CammsrError(
            f"{table.path}: nothing is left: no row fulfils --where {option}", "Leave one out."
        )
    return chosen
