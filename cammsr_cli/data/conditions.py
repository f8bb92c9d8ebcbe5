"""Which events count: conditions on columns of the interactions, as `--where` takes them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from cammsr_cli.data.readers.columns import listed
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.tables import Table, counted
from cammsr_cli.data.readers.timestamps import read_values
from cammsr_cli.errors import CammsrError, UsageError, closest

Relation = Literal["=", "!=", ">=", "<=", "in"]

_FORM = re.compile(
    r"\s*(?P<column>[^=!<>]+?)\s*(?P<relation>!=|>=|<=|=|(?<=\s)in(?=\s))(?P<value>.*)"
)
_MOST_KINDS = 20


@dataclass(frozen=True)
class Condition:
    """What a column of an event must be.

    Attributes:
        column: A column of the interactions, or a field such as `rating` that one is read for.
        relation: How it compares.
        values: With what; several for "in".
    """

    column: str
    relation: Relation
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read "COLUMN=VALUE", with !=, >= or <= in place of =, or "COLUMN in VALUE,VALUE".

        Raises:
            UsageError: The text has another form.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise UsageError(
                f"--where {text}: not a condition",
                "Write COLUMN=VALUE, COLUMN!=VALUE, COLUMN>=VALUE, COLUMN<=VALUE or "
                "'COLUMN in VALUE,VALUE'.",
            )
        relation: Relation = match["relation"]  # type: ignore[assignment]
        values = match["value"].split(",") if relation == "in" else [match["value"]]
        return cls(match["column"], relation, tuple(value.strip() for value in values))

    def __str__(self) -> str:
        between = " in " if self.relation == "in" else self.relation
        return f"{self.column}{between}{','.join(self.values)}"

    def holds(self, table: Table, columns: Mapping[str, str]) -> pl.Series:
        """Whether it is so, for each row of a table.

        Values are compared as they are written, without spaces around them; with >= and <= as
        numbers, and where the value is a date, as times. An empty cell equals the empty value.

        Args:
            table: The interactions.
            columns: Field to column.

        Raises:
            UsageError: There is no such column, no row has such a value, or it cannot be compared.
        """
        column = self.column
        if column not in table.frame.columns:
            column = columns.get(column, column)
        if column not in table.frame.columns:
            meant = closest(column, table.frame.columns, 1)
            question = f", did you mean {meant[0]!r}?" if meant else ""
            raise UsageError(
                f"--where {self}: {table.path} has no column {column!r}{question}",
                f"Its columns: {listed(table.frame.columns)}",
            )
        if self.relation in (">=", "<="):
            return self._compared(table, column)
        equal = self._equal(table, column)
        return ~equal if self.relation == "!=" else equal

    def _equal(self, table: Table, column: str) -> pl.Series:
        texts = clean_ids(table, column).fill_null("")
        found = pl.repeat(False, len(texts), eager=True)
        for value in self.values:
            same = texts == value
            if not same.any() and table.frame[column].dtype == pl.Boolean:
                same = texts == value.lower()
            if not same.any() and (number := _number(value)) is not None:
                same = (texts.cast(pl.Float64, strict=False) == number).fill_null(False)
            if not same.any() and self.relation != "!=":
                kinds = ", ".join(f"{kind} ({count:,})" for kind, count in kinds_of(texts, 10))
                raise UsageError(
                    f"--where {self}: no row of {table.path} has {column!r} {value!r}",
                    f"It holds {kinds}",
                )
            found = found | same
        return found

    def _compared(self, table: Table, column: str) -> pl.Series:
        values, [written] = table.frame[column], self.values
        number = _number(written)
        if number is not None and not values.dtype.is_temporal():
            own = values.cast(pl.Float64, strict=False) if not values.dtype.is_nested() else None
            limit = number
        else:
            own, limit = _instants(values), -1.0
            wanted = _instants(pl.Series([written]))
            if wanted is None:
                own = None
            else:
                limit = float(wanted[0])
        if own is None or own.null_count() == len(own):
            raise UsageError(
                f"--where {self}: {written!r} and column {column!r} of {table.path} cannot be "
                "compared",
                "Give a number for a column of numbers, or a date such as 2024-03-20 for times.",
            )
        holds = own >= limit if self.relation == ">=" else own <= limit
        return holds.fill_null(False)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _instants(values: pl.Series) -> pl.Series | None:
    """Seconds since 1970; None where a column is no column of times."""
    reading = read_values(values)
    if reading.readings or reading.times["second"].null_count() == len(values):
        return None
    return reading.times["second"].cast(pl.Float64) + reading.times["fraction"] / 1e9


def kinds_of(texts: pl.Series, most: int) -> list[tuple[str, int]]:
    """The commonest values and how often they are, most first."""
    counts = (
        texts.alias("kind")
        .value_counts(sort=True)
        .sort(["count", "kind"], descending=[True, False])
    )
    return [(str(kind), int(count)) for kind, count in counts.head(most).iter_rows()]


def chosen_rows(
    table: Table, columns: Mapping[str, str], conditions: tuple[Condition, ...], notes: list[str]
) -> pl.Series:
    """Whether a row fulfils all conditions; rows that each leaves out are counted.

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
        asked = " and ".join(map(str, conditions))
        raise CammsrError(
            f"{table.path}: nothing is left: no row fulfils --where {asked}", "Leave one out."
        )
    return chosen


def told_kinds(table: Table, column: str, chosen: pl.Series | None) -> list[str]:
    """Which kinds of events there are, where they are several but few; of chosen rows alone."""
    texts = clean_ids(table, column).fill_null("without one")
    kinds = kinds_of(texts if chosen is None else texts.filter(chosen), _MOST_KINDS + 1)
    if not 1 < len(kinds) <= _MOST_KINDS:
        return []
    each = ", ".join(f"{kind} {count:,}" for kind, count in kinds)
    only = shlex.quote(f"{column}={kinds[-1][0]}")
    return [
        f"kinds of events, column {column!r} of {table.path.name}: {each}; all count alike "
        f"(one kind alone: --where {only})"
    ]
