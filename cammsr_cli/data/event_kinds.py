"""Kinds of events: which of them are negative, and the weight of each in the loss."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from cammsr_cli.data.event_conditions import Condition, column_of, kinds_of, rows_with
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.tables import Table
from cammsr_cli.errors import UsageError

_MOST_KINDS = 20
_LEAST_WEIGHT, _MOST_WEIGHT = 0.001, 1_000.0
_FORM = re.compile(r"\s*(?P<column>[^=!<>]+?)\s*=(?P<kinds>.*:.*)")
_NEGATIVE = (
    *("dislike", "disliked", "dislikes", "downvote", "downvoted", "thumbsdown", "notinterested"),
    *("hate", "hated", "hates", "👎"),
)
"""Kinds that are negative in any log, in lower case without spaces, "_" and "-"."""


@dataclass(frozen=True)
class Weights:
    """Weights of kinds of events in the loss; a kind that is not named has weight 1.

    Attributes:
        column: A column of the interactions, or a field such as `event` that one is read for.
        of_kind: Kind to weight.
    """

    column: str
    of_kind: Mapping[str, float]

    @classmethod
    def parse(cls, text: str) -> Weights:
        """Read "COLUMN=KIND:WEIGHT,KIND:WEIGHT".

        Raises:
            UsageError: The text has another form, or a weight is out of bounds.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise UsageError(
                f"--weight {text}: not weights of kinds", "Write event=view:0.2,purchase:1."
            )
        of_kind: dict[str, float] = {}
        for pair in match["kinds"].split(","):
            kind, _, number = (word.strip() for word in pair.rpartition(":"))
            if kind in of_kind:
                raise UsageError(f"--weight {text}: {kind!r} is given twice")
            of_kind[kind] = _checked(text, kind, number)
        return cls(match["column"], of_kind)

    def __str__(self) -> str:
        return f"{self.column}=" + ",".join(f"{kind}:{w:g}" for kind, w in self.of_kind.items())

    def of_rows(self, table: Table, columns: Mapping[str, str]) -> pl.Series:
        """Float32 weight of each row.

        Raises:
            UsageError: There is no such column, or no row has one of the kinds; the hint names
                the kinds in the column.
        """
        option = f"--weight {self}"
        column = column_of(option, self.column, table, columns)
        weights = pl.repeat(1.0, table.frame.height, dtype=pl.Float32, eager=True)
        for kind, weight in self.of_kind.items():
            weights = weights.set(rows_with(option, kind, table, column), weight)
        return weights


def negative_rows(
    table: Table, columns: Mapping[str, str], conditions: Sequence[Condition] | None
) -> pl.Series | None:
    """Whether each row is a negative event: it fulfils any condition, or has a negative kind.

    Args:
        table: The interactions.
        columns: Field to column.
        conditions: The conditions of `--negative`; None detects negative kinds by their names.

    Returns:
        One bool per row; None if there are no conditions, or no row has a negative kind.

    Raises:
        UsageError: See `Condition.holds`.
    """
    if conditions is None:
        if "event" not in columns:
            return None
        texts = clean_ids(table, columns["event"]).str.to_lowercase()
        found = texts.str.replace_all(r"[\s_-]", "").is_in(_NEGATIVE).fill_null(False)
        return found if found.any() else None
    if not conditions:
        return None
    each = [condition.holds(table, columns, "--negative") for condition in conditions]
    return (
        pl.DataFrame({str(at): one for at, one in enumerate(each)})
        .select(pl.any_horizontal(pl.all()))
        .to_series()
    )


def kinds_note(
    table: Table,
    columns: Mapping[str, str],
    chosen: pl.Series | None,
    negative: pl.Series | None,
    weights: Weights | None,
) -> list[str]:
    """Note the kinds of events, their counts, and how each is used.

    Without `weights`, the list is empty if there is only one kind, or more than `_MOST_KINDS`.

    Args:
        table: The interactions.
        columns: Field to column.
        chosen: Whether a row is used at all; None if all are.
        negative: Whether a row is negative; None if none is.
        weights: Weights of kinds; None if all weigh alike.
    """
    name = weights.column if weights else "event"
    if not weights and "event" not in columns:
        return []
    column = column_of("--weight", name, table, columns)
    frame = pl.DataFrame({"kind": clean_ids(table, column).fill_null("without one")})
    frame = frame.with_columns(
        negative=pl.lit(False) if negative is None else negative,
        weight=weights.of_rows(table, columns) if weights else pl.lit(1.0),
    )
    if chosen is not None:
        frame = frame.filter(chosen)
    kinds = kinds_of(frame["kind"], _MOST_KINDS + 1)
    if not (weights or 1 < len(kinds) <= _MOST_KINDS):
        return []
    return [
        f"kinds of events, column {column!r} of {table.path.name}: "
        + ", ".join(_kind_note(frame, kind, count, weights) for kind, count in kinds[:_MOST_KINDS])
        + _advice(column, kinds[-1][0], bool(weights), bool(frame["negative"].any()))
    ]


def _kind_note(frame: pl.DataFrame, kind: str, count: int, weights: Weights | None) -> str:
    own = frame.filter(pl.col("kind") == kind)
    if own["negative"].all():
        return f"{kind} {count:,} (negative: not learnt from, not recommended)"
    return f"{kind} {count:,}" + (f" (weight {own['weight'][0]:g})" if weights else "")


def _advice(column: str, kind: str, weighted: bool, negative: bool) -> str:
    """The options that change how kinds are used."""
    rest = "" if weighted else "; all count alike" + (" but for the negative" if negative else "")
    ways = [f"one kind alone: --where {shlex.quote(f'{column}={kind}')}"]
    if not weighted:
        ways.append(f"weights: --weight {shlex.quote(f'{column}={kind}:2')}")
    if negative:
        ways.append("none negative: --negative ''")
    return f"{rest} ({'; '.join(ways)})"


def _checked(text: str, kind: str, number: str) -> float:
    try:
        weight = float(number)
    except ValueError:
        weight = float("nan")
    if not kind or not _LEAST_WEIGHT <= weight <= _MOST_WEIGHT:
        raise UsageError(
            f"--weight {text}: {f'{kind}:{number}'!r} is no kind with a weight from "
            f"{_LEAST_WEIGHT:g} to {_MOST_WEIGHT:,g}",
            "Write event=view:0.2,purchase:1. To leave a kind out: --where 'COLUMN!=KIND'.",
        )
    return weight
