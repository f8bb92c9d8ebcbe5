"""Interactions: rows of a raw table to each user's sequence of events, filtered and ordered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NoReturn

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.ids import clean_ids
from cammsr_cli.data.tables import Table, counted, values_of
from cammsr_cli.errors import CammsrError

Order = Literal["time", "file"]
Duplicates = Literal["exact", "keep", "first", "last"]

# Upper bound of the median magnitude, ticks a second, name: seconds reach the year 5138.
_UNITS = (
    (1e11, 1, "seconds"),
    (1e14, 1_000, "milliseconds"),
    (1e17, 1_000_000, "microseconds"),
    (float("inf"), 1_000_000_000, "nanoseconds"),
)
_TICKS = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_YEAR_2200 = 7_258_118_400  # seconds since 1970
_LARGEST_SECOND = 9e15  # beyond it a float64 no longer tells two seconds apart
_LONGEST_SHOWN = 80  # characters of a bad value in a message
_ISO_8601 = (
    r"^(?<date>\d{4}-\d{2}-\d{2}|\d{8})"
    r"(?:[Tt ](?<hour>\d{2}):?(?<minute>\d{2})(?::?(?<second>\d{2})(?:[.,](?<fraction>\d+))?)?"
    r"\s*(?:[Zz]|UTC|(?<sign>[+-])(?<zone_hour>\d{2}):?(?<zone_minute>\d{2})?)?)?$"
)


@dataclass(frozen=True)
class Filters:
    """Which events are kept and in which order they follow one another.

    Attributes:
        min_rating: Events rated lower are dropped; None keeps all.
        duplicates: What to do with several events of one user and item: "exact" keeps the first
            of those that share their timestamp too, "keep" keeps all, "first" and "last" keep
            one in sequence order.
        k_core: Users and items with fewer events are dropped, repeated until none is left to drop.
        order: "time", or "file" for rows that already stand in the order they happened.
    """

    min_rating: float | None = None
    duplicates: Duplicates = "exact"
    k_core: int = 0
    order: Order = "time"


@dataclass(frozen=True)
class Interactions:
    """Each user's events in sequence order (CSR by user); ids in order of first appearance.

    Attributes:
        user_ids: [U] users with an event left.
        item_ids: [M] items with an event left.
        indptr: int64 [U+1].
        item: int32 [E], index into `item_ids`.
        time: int64 [E], seconds since 1970 UTC; the position in the sequence if the file has no
            timestamps.
        row: int64 [E], 0-based row of the table.
        rank: int64 [E], place of the event among all events of all users, oldest first.
        dropped_items: Items which the k-core dropped.
        notes: Counts for people.
    """

    user_ids: list[str]
    item_ids: list[str]
    indptr: NDArray[np.int64]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    row: NDArray[np.int64]
    rank: NDArray[np.int64]
    dropped_items: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)


def read_interactions(table: Table, columns: dict[str, str], filters: Filters) -> Interactions:
    """Clean, filter and order the rows of an interactions table.

    In this order: rows without a user or an item id are dropped, then events below the least
    rating, then duplicates, then what is outside the k-core. Ties in time keep the file's order.

    Args:
        table: The raw table.
        columns: Field to column: `user`, `item`, and `timestamp` unless `filters.order` is
            "file", and `rating` if there is a least one.
        filters: What to keep.

    Raises:
        CammsrError: A timestamp or a rating cannot be read, or nothing is left.
    """
    notes = list(table.notes)
    events, user_ids, item_ids = _identified(table, columns, notes)
    if filters.min_rating is not None:
        events = _rated(events, table, columns["rating"], filters.min_rating, notes)
    timed = "timestamp" in columns
    if timed:
        events = _timed(events, table, columns["timestamp"], notes)
        if filters.order == "time":
            _note_far_future(events, table, columns["timestamp"], notes)
    order = ["row"] if filters.order == "file" else ["second", "fraction", "row"]
    events = events.sort(order)
    events = _without_duplicates(events, filters.duplicates, timed, notes)
    before = events
    if filters.k_core > 1:
        events = _core(events, filters.k_core, notes)
    if filters.order == "file" and timed:
        _note_backward_steps(events, notes)
    return _sequences(events, before, user_ids, item_ids, timed, notes)


def _identified(
    table: Table, columns: dict[str, str], notes: list[str]
) -> tuple[pl.DataFrame, list[str], list[str]]:
    """Events with `row`, `user` and `item` as integers; users and items by first appearance."""
    ids = pl.DataFrame(
        {
            "row": np.arange(table.frame.height),
            "user": clean_ids(table, columns["user"], notes),
            "item": clean_ids(table, columns["item"], notes),
        }
    )
    named = ids.drop_nulls()
    if named.is_empty():
        raise CammsrError(
            f"{table.path}: no row has both a user and an item id",
            f"Columns {columns['user']!r} and {columns['item']!r} were read: "
            "map others with --map user=COLUMN --map item=COLUMN",
        )
    missing = ids.height - named.height
    if missing:
        notes.append(f"{counted(missing, 'row')} without a user or an item id dropped")
    users, user_ids = _encode(named["user"])
    items, item_ids = _encode(named["item"])
    return named.with_columns(user=users, item=items), user_ids, item_ids


def _encode(ids: pl.Series) -> tuple[pl.Series, list[str]]:
    distinct = ids.unique(maintain_order=True)
    return ids.cast(pl.Enum(distinct)).to_physical().cast(pl.Int64), distinct.to_list()


def _fail(table: Table, row: int, column: str, what: str, hint: str) -> NoReturn:
    [value] = values_of(table, column, [row])
    said = repr(value)
    said = said if len(said) <= _LONGEST_SHOWN else f"{said[:_LONGEST_SHOWN]}…"
    shown = "is empty" if value is None or value == "" else f"is {said}"
    raise CammsrError(f"{table.place(row)}: {column} {shown}, {what}", hint)


# --- ratings ------------------------------------------------------------------------------------


def _rated(
    events: pl.DataFrame, table: Table, column: str, least: float, notes: list[str]
) -> pl.DataFrame:
    ratings = table.frame[column].gather(events["row"])
    if ratings.dtype == pl.String:
        ratings = ratings.str.strip_chars()
    if ratings.dtype.is_nested() or ratings.dtype == pl.Boolean:
        values = pl.Series([None] * events.height, dtype=pl.Float64)
    else:
        values = ratings.cast(pl.Float64, strict=False)
    bad = (~values.is_finite().fill_null(False)).arg_true()
    if len(bad):
        row = int(events["row"][int(bad[0])])
        _fail(table, row, column, "not a number", "Mend that row, or leave out --min-rating.")
    kept = events.filter(values >= least)
    if kept.is_empty():
        raise CammsrError(
            f"{table.path}: nothing is left: all {counted(events.height, 'event')} "
            f"are rated below {least:g}",
            f"The highest rating is {float(values.to_numpy().max()):g}: lower --min-rating.",
        )
    if kept.height < events.height:
        dropped = events.height - kept.height
        notes.append(f"{counted(dropped, 'event')} below rating {least:g} dropped")
    return kept


# --- timestamps ---------------------------------------------------------------------------------


def _timed(events: pl.DataFrame, table: Table, column: str, notes: list[str]) -> pl.DataFrame:
    """Add `second` (int64) and `fraction`, what the second leaves over, to tell ties apart."""
    values = table.frame[column].gather(events["row"])
    if values.dtype == pl.String:
        times = _from_strings(values.str.strip_chars(), table, column, events, notes)
    elif isinstance(values.dtype, pl.Datetime):
        ticks = values.to_physical()
        times = _split(ticks, _TICKS[values.dtype.time_unit])
    elif values.dtype == pl.Date:
        times = _split(values.to_physical().cast(pl.Int64) * 86_400, 1)
    elif values.dtype.is_numeric():
        times = _from_numbers(values, table, notes)
    else:
        times = _split(pl.Series([None] * len(values), dtype=pl.Int64), 1)
    unread = times["second"].is_null().arg_true()
    if len(unread):
        _fail_time(table, int(events["row"][int(unread[0])]), column)
    return events.hstack(times)


def _fail_time(table: Table, row: int, column: str) -> NoReturn:
    _fail(
        table,
        row,
        column,
        "not a timestamp (a number of s, ms, µs or ns, or an ISO 8601 date)",
        "Mend that row, or map another column: --map timestamp=COLUMN",
    )


def _from_strings(
    values: pl.Series, table: Table, column: str, events: pl.DataFrame, notes: list[str]
) -> pl.DataFrame:
    """All numbers, or all ISO 8601; a value of the rarer kind is a fault."""
    numbers = values.cast(pl.Int64, strict=False)
    if numbers.null_count():
        numbers = values.cast(pl.Float64, strict=False)
    if not numbers.null_count():
        return _from_days(numbers) if _are_days(numbers) else _from_numbers(numbers, table, notes)
    dates = _from_iso(values)
    date_count = len(values) - dates["second"].null_count()
    number_count = len(values) - numbers.null_count()
    minority = numbers if number_count < date_count else dates["second"]
    if number_count and date_count:
        odd = int(minority.is_not_null().arg_true()[0])
        _fail_time(table, int(events["row"][odd]), column)
    return _from_numbers(numbers, table, notes) if number_count else dates


def _from_numbers(values: pl.Series, table: Table, notes: list[str]) -> pl.DataFrame:
    if values.dtype.is_integer():
        values = values.cast(pl.Int64, strict=False)
    else:
        values = values.cast(pl.Float64)
        values = values.to_frame("v").select(pl.when(pl.col("v").is_finite()).then("v")).to_series()
    known = values.drop_nulls().to_numpy()
    median = float(np.median(np.abs(known))) if len(known) else 0.0
    _, ticks, unit = next(row for row in _UNITS if median < row[0])
    times = _split(values, ticks)
    notes.append(f"timestamps of {table.path.name} are numbers, read as {unit}{_span(times)}")
    return times


def _note_far_future(events: pl.DataFrame, table: Table, column: str, notes: list[str]) -> None:
    """Where units are mixed, the finer ones become times that are far off, at a sequence's end."""
    late = events.filter(pl.col("second") >= _YEAR_2200)["row"]
    if late.is_empty():
        return
    [value] = values_of(table, column, late[:1].to_list())
    notes.append(
        f"{counted(len(late), 'event')} later than the year 2200, such as {column} {value} "
        f"({table.place(late[0])}), put last: perhaps milliseconds among seconds, or another unit; "
        "write all timestamps in one unit, or leave those rows out"
    )


