"""Times as raw files write them: numbers of any unit, and dates in the usual forms.

A column is read one way throughout, the one that its values allow. Where they allow two, the user
is asked. Everything is told in words, so that a wrong guess is seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.readers.faults import fail_at
from cammsr_cli.data.readers.tables import Table, values_of
from cammsr_cli.errors import CammsrError, UsageError

NAMED_FORMATS = (
    *("seconds", "milliseconds", "microseconds", "nanoseconds", "excel"),
    *("day-first", "month-first", "year-first"),
)
"""What `--time-format` takes beside a strptime pattern."""

_TICKS = {
    "seconds": 1,
    "milliseconds": 1_000,
    "microseconds": 1_000_000,
    "nanoseconds": 1_000_000_000,
}
_UNITS = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# Median magnitude below which numbers are of a unit: seconds reach the year 5138.
_MEDIANS = {"seconds": 1e11, "milliseconds": 1e14, "microseconds": 1e17, "nanoseconds": np.inf}
# Seconds since 1970 of the times that logs are of. Those of one unit are never those of another.
YEAR_1980, YEAR_2100, YEAR_2200 = 315_532_800, 4_102_444_800, 7_258_118_400
_LARGEST_SECOND = 9e15  # beyond it a float64 no longer tells two seconds apart
DAY = 86_400
_EXCEL_EPOCH = -25_569 * DAY  # 1899-12-30
_EXCEL_DAYS = (29_221, 73_051)  # 1980 to 2099
# So many of a column's numbers are of a form where it is read as that form; others are faults.
_MOST = 0.9
_SAMPLE = 10_000
_SAMPLE_OF_OTHERS = 1_000
_FURTHEST_ZONE, _ZONE_STEP = 14 * 3_600, 900  # seconds
# Numbers that are dates by their digits: how many, their strptime pattern, how people write it.
_DIGITS = {
    6: ("%Y%m", "YYYYMM"),
    8: ("%Y%m%d", "YYYYMMDD"),
    10: ("%Y%m%d%H%M", "YYYYMMDDHH"),
    12: ("%Y%m%d%H%M", "YYYYMMDDHHMM"),
    14: ("%Y%m%d%H%M%S", "YYYYMMDDHHMMSS"),
    17: ("%Y%m%d%H%M%S%3f", "YYYYMMDDHHMMSSmmm"),
}

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = (
    r"(?<hour>[0-9]{1,2}):?(?<minute>[0-9]{2})(?::?(?<second>[0-9]{2})(?:[.,](?<fraction>[0-9]+))?)?"
    r"(?:\s*(?<half>[AaPp]\.?[Mm]\.?))?"
)
_ZONE = (
    r"(?:[Zz]|UTC|GMT|(?:UTC|GMT)?(?<sign>[+-])(?<zone_hour>[0-9]{1,2}):?(?<zone_minute>[0-9]{2})?)"
)
_TAIL = rf"(?:(?:[Tt]|,?\s+){_CLOCK}(?:\s*{_ZONE}(?:\s*\([^()]*\))?)?)?$"
_WEEKDAY = r"^(?:(?<weekday>[A-Za-z]{2,9})\.?,?\s+)?"
_MONTH_NAME = (
    r"(?<month>(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|"
    r"sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?))\.?"
)
_DAY_NUMBER = r"(?<day>[0-9]{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?<year>[0-9]{4})"
_NUMBERED = "numbered"
_SHAPES = {
    _NUMBERED: rf"{_WEEKDAY}(?<a>[0-9]{{4}}|[0-9]{{1,2}})(?<mark>[-/.])(?<b>[0-9]{{1,2}})"
    rf"(?<other>[-/.])(?<c>[0-9]{{4}}|[0-9]{{1,2}}){_TAIL}",
    "compact": rf"^{_YEAR}(?<month>[0-9]{{2}})(?<day>[0-9]{{2}}){_TAIL}",
    "month": rf"^{_YEAR}[-/](?<month>[0-9]{{1,2}})$",
    "day, month": rf"{_WEEKDAY}{_DAY_NUMBER}[-\s./]+{_MONTH_NAME}[-\s./,]+{_YEAR}{_TAIL}",
    "month, day": rf"{_WEEKDAY}{_MONTH_NAME}[-\s]+{_DAY_NUMBER}(?:,\s*|[-\s]+){_YEAR}{_TAIL}",
    "year, month": rf"^{_YEAR}[-\s./]{_MONTH_NAME}[-\s./]{_DAY_NUMBER}{_TAIL}",
    "clock, year": rf"{_WEEKDAY}{_MONTH_NAME}\s+{_DAY_NUMBER},?\s+{_CLOCK}"
    rf"(?:\s+{_ZONE})?\s+{_YEAR}$",
}
_TOKENS = {
    **{"weekday": "%A", "day": "%d", "month": "%B", "year": "%Y", "hour": "%H", "minute": "%M"},
    **{"second": "%S", "fraction": "%.f", "half": "%p", "sign": "%z"},
}
# The places of day, month and year among the three numbers of a date.
_ORDERS = {"day-first": "abc", "month-first": "bac", "year-first": "cba"}


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
    told: str
    readings: tuple[str, ...] = ()


def checked_time_format(text: str) -> str:
    """A `--time-format`: one of `NAMED_FORMATS`, or a strptime pattern with a fraction as "%.f".

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
    """The times of some rows, and how they were understood.

    Args:
        table: The raw table.
        column: Its column of times.
        rows: Row numbers.
        time_format: How times are written, as `checked_time_format` gives it; None finds out.
        may_lack: Whether a row need not have one, for each; null stands for it then.

    Returns:
        Columns `second`, int64 since 1970 UTC, and `fraction`, int64 nanoseconds, of each row; and
        the words.

    Raises:
        CammsrError: A value is no time, or all of them may be read in two ways.
    """
    values = table.frame[column].gather(rows)
    reading = read_values(values, time_format)
    lacks = reading.times["second"].is_null()
    unread = (lacks if may_lack is None else lacks & ~may_lack).arg_true()
    if len(unread):
        known = reading.told or "a number of s, ms, µs or ns, or a date such as 2024-03-20"
        fail_at(
            table,
            int(rows[int(unread[0])]),
            column,
            f"not a timestamp {'like the others ' if reading.told else ''}({known})",
            "Mend that row, say how times are written (such as --time-format '%d/%m/%Y %H:%M'), or "
            "map another column: --map timestamp=COLUMN",
        )
    if reading.readings:
        _ask(table, column, rows, values, reading.readings)
    return reading.times, reading.told


