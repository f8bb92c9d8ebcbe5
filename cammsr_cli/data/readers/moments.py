"""Moments as seconds since 1970 and the nanoseconds beside them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

TICKS = {
    "seconds": 1,
    "milliseconds": 1_000,
    "microseconds": 1_000_000,
    "nanoseconds": 1_000_000_000,
}
# Seconds since 1970 of the times that logs are of. Those of one unit are never those of another.
YEAR_1980, YEAR_2100, YEAR_2200 = 315_532_800, 4_102_444_800, 7_258_118_400
LARGEST_SECOND = 9e15  # beyond it a float64 no longer tells two seconds apart
DAY = 86_400


@dataclass(frozen=True)
class Reading:
    """A column's times, as far as they can be read.

    Attributes:
        times: `second`, int64 since 1970 UTC, and `fraction`, int64 nanoseconds; null where a value
            cannot be read.
        told: How the values were understood, in words.
        readings: The named formats that all values allow, where they are several: then `times`
            are of the first.
    """

    times: pl.DataFrame
    description: str
    readings: tuple[str, ...] = ()


def split_seconds(values: pl.Series, ticks: int) -> pl.DataFrame:
    """Whole seconds, rounded down, and the nanoseconds left over; null where out of range."""
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
    """What fits a strptime pattern; else null."""
    times = texts.str.to_datetime(pattern, time_unit="us", strict=False)
    return split_seconds(times.to_physical(), TICKS["microseconds"])
