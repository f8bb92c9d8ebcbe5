"""Guesses which columns of a log are users, items and times, by their values; only for hints."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import polars as pl

from cammsr_cli.data.readers.moments import YEAR_1980, YEAR_2100
from cammsr_cli.data.readers.timestamps import read_values

_ROWS = 100_000
_MOST = 0.9
_MANY = 0.5  # share of the distinct values of the column with the second most of them
_FRACTION = r"^[-+]?\d+[.,]\d+$"


def guessed_columns(
    frame: pl.DataFrame, missing: Sequence[str], taken: Collection[str]
) -> dict[str, str]:
    """Guess the columns of missing fields; a field without a possible column has no entry.

    Timestamps are columns that can be read as such. Users and items are among the columns with
    repeated values. The user is the first of them with many distinct values, because it is the
    first in most logs. The item is the one of the others with the most distinct values.

    Args:
        frame: The log.
        missing: The fields to find, of "user", "item" and "timestamp".
        taken: Columns that are used for other fields.
    """
    frame = frame.head(_ROWS)
    free = [name for name in frame.columns if name not in taken]
    found: dict[str, str] = {}
    timed = [name for name in free if _is_time(frame[name])]
    if "timestamp" in missing and timed:
        found["timestamp"] = max(timed, key=lambda name: frame[name].n_unique())
    ids = [name for name in free if name not in timed and _may_be_id(frame[name])]
    wanted = [name for name in ("user", "item") if name in missing]
    if len(ids) < len(wanted):
        return found
    values = {name: frame[name].n_unique() for name in ids}
    if "user" in wanted:
        many = sorted(values.values())[-len(wanted)] * _MANY
        found["user"] = next(name for name in ids if values[name] >= many)
        values.pop(found["user"])
    if "item" in wanted:
        found["item"] = max(values, key=lambda name: values[name])
    return found


def _is_time(values: pl.Series) -> bool:
    second = read_values(values).times["second"]
    return int(second.is_between(YEAR_1980, YEAR_2100).sum()) >= _MOST * max(1, len(values))


def _may_be_id(values: pl.Series) -> bool:
    """Whether values repeat, have at least two distinct values, and are not amounts."""
    if not (values.dtype == pl.String or values.dtype.is_integer()):
        return False
    if values.dtype == pl.String and values.str.contains(_FRACTION).any():
        return False
    distinct = values.drop_nulls().n_unique()
    return 1 < distinct < len(values) or distinct == len(values) == 1
