"""Dates in the usual formats, with any order of day, month and year."""

from __future__ import annotations

import re

import polars as pl

from cammsr_cli.data.readers.moments import Reading, from_pattern

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
SHAPES = {
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
# The positions of day, month and year among the three numbers a, b and c of a date.
ORDERS = {"day-first": "abc", "month-first": "bac", "year-first": "cba"}


def from_dates(texts: pl.Series, kind: str, order: str | None) -> Reading:
    """Read dates of one shape; dates without a time zone are UTC."""
    return _alike(texts, kind, order) or _by_parts(texts, kind, order)


def _alike(texts: pl.Series, kind: str, order: str | None) -> Reading | None:
    """Read dates that all have exactly the format of the first one; None if they do not.

    This is the fast case: polars reads the whole column with one strptime pattern.
    """
    example = str(texts.drop_nulls()[0])
    made = _patterns_of(example, kind)
    if made is None or not texts.str.contains(made[0]).fill_null(False).all():
        return None
    patterns = made[1] if order not in made[1] else {order: made[1][order]}
    read = {name: from_pattern(texts, pattern) for name, pattern in patterns.items()}
    whole = [name for name, times in read.items() if not times["second"].null_count()]
    if not whole:
        return None
    first = whole[0]
    others = [name for name in whole[1:] if not read[first].equals(read[name])]
    description = f"dates such as {example!r}" + (f", {first.replace('-', ' ')}" if first else "")
    return Reading(read[first], description, (first, *others) if others else ())


def _patterns_of(example: str, kind: str) -> tuple[str, dict[str, str]] | None:
    """A regular expression for the format of a date, and its strptime pattern for each order.

    None if strptime cannot read the format, or not exactly.
    """
    match = re.match(SHAPES[kind].replace("(?<", "(?P<"), example)
    if match is None:
        return None
    found = {name: text for name, text in match.groupdict().items() if text is not None}
    orders: dict[str, dict[str, str]] = {"": {}}
    if kind == _NUMBERED:
        four = next((at for at in "ac" if len(found[at]) == 4), None)
        if four is None:
            return None
        orders = {
            name: dict(zip(ORDERS[name], ("%d", "%m", "%y" if four is None else "%Y"), strict=True))
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
    """A regular expression for one part of a date, with its number of digits.

    Strptime alone would accept "24" as the year 24.
    """
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
    """The possible orders of three numbers, given the position of a year of four digits.

    A date with dots is never month-first: no country writes it in this order.
    """
    if four == "a":
        return ["year-first"]
    possible = ["day-first"] if dotted else ["day-first", "month-first"]
    return possible if four == "c" else [*possible, "year-first"]


def _by_parts(texts: pl.Series, kind: str, order: str | None) -> Reading:
    """Read dates of one shape by their parts; they may differ in all other respects."""
    parts = texts.str.extract_groups(SHAPES[kind]).struct.unnest()
    example = f"dates such as {texts.drop_nulls()[0]!r}"
    if kind == _NUMBERED:
        orders, four = _orders(parts)
        if order is not None:
            orders = [order]
        parts = _ordered(parts, orders[0], four)
        description = f"{example}, {orders[0].replace('-', ' ')}"
        return Reading(_assembled(parts), description, tuple(orders) if len(orders) > 1 else ())
    if kind not in ("compact", "month"):
        month = pl.col("month").str.slice(0, 3).str.to_lowercase()
        numbers = {name: str(number) for number, name in enumerate(_MONTHS, 1)}
        parts = parts.with_columns(month=month.replace_strict(numbers, default=None))
    if kind == "month":
        parts = parts.with_columns(day=pl.when(pl.col("year").is_not_null()).then(pl.lit("1")))
    return Reading(_assembled(parts), example)


def _orders(parts: pl.DataFrame) -> tuple[list[str], str | None]:
    """The orders that most rows of three numbers allow, and the position of a four-digit year."""
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
    # Orders that give the same times are not ambiguous.
    first = seconds[fitting[0]]
    distinct = [name for name in fitting[1:] if not first.eq_missing(seconds[name]).all()]
    return [fitting[0], *distinct], four


def _ordered(parts: pl.DataFrame, order: str, four: str | None) -> pl.DataFrame:
    """Name the three numbers of dates as day, month and year.

    The day is null if the two separators differ or the year has the wrong number of digits.
    """
    day, month, year = tuple(ORDERS["year-first" if four == "a" else order])
    digits = 2 if four is None else 4
    fits = (pl.col("mark") == pl.col("other")) & (pl.col(year).str.len_bytes() == digits)
    return parts.with_columns(
        day=pl.when(fits).then(pl.col(day)), month=pl.col(month), year=pl.col(year)
    )


def _assembled(parts: pl.DataFrame) -> pl.DataFrame:
    """Combine day, month, year and, if present, time and zone into `second` and `fraction`."""
    absent_parts = [
        name
        for name in ("hour", "minute", "second", "fraction", "half", "sign", "zone_hour")
        if name not in parts.columns
    ]
    parts = parts.with_columns(pl.lit(None, pl.String).alias(name) for name in absent_parts)
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