def _ask(
    table: Table, column: str, rows: pl.Series, values: pl.Series, readings: Sequence[str]
) -> None:
    """Refuse what may be read in several ways, showing a value that these ways tell apart."""
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
    """Another column that tells the same times more finely; None if there is none.

    It is looked for where times are whole days, hours, minutes or seconds, in a sample of the rows:
    the finer times lie within those days or hours, whatever zone either is in.

    Args:
        table: The raw table.
        column: The column of times.
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
        within = (after >= zone - margin).all() and (after < zone + grain + margin).all()
        if within and abs(zone) <= _FURTHEST_ZONE and np.ptp(after) > 0:
            distinct = len(np.unique(fine))
            found = max(found, (distinct, other)) if found else (distinct, other)
    return found[1] if found else None


def _moments(values: pl.Series) -> NDArray[np.float64] | None:
    """Seconds since 1970 with their fractions; None unless all can be read, most of our days."""
    reading = read_values(values)
    second = reading.times["second"]
    if not len(second) or second.null_count() or reading.readings:
        return None
    if int(second.is_between(YEAR_1980, YEAR_2100).sum()) < _MOST * len(second):
        return None
    return (second + reading.times["fraction"] / _TICKS["nanoseconds"]).to_numpy()


def read_values(values: pl.Series, time_format: str | None = None) -> Reading:
    """Read a column one way throughout; what does not fit is null.

    Args:
        values: Of any type.
        time_format: As `checked_time_format` gives it; None finds out.
    """
    if time_format is not None and time_format not in _ORDERS:
        return _as_told(values, time_format)
    if values.dtype == pl.String:
        return _from_strings(values.str.strip_chars(), time_format)
    if isinstance(values.dtype, pl.Datetime):
        unit = _UNITS[values.dtype.time_unit]
        return Reading(_split(values.to_physical(), _TICKS[unit]), "dates of the file's own type")
    if values.dtype == pl.Date:
        days = values.to_physical().cast(pl.Int64)
        return Reading(_split(days * DAY, 1), "dates of the file's own type")
    if values.dtype.is_numeric() and time_format is None:
        return _from_numbers(_numbers(values))
    return Reading(_split(pl.Series([None] * len(values), dtype=pl.Int64), 1), "")


def _as_told(values: pl.Series, time_format: str) -> Reading:
    """Numbers of a named unit, or what fits a strptime pattern."""
    if values.dtype.is_temporal() or values.dtype.is_nested():
        return Reading(_split(pl.Series([None] * len(values), dtype=pl.Int64), 1), time_format)
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    if time_format not in NAMED_FORMATS:
        if values.dtype.is_float():
            values = values.cast(pl.Int64, strict=False)
        return Reading(_from_pattern(values.cast(pl.String), time_format), time_format)
    numbers = _numbers(values)
    if time_format == "excel":
        return Reading(_from_excel(numbers), "days since 1899-12-30, as Excel counts them")
    return Reading(_split(numbers, _TICKS[time_format]), f"numbers of {time_format}")


def _from_pattern(texts: pl.Series, pattern: str) -> pl.DataFrame:
    times = texts.str.to_datetime(pattern, time_unit="us", strict=False)
    return _split(times.to_physical(), _TICKS["microseconds"])


def _from_strings(texts: pl.Series, order: str | None) -> Reading:
    """All numbers, or all dates of one shape; a value of a rarer kind is a fault."""
    whole = texts.cast(pl.Int64, strict=False)
    if order is None and len(whole) and not whole.null_count():
        return _from_numbers(whole)
    some = texts.drop_nulls().gather_every(max(1, len(texts) // _SAMPLE))
    finite = some.cast(pl.Float64, strict=False).is_finite().sum() if order is None else 0
    counts = {"": int(finite)} | {
        name: int(some.str.contains(shape).sum()) for name, shape in _SHAPES.items()
    }
    kind = max(counts, key=lambda name: counts[name])
    if not counts[kind]:
        return Reading(_split(whole.clear(len(whole)), 1), "")
    if not kind:
        return _from_numbers(_numbers(texts))
    return _from_dates(texts, kind, order)


# --- numbers ------------------------------------------------------------------------------------


def _numbers(values: pl.Series) -> pl.Series:
    """Int64, or Float64 where some are no whole numbers; null where there is none."""
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
        return Reading(_from_pattern(texts, pattern), f"numbers written {written}")
    days = int(known.is_between(*_EXCEL_DAYS, closed="left").sum())
    if len(known) and days >= _MOST * len(known):
        return Reading(_from_excel(numbers), "days since 1899-12-30, as Excel counts them")
    return _of_units(numbers, known)


def _digits_of(known: pl.Series) -> int | None:
    """How many digits dates have that are written as numbers; None where they are no dates."""
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
    """What is put after a date of so many digits: strptime takes no hours without minutes."""
    return "00" if digits == 10 else ""


def _from_excel(days: pl.Series) -> pl.DataFrame:
    """Days and parts of a day, to the millisecond: more of it is rounding of the spreadsheet."""
    milliseconds = (days.cast(pl.Float64) * (DAY * 1_000)).round()
    fits = milliseconds.abs() < _LARGEST_SECOND
    times = _split(milliseconds.set(~fits, None).cast(pl.Int64), 1_000)
    return times.with_columns(pl.col("second") + _EXCEL_EPOCH)


def _of_units(numbers: pl.Series, known: pl.Series) -> Reading:
    """Numbers of a unit told by their size; where units are mixed, each in its own."""
    size = known.abs()
    median = float(size.median() or 0.0)  # type: ignore[arg-type]
    unit = next(name for name, most in _MEDIANS.items() if median < most)
    within = {
        name: int(known.is_between(YEAR_1980 * ticks, YEAR_2100 * ticks, closed="left").sum())
        for name, ticks in _TICKS.items()
    }
    units = [name for name, count in within.items() if count]
    if len(units) < 2 or sum(within.values()) < _MOST * len(known):
        return Reading(_split(numbers, _TICKS[unit]), f"numbers of {unit}")
    times = _split(numbers, _TICKS[unit])
    for other in units:
        ticks = _TICKS[other]
        own = numbers.is_between(YEAR_1980 * ticks, YEAR_2100 * ticks, closed="left")
        other_times = _split(numbers, ticks)
        times = times.select(
            pl.when(own).then(other_times[name]).otherwise(pl.col(name)).alias(name)
            for name in times.columns
        )
    mixed = ", ".join(f"{within[name]:,} of {name}" for name in units)
    return Reading(times, f"numbers of several units, each read in its own ({mixed})")


def _split(values: pl.Series, ticks: int) -> pl.DataFrame:
    """Whole seconds, rounded down, and the nanoseconds left over; null where out of range."""
    value = pl.col("value")
    whole = (value / ticks).floor() if values.dtype.is_float() else value // ticks
    fraction = (value - whole * ticks) * (_TICKS["nanoseconds"] // ticks)
    fraction = fraction.round() if values.dtype.is_float() else fraction
    fits = whole.abs() <= _LARGEST_SECOND
    return values.to_frame("value").select(
        second=pl.when(fits).then(whole).cast(pl.Int64),
        fraction=pl.when(fits).then(fraction).cast(pl.Int64),
    )


# --- dates --------------------------------------------------------------------------------------


def _from_dates(texts: pl.Series, kind: str, order: str | None) -> Reading:
    """Dates of one shape; without a zone they are UTC."""
    return _alike(texts, kind, order) or _taken_apart(texts, kind, order)


def _alike(texts: pl.Series, kind: str, order: str | None) -> Reading | None:
    """Dates that are all written just like the first, which polars reads fastest; else None."""
    example = str(texts.drop_nulls()[0])
    made = _patterns_of(example, kind)
    if made is None or not texts.str.contains(made[0]).fill_null(False).all():
        return None
    patterns = made[1] if order not in made[1] else {order: made[1][order]}
    read = {name: _from_pattern(texts, pattern) for name, pattern in patterns.items()}
    whole = [name for name, times in read.items() if not times["second"].null_count()]
    if not whole:
        return None
    first = whole[0]
    others = [name for name in whole[1:] if not read[first].equals(read[name])]
    told = f"dates such as {example!r}" + (f", {first.replace('-', ' ')}" if first else "")
    return Reading(read[first], told, (first, *others) if others else ())


def _patterns_of(example: str, kind: str) -> tuple[str, dict[str, str]] | None:
    """What a date looks like as a regular expression, and by its possible orders for strptime.

    None where strptime would not read it, or not exactly.
    """
    match = re.match(_SHAPES[kind].replace("(?<", "(?P<"), example)
    if match is None:
        return None
    found = {name: text for name, text in match.groupdict().items() if text is not None}
    orders: dict[str, dict[str, str]] = {"": {}}
    if kind == _NUMBERED:
        four = next((at for at in "ac" if len(found[at]) == 4), None)
        if four is None:
            return None
        orders = {
            name: dict(
                zip(_ORDERS[name], ("%d", "%m", "%y" if four is None else "%Y"), strict=True)
            )
            for name in _possible_orders(four, found["mark"] == ".")
        }
    tokens = dict(_TOKENS)
    if "half" in found:
        tokens["hour"] = "%I"
    if kind in ("compact", "month"):
        tokens["month"] = "%m"
    expression, patterns, done = "^", dict.fromkeys(orders, ""), 0
    for name in sorted(found, key=match.start):
        if name in ("mark", "other", "zone_hour", "zone_minute"):
            continue
        start, end = match.span(name)
        if name == "sign":
            if "zone_minute" not in found:
                return None
            end = match.end("zone_minute")
        if name == "fraction":
            start -= 1
        if example[start] == "," or (name == "half" and len(found[name]) > 2):
            return None
        between = example[done:start]
        expression += re.escape(between) + _looks_like(name, found[name], kind == "compact")
        for order, own in orders.items():
            patterns[order] += between.replace("%", "%%") + (own.get(name) or tokens[name])
        done = end
    expression += re.escape(example[done:]) + "$"
    rest = example[done:].replace("%", "%%")
    return expression, {order: text + rest for order, text in patterns.items()}


def _looks_like(name: str, text: str, fixed: bool) -> str:
    """A part of a date as a regular expression: strptime alone takes the year 24 for 24."""
    if name == "sign":
        return "[+-][0-9]{2}:?[0-9]{2}"
    if name == "fraction":
        return r"(?:\.[0-9]{1,6})?"
    if text.isalpha():
        return "[A-Za-z]+"
    if len(text) == 4:
        return "[0-9]{4}"
    return "[0-9]{2}" if fixed or name in ("minute", "second") else "[0-9]{1,2}"


def _possible_orders(four: str | None, dotted: bool) -> list[str]:
    """The orders of three numbers, by the place of a year of four digits.

    With dots the day comes first: no country writes otherwise.
    """
    if four == "a":
        return ["year-first"]
    possible = ["day-first"] if dotted else ["day-first", "month-first"]
    return possible if four == "c" else [*possible, "year-first"]


def _taken_apart(texts: pl.Series, kind: str, order: str | None) -> Reading:
    """Dates of one shape, however else they differ from one another."""
    parts = texts.str.extract_groups(_SHAPES[kind]).struct.unnest()
    example = f"dates such as {texts.drop_nulls()[0]!r}"
    if kind == _NUMBERED:
        orders, four = _orders(parts)
        if order is not None:
            orders = [order]
        parts = _ordered(parts, orders[0], four)
        told = f"{example}, {orders[0].replace('-', ' ')}"
        return Reading(_assembled(parts), told, tuple(orders) if len(orders) > 1 else ())
    if kind not in ("compact", "month"):
        month = pl.col("month").str.slice(0, 3).str.to_lowercase()
        numbers = {name: str(number) for number, name in enumerate(_MONTHS, 1)}
        parts = parts.with_columns(month=month.replace_strict(numbers, default=None))
    if kind == "month":
        parts = parts.with_columns(day=pl.when(pl.col("year").is_not_null()).then(pl.lit("1")))
    return Reading(_assembled(parts), example)


def _orders(parts: pl.DataFrame) -> tuple[list[str], str | None]:
    """The orders that most rows of three numbers allow, and where the year of four digits is."""
    wide = {at: int((parts[at].str.len_bytes() == 4).sum()) for at in "ac"}
    four = max(wide, key=lambda at: wide[at]) if any(wide.values()) else None
    dotted = int((parts["mark"] == ".").sum()) * 2 > parts.height
    possible = _possible_orders(four, dotted)
    if len(possible) == 1:
        return possible, four
    known = parts.drop_nulls("a")
    misfits: dict[str, int] = {}
    seconds: dict[str, pl.Series] = {}
    for name in possible:
        seconds[name] = _assembled(_ordered(known, name, four))["second"]
        misfits[name] = seconds[name].null_count()
    fewest = min(misfits.values())
    fitting = [name for name in possible if misfits[name] == fewest]
    # Readings that come to the same times leave nothing to ask.
    first = seconds[fitting[0]]
    distinct = [name for name in fitting[1:] if not first.eq_missing(seconds[name]).all()]
    return [fitting[0], *distinct], four


def _ordered(parts: pl.DataFrame, order: str, four: str | None) -> pl.DataFrame:
    """The three numbers of dates as day, month and year; null where marks or the year differ."""
    day, month, year = tuple(_ORDERS["year-first" if four == "a" else order])
    digits = 2 if four is None else 4
    fits = (pl.col("mark") == pl.col("other")) & (pl.col(year).str.len_bytes() == digits)
    return parts.with_columns(
        day=pl.when(fits).then(pl.col(day)), month=pl.col(month), year=pl.col(year)
    )


def _assembled(parts: pl.DataFrame) -> pl.DataFrame:
    """Day, month, year and what there is of clock and zone, as `second` and `fraction`."""
    lacking = [
        name
        for name in ("hour", "minute", "second", "fraction", "half", "sign", "zone_hour")
        if name not in parts.columns
    ]
    parts = parts.with_columns(pl.lit(None, pl.String).alias(name) for name in lacking)
    if "zone_minute" not in parts.columns:
        parts = parts.with_columns(zone_minute=pl.lit(None, pl.String))

    def number(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.Int64).fill_null(0)

    short = number("year") + pl.when(number("year") < 69).then(2000).otherwise(1900)
    year = pl.when(pl.col("year").str.len_bytes() == 2).then(short).otherwise(number("year"))
    hour, half = number("hour"), pl.col("half").str.slice(0, 1).str.to_lowercase()
    afternoon = pl.when(half == "p").then(12).otherwise(0)
    hour = (
        pl.when(half.is_null())
        .then(hour)
        .otherwise(pl.when(hour.is_between(1, 12)).then(hour % 12 + afternoon).otherwise(99))
    )
    date = pl.concat_str(year, "month", "day", separator="-")
    clock = pl.concat_str(hour, number("minute"), number("second"), separator=":")
    moment = pl.concat_str(date, clock, separator=" ")
    seconds = moment.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False)
    offset = number("zone_hour") * 3600 + number("zone_minute") * 60
    sign = pl.when(pl.col("sign") == "-").then(-1).otherwise(1)
    return parts.select(
        second=seconds.dt.epoch("s") - sign * offset,
        fraction=pl.col("fraction")
        .fill_null("")
        .str.slice(0, 9)
        .str.pad_end(9, "0")
        .cast(pl.Int64),
    )
