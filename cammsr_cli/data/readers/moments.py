"""Timestamps as seconds since 1970 and additional nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

TICKS = {
    "seconds": 1,
    "milliseconds": 1_000,
    "microseconds": 1_000_000,
    "nanoseconds": 1_000_000_000,
}
# The usual range of times in logs, in seconds since 1970. In this range, numbers of one unit are
# never numbers of another unit.
YEAR_1980, YEAR_2100, YEAR_2200 = 315_532_800, 4_102_444_800, 7_258_118_400
LARGEST_SECOND = 9e15  # beyond it float64 cannot represent every second
DAY = 86_400


@dataclass(frozen=True)
class Reading:
    """The timestamps of a column, as far as they can be read.

    Attributes:
        times: `second`, int64 since 1970 UTC, and `fraction`, int64 nanoseconds; null if a value
            cannot be read.
        description: How the values were interpreted, in words.
        readings: The named formats that the values allow, if there are several; `times` then uses
            the first.
    """

    times: pl.DataFrame
    description: str
    readings: tuple[str, ...] = ()


def split_seconds(values: pl.Series, ticks: int) -> pl.DataFrame:
    """Whole seconds, rounded down, and the remaining nanoseconds; null if out of range."""
    value = pl.col("value")
    whole = (value / ticks).floor() if values.dtype.is_float() else value // ticks
    fraction = (value - whole * ticks) * (TICKS["nanoseconds"] // ticks)
    fraction = fraction.round() if values.dtype.is_float() else fraction
    fits = whole.abs() <= LARGEST_SECOND
    return values.to_frame("value").select(
        second=pl.when(fits).then(whole).cast(pl.Int64),
        fraction=pl.when(fits).then(fraction).cast(pl.Int64),
    )


def from_pattern(texts: pl.Series, pattern: str) -> pl.DataFrame:
    """Read texts with a strptime pattern; null if a text does not fit."""
    times = texts.str.to_datetime(pattern, time_unit="us", strict=False)
    return split_seconds(times.to_physical(), TICKS["microseconds"])
