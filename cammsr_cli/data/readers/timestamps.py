"""Timestamps of raw files: numbers of any unit, and dates in the usual formats.

All values of a column are read in the same format, the one that they allow. If they allow two, an
error asks the user to choose. The format is reported in words, so that a wrong guess is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.readers.dates import ORDERS, SHAPES, from_dates
from cammsr_cli.data.readers.faults import fail_at
from cammsr_cli.data.readers.moments import (
    DAY,
    LARGEST_SECOND,
    TICKS,
    YEAR_1980,
    YEAR_2100,
    Reading,
    from_pattern,
    split_seconds,
)
from cammsr_cli.data.readers.tables import Table, values_of
from cammsr_cli.errors import CammsrError, UsageError

NAMED_FORMATS = (
    *("seconds", "milliseconds", "microseconds", "nanoseconds", "excel"),
    *("day-first", "month-first", "year-first"),
)
"""The names that `--time-format` takes; it also takes a strptime pattern."""

_UNITS = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# Upper limit of the median magnitude for each unit: the limit of seconds is the year 5138.
_MEDIANS = {"seconds": 1e11, "milliseconds": 1e14, "microseconds": 1e17, "nanoseconds": np.inf}
_EXCEL_EPOCH = -25_569 * DAY  # 1899-12-30
_EXCEL_DAYS = (29_221, 73_051)  # 1980 to 2099
# A column is read in a format if at least this share of its numbers fits; the others are errors.
_MOST = 0.9
_SAMPLE = 10_000
_SAMPLE_OF_OTHERS = 1_000
_FURTHEST_ZONE, _ZONE_STEP = 14 * 3_600, 900  # seconds
# Numbers whose digits are a date: number of digits to strptime pattern and usual notation.
_DIGITS = {
    6: ("%Y%m", "YYYYMM"),
    8: ("%Y%m%d", "YYYYMMDD"),
    10: ("%Y%m%d%H%M", "YYYYMMDDHH"),
    12: ("%Y%m%d%H%M", "YYYYMMDDHHMM"),
    14: ("%Y%m%d%H%M%S", "YYYYMMDDHHMMSS"),
    17: ("%Y%m%d%H%M%S%3f", "YYYYMMDDHHMMSSmmm"),
}


def checked_time_format(text: str) -> str:
    """Check a `--time-format`: one of `NAMED_FORMATS`, or a strptime pattern.

    Returns:
        The format; in a pattern, a fraction of a second is written "%.f".

    Raises:
        UsageError: It is neither.
    """
    if text in NAMED_FORMATS:
        return text
    if "%" not in text:
        raise UsageError(
            f"--time-format {text}: neither a pattern nor a known name",
            f"Write a strptime pattern such as '%d/%m/%Y %H:%M', or {', '.join(NAMED_FORMATS)}.",
        )
    pattern = text.replace(".%f", "%.f")
    try:
        pl.Series([""]).str.to_datetime(pattern, strict=False)
    except pl.exceptions.PolarsError as error:
        raise UsageError(
            f"--time-format {text}: {str(error).splitlines()[0]}",
            "Write a strptime pattern such as '%d/%m/%Y %H:%M'.",
        ) from None
    return pattern


def read_times(
    table: Table,
    column: str,
    rows: pl.Series,
    time_format: str | None,
    may_lack: pl.Series | None = None,
) -> tuple[pl.DataFrame, str]:
    """Read the timestamps of some rows.

    Args:
        table: The raw table.
        column: Its column of timestamps.
        rows: Row numbers.
        time_format: Format of the timestamps, as `checked_time_format` returns it; None detects it.
        may_lack: For each row, whether its timestamp may be missing; then it is null.

    Returns:
        Columns `second`, int64 since 1970 UTC, and `fraction`, int64 nanoseconds, of each row; and
        a description of how the values were interpreted.

    Raises:
        CammsrError: A value is not a timestamp, or all values can be read in two formats.
    """
    values = table.frame[column].gather(rows)
    reading = read_values(values, time_format)
    lacks = reading.times["second"].is_null()
    unread = (lacks if may_lack is None else lacks & ~may_lack).arg_true()
    if len(unread):
        known = reading.description or "a number of s, ms, µs or ns, or a date such as 2024-03-20"
        fail_at(
            table,
            int(rows[int(unread[0])]),
            column,
            f"not a timestamp {'like the others ' if reading.description else ''}({known})",
            "Mend that row, say how times are written (such as --time-format '%d/%m/%Y %H:%M'), or "
            "map another column: --map timestamp=COLUMN",
        )
    if reading.readings:
        _ask(table, column, rows, values, reading.readings)
    return reading.times, reading.description


def _ask(
    table: Table, column: str, rows: pl.Series, values: pl.Series, readings: Sequence[str]
) -> None:
    """Raise because the values allow several formats; show a value whose date depends on them."""
    each = [read_values(values, name).times["second"] for name in readings]
    differ = int((each[0] != each[1]).arg_true()[0])
    [value] = values_of(table, column, [int(rows[differ])])
    days = [str(np.datetime64(int(one[differ]), "s"))[:10] for one in each]
    ways = " or ".join(f"{day} ({name})" for day, name in zip(days, readings, strict=True))
    raise CammsrError(
        f"{table.place(int(rows[differ]))}: {column} {str(value)!r} is {ways}, and no row of "
        f"{table.path.name} tells which",
        "Say which: " + " or ".join(f"--time-format {name}" for name in readings),
    )


def finer_column(table: Table, column: str, others: Sequence[str]) -> str | None:
    """Find another column with the same times at a finer resolution; None if there is none.

    It is searched for only if the times are whole days, hours, minutes or seconds, in a sample of
    the rows. The finer times must lie within those days, hours, minutes or seconds. The time zones
    of the two columns may differ.

    Args:
        table: The raw table.
        column: The column of timestamps.
        others: Columns that may be finer.
    """
    frame = table.frame.gather_every(max(1, table.frame.height // _SAMPLE_OF_OTHERS))
    frame = frame.filter(pl.col(column).is_not_null())
    coarse = _moments(frame[column])
    if coarse is None:
        return None
    grain = next((one for one in (DAY, 3_600, 60, 1) if not (coarse % one).any()), None)
    if grain is None:
        return None
    found: tuple[int, str] | None = None
    for other in others:
        fine = _moments(frame[other])
        if fine is None:
            continue
        after = fine - coarse
        zone = np.floor(after[0] / _ZONE_STEP) * _ZONE_STEP if grain < DAY else 0.0
        margin = _FURTHEST_ZONE if grain == DAY else 0
        fits_zone = (after >= zone - margin).all() and (after < zone + grain + margin).all()
        if fits_zone and abs(zone) <= _FURTHEST_ZONE and np.ptp(after) > 0:
            distinct = len(np.unique(fine))
            found = max(found, (distinct, other)) if found else (distinct, other)
    return found[1] if found else None


def _moments(values: pl.Series) -> NDArray[np.float64] | None:
    """Seconds since 1970 with their fractions.

    None unless all values can be read and most of them lie between 1980 and 2100.
    """
    reading = read_values(values)
    second = reading.times["second"]
    if not len(second) or second.null_count() or reading.readings:
        return None
    if int(second.is_between(YEAR_1980, YEAR_2100).sum()) < _MOST * len(second):
        return None
    return (second + reading.times["fraction"] / TICKS["nanoseconds"]).to_numpy()


def read_values(values: pl.Series, time_format: str | None = None) -> Reading:
    """Read all values of a column in the same format; a value that does not fit is null.

    Args:
        values: The column, of any type.
        time_format: As `checked_time_format` returns it; None detects it.
    """
    if time_format is not None and time_format not in ORDERS:
        return _by_format(values, time_format)
    if values.dtype == pl.String:
        return _from_strings(values.str.strip_chars(), time_format)
    if isinstance(values.dtype, pl.Datetime):
        unit = _UNITS[values.dtype.time_unit]
        return Reading(
            split_seconds(values.to_physical(), TICKS[unit]), "dates of the file's own type"
        )
    if values.dtype == pl.Date:
        days = values.to_physical().cast(pl.Int64)
        return Reading(split_seconds(days * DAY, 1), "dates of the file's own type")
    if values.dtype.is_numeric() and time_format is None:
        return _from_numbers(_numbers(values))
    return Reading(split_seconds(pl.Series([None] * len(values), dtype=pl.Int64), 1), "")


def _by_format(values: pl.Series, time_format: str) -> Reading:
    """Read numbers of a named unit, or texts with a strptime pattern."""
    if values.dtype.is_temporal() or values.dtype.is_nested():
        return Reading(
            split_seconds(pl.Series([None] * len(values), dtype=pl.Int64), 1), time_format
        )
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    if time_format not in NAMED_FORMATS:
        if values.dtype.is_float():
            values = values.cast(pl.Int64, strict=False)
        return Reading(from_pattern(values.cast(pl.String), time_format), time_format)
    numbers = _numbers(values)
    if time_format == "excel":
        return Reading(_from_excel(numbers), "days since 1899-12-30, as Excel counts them")
    return Reading(split_seconds(numbers, TICKS[time_format]), f"numbers of {time_format}")


def _from_strings(texts: pl.Series, order: str | None) -> Reading:
    """Read texts as numbers, or as dates of one shape, whichever is most frequent.

    A value of another kind is null.
    """
    whole = texts.cast(pl.Int64, strict=False)
    if order is None and len(whole) and not whole.null_count():
        return _from_numbers(whole)
    some = texts.drop_nulls().gather_every(max(1, len(texts) // _SAMPLE))
    finite = some.cast(pl.Float64, strict=False).is_finite().sum() if order is None else 0
    counts = {"": int(finite)} | {
        name: int(some.str.contains(shape).sum()) for name, shape in SHAPES.items()
    }
    kind = max(counts, key=lambda name: counts[name])
    if not counts[kind]:
        return Reading(split_seconds(whole.clear(len(whole)), 1), "")
    if not kind:
        return _from_numbers(_numbers(texts))
    return from_dates(texts, kind, order)


# --- numbers ------------------------------------------------------------------------------------


def _numbers(values: pl.Series) -> pl.Series:
    """Int64, or Float64 if some values are not whole numbers; null if a value is not a number."""
    whole = values.cast(pl.Int64, strict=False)
    if values.dtype.is_integer():
        return whole
    floats = values.cast(pl.Float64, strict=False)
    floats = floats.to_frame("v").select(pl.when(pl.col("v").is_finite()).then("v")).to_series()
    exact = whole.null_count() == floats.null_count() and (whole.cast(pl.Float64) == floats).all()
    return whole if exact else floats


def _from_numbers(numbers: pl.Series) -> Reading:
    known = numbers.drop_nulls()
    if known.dtype.is_integer() and (digits := _digits_of(known)):
        pattern, written = _DIGITS[digits]
        text = pl.col("number").cast(pl.String)
        fitting = pl.when(text.str.len_bytes() == digits).then(text)
        texts = numbers.to_frame("number").select(fitting).to_series() + _minutes(digits)
        return Reading(from_pattern(texts, pattern), f"numbers written {written}")
    days = int(known.is_between(*_EXCEL_DAYS, closed="left").sum())
    if len(known) and days >= _MOST * len(known):
        return Reading(_from_excel(numbers), "days since 1899-12-30, as Excel counts them")
    return _of_units(numbers, known)


def _digits_of(known: pl.Series) -> int | None:
    """The number of digits of dates that are written as numbers; None if they are not dates."""
    if not len(known):
        return None
    for digits, (pattern, _) in _DIGITS.items():
        scale = 10 ** (digits - 4)
        dated = known.filter(known.is_between(1900 * scale, 2101 * scale, closed="left"))
        if len(dated) < _MOST * len(known):
            continue
        texts = dated.cast(pl.String) + _minutes(digits)
        read = texts.str.to_datetime(pattern, time_unit="ms", strict=False)
        if len(read) - read.null_count() >= _MOST * len(known):
            return digits
    return None


def _minutes(digits: int) -> str:
    """Minutes to append to a date of this many digits: strptime needs minutes after hours."""
    return "00" if digits == 10 else ""


def _from_excel(days: pl.Series) -> pl.DataFrame:
    """Read days and fractions of a day, rounded to milliseconds.

    Finer digits are rounding errors of the spreadsheet.
    """
    milliseconds = (days.cast(pl.Float64) * (DAY * 1_000)).round()
    fits = milliseconds.abs() < LARGEST_SECOND
    times = split_seconds(milliseconds.set(~fits, None).cast(pl.Int64), 1_000)
    return times.with_columns(pl.col("second") + _EXCEL_EPOCH)


def _of_units(numbers: pl.Series, known: pl.Series) -> Reading:
    """Read numbers in a unit that depends on their magnitude; units may be mixed in a column."""
    size = known.abs()
    median = float(size.median() or 0.0)  # type: ignore[arg-type]
    unit = next(name for name, most in _MEDIANS.items() if median < most)
    fits_zone = {
        name: int(known.is_between(YEAR_1980 * ticks, YEAR_2100 * ticks, closed="left").sum())
        for name, ticks in TICKS.items()
    }
    units = [name for name, count in fits_zone.items() if count]
    if len(units) < 2 or sum(fits_zone.values()) < _MOST * len(known):
        return Reading(split_seconds(numbers, TICKS[unit]), f"numbers of {unit}")
    times = split_seconds(numbers, TICKS[unit])
    for other in units:
        ticks = TICKS[other]
        own = numbers.is_between(YEAR_1980 * ticks, YEAR_2100 * ticks, closed="left")
        other_times = split_seconds(numbers, ticks)
        times = times.select(
            pl.when(own).then(other_times[name]).otherwise(pl.col(name)).alias(name)
            for name in times.columns
        )
    mixed = ", ".join(f"{fits_zone[name]:,} of {name}" for name in units)
    return Reading(times, f"numbers of several units, each read in its own ({mixed})")