def _span(times: pl.DataFrame) -> str:
    """First and last day, so that a wrong unit or a stray value is seen."""
    days = times["second"].drop_nulls().to_numpy() // 86_400
    if not len(days):
        return ""
    return f" ({np.datetime64(int(days.min()), 'D')} to {np.datetime64(int(days.max()), 'D')})"


def _are_days(numbers: pl.Series) -> bool:
    """Whether all numbers are dates written YYYYMMDD."""
    if not numbers.dtype.is_integer() or not len(numbers):
        return False
    plausible = numbers.is_between(19_000_101, 21_001_231).all()
    return bool(plausible) and not _from_days(numbers)["second"].null_count()


def _from_days(numbers: pl.Series) -> pl.DataFrame:
    return _from_iso(numbers.cast(pl.String))


def _split(values: pl.Series, ticks: int) -> pl.DataFrame:
    """Whole seconds, rounded down, and the ticks left over; null where out of range."""
    value = pl.col("value")
    whole = (value / ticks).floor() if values.dtype.is_float() else value // ticks
    return (
        values.to_frame("value")
        .select(
            second=pl.when(whole.abs() <= _LARGEST_SECOND).then(whole),
            fraction=value - whole * ticks,
        )
        .with_columns(pl.col("second").cast(pl.Int64))
    )


def _from_iso(values: pl.Series) -> pl.DataFrame:
    """ISO 8601 dates and times; without a zone they are UTC. The fraction is nanoseconds."""

    def number(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.Int64).fill_null(0)

    parts = values.str.extract_groups(_ISO_8601).struct.unnest()
    clock = pl.concat_str(
        pl.col("date").str.replace_all("-", ""),
        *(pl.col(name).fill_null("00") for name in ("hour", "minute", "second")),
    )
    seconds = clock.str.to_datetime("%Y%m%d%H%M%S", time_unit="ms", strict=False).dt.epoch("s")
    offset = number("zone_hour") * 3600 + number("zone_minute") * 60
    sign = pl.when(pl.col("sign") == "-").then(-1).otherwise(1)
    return parts.select(
        second=seconds - sign * offset,
        fraction=pl.col("fraction")
        .fill_null("")
        .str.slice(0, 9)
        .str.pad_end(9, "0")
        .cast(pl.Int64),
    )


def _note_backward_steps(events: pl.DataFrame, notes: list[str]) -> None:
    steps = events.select(pl.col("second").diff().over("user") < 0).to_series()
    backward = int(steps.sum())
    if backward:
        notes.append(
            f"{counted(backward, 'event')} earlier than the one before, by the timestamps; "
            "the file's order is kept"
        )


# --- duplicates and the k-core ------------------------------------------------------------------


def _without_duplicates(
    events: pl.DataFrame, duplicates: Duplicates, timed: bool, notes: list[str]
) -> pl.DataFrame:
    """`events` are in sequence order. Rows without a timestamp are never exact duplicates."""
    if duplicates == "keep" or (duplicates == "exact" and not timed):
        return events
    same = ["user", "item", *(["second", "fraction"] if duplicates == "exact" else [])]
    keep: Literal["first", "last"] = "last" if duplicates == "last" else "first"
    kept = events.unique(same, keep=keep, maintain_order=True)
    if kept.height < events.height:
        what = "same user, item and timestamp" if duplicates == "exact" else "same user and item"
        dropped = counted(events.height - kept.height, "duplicate event")
        notes.append(f"{dropped} ({what}) dropped, the {keep} kept")
    return kept


def _core(events: pl.DataFrame, k: int, notes: list[str]) -> pl.DataFrame:
    index = k_core(events["user"].to_numpy(), events["item"].to_numpy(), k)
    if not len(index):
        raise CammsrError(
            f"nothing is left: no users and items have {k} events with one another "
            f"({counted(events.height, 'event')} before the {k}-core)",
            "Lower --k-core.",
        )
    kept = events[index]
    if kept.height < events.height:
        users = events["user"].n_unique() - kept["user"].n_unique()
        items = events["item"].n_unique() - kept["item"].n_unique()
        notes.append(
            f"{counted(events.height - kept.height, 'event')} outside the {k}-core dropped, "
            f"with {counted(users, 'user')} and {counted(items, 'item')}"
        )
    return kept


def k_core(user: NDArray[np.int64], item: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The largest set of events in which every user and every item has at least `k`.

    Args:
        user: int64 [E], user of each event, from 0.
        item: int64 [E], item of each event, from 0.
        k: The least number of events.

    Returns:
        int64 [E'], positions of the events kept, ascending.
    """
    index = np.arange(len(user))
    while True:
        often = (np.bincount(user)[user] >= k) & (np.bincount(item)[item] >= k)
        if often.all():
            return index
        user, item, index = user[often], item[often], index[often]


# --- sequences ----------------------------------------------------------------------------------


def _sequences(
    events: pl.DataFrame,
    before_core: pl.DataFrame,
    user_ids: list[str],
    item_ids: list[str],
    timed: bool,
    notes: list[str],
) -> Interactions:
    """Group by user what is in order already; number anew the users and items that are left."""
    users, user = np.unique(events["user"].to_numpy(), return_inverse=True)
    items, item = np.unique(events["item"].to_numpy(), return_inverse=True)
    by_user = np.argsort(user, kind="stable")
    indptr = np.zeros(len(users) + 1, dtype=np.int64)
    np.cumsum(np.bincount(user), out=indptr[1:])
    if timed:
        time = events["second"].to_numpy()[by_user]
    else:
        time = np.arange(len(user)) - np.repeat(indptr[:-1], np.diff(indptr))
    dropped = np.setdiff1d(before_core["item"].unique().to_numpy(), items)
    return Interactions(
        user_ids=[user_ids[index] for index in users],
        item_ids=[item_ids[index] for index in items],
        indptr=indptr,
        item=item[by_user].astype(np.int32),
        time=time.astype(np.int64),
        row=events["row"].to_numpy()[by_user].astype(np.int64),
        rank=by_user.astype(np.int64),
        dropped_items=frozenset(item_ids[index] for index in dropped),
        notes=notes,
    )
