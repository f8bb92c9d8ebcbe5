"""Interactions: rows of a raw table to each user's sequence of events, filtered and ordered."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.readers.faults import fail_at
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.tables import Table, counted, values_of
from cammsr_cli.data.readers.timestamps import DAY, YEAR_1980, YEAR_2100, YEAR_2200, read_times
from cammsr_cli.errors import CammsrError

Order = Literal["time", "file"]
Duplicates = Literal["exact", "keep", "first", "last"]

_YEAR_1990 = 631_152_000  # seconds since 1970


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
        time_format: How times are written, as `timestamps.checked_time_format` gives it; None
            finds out.
    """

    min_rating: float | None = None
    duplicates: Duplicates = "exact"
    k_core: int = 0
    order: Order = "time"
    time_format: str | None = None


def _nothing_rejected() -> pl.DataFrame:
    return pl.DataFrame(schema={"user": pl.Int64, "item": pl.String})


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
        tied: bool [E], whether nothing tells the event's order and that of the user's one before:
            their times are the same, fractions of a second too, and the file is in no order.
        rank: int64 [E], place of the event among all events of all users, oldest first.
        dropped_items: Items which the k-core dropped.
        rejected: Column `user`, index into `user_ids`, and `item`, an id: what users rated too low
            and of which no event is left; sorted by user, no pair is there twice.
        times: What times were understood as, in words; "" if there are none.
        notes: Counts for people; what is told of times is among them.
    """

    user_ids: list[str]
    item_ids: list[str]
    indptr: NDArray[np.int64]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    row: NDArray[np.int64]
    rank: NDArray[np.int64]
    tied: NDArray[np.bool_]
    dropped_items: frozenset[str] = frozenset()
    rejected: pl.DataFrame = field(default_factory=_nothing_rejected)
    times: str = ""
    notes: list[str] = field(default_factory=list)


def read_interactions(
    table: Table, columns: dict[str, str], filters: Filters, chosen: pl.Series | None = None
) -> Interactions:
    """Clean, filter and order the rows of an interactions table.

    In this order: rows without a user or an item id are dropped, then events below the least
    rating, then duplicates, then what is outside the k-core. Ties in time keep the file's order.

    Args:
        table: The raw table.
        columns: Field to column: `user`, `item`, and `timestamp` unless `filters.order` is
            "file", and `rating` if there is a least one.
        filters: What to keep.
        chosen: Whether a row counts at all, for each; None where all do.

    Raises:
        CammsrError: A timestamp or a rating cannot be read, or nothing is left.
    """
    notes = list(table.notes)
    events, user_ids, item_ids = _identified(table, columns, notes)
    if chosen is not None:
        events = events.filter(chosen.gather(events["row"]))
        if events.is_empty():
            raise CammsrError(
                f"{table.path}: no chosen row has both a user and an item id", "Choose others."
            )
    low: pl.DataFrame | None = None
    if filters.min_rating is not None:
        every = events
        events = _rated(events, table, columns["rating"], filters.min_rating, notes)
        low = every.join(events, on="row", how="anti")
    timed = "timestamp" in columns
    told = ""
    if timed:
        column = columns["timestamp"]
        times, told = read_times(table, column, events["row"], filters.time_format)
        events = events.hstack(times)
        if filters.order == "time":
            _note_far_off(events, table, column, notes)
    order = ["row"] if filters.order == "file" else ["second", "fraction", "row"]
    events = events.sort(order)
    events = _without_duplicates(events, filters.duplicates, timed, notes)
    before = events
    if filters.k_core > 1:
        events = _core(events, filters.k_core, notes)
    log = _sequences(events, before, user_ids, item_ids, timed, filters.order, notes)
    if timed:
        log = replace(log, times=_told_times(log, table, columns["timestamp"], told, filters.order))
        notes.append(log.times)
    if filters.order == "file" and timed:
        _note_backward_steps(events, notes)
    if low is None or low.is_empty():
        return log
    return replace(log, rejected=_rejected(low, events, item_ids))


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
        fail_at(table, row, column, "not a number", "Mend that row, or leave out --min-rating.")
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


def _note_far_off(events: pl.DataFrame, table: Table, column: str, notes: list[str]) -> None:
    """Times that stand for none, such as 0 or the year 1, and those of a wrong unit."""
    median = float(events["second"].median() or 0)  # type: ignore[arg-type]
    if _YEAR_1990 <= median < YEAR_2100:
        early = events.filter(pl.col("second") < YEAR_1980)["row"]
        _note_odd(early, "earlier than 1980", "put first", table, column, notes)
    late = events.filter(pl.col("second") >= YEAR_2200)["row"]
    _note_odd(late, "later than the year 2200", "put last", table, column, notes)


def _note_odd(
    rows: pl.Series, what: str, where: str, table: Table, column: str, notes: list[str]
) -> None:
    if rows.is_empty():
        return
    [value] = values_of(table, column, rows[:1].to_list())
    notes.append(
        f"{counted(len(rows), 'event')} {what}, such as {column} {value} "
        f"({table.place(rows[0])}), {where}: perhaps no times at all, or of another unit; "
        "mend those rows, or leave them out"
    )


def _told_times(log: Interactions, table: Table, column: str, told: str, order: Order) -> str:
    """What the times were understood as, from when to when they reach, and how many are tied."""
    seconds = log.time
    days = not (seconds % DAY).any()
    first, last = (
        str(np.datetime64(int(one), "s")).replace("T", " ")[: -9 if days else None]
        for one in (seconds.min(), seconds.max())
    )
    note = f"times are those of column {column!r} of {table.path.name}: {told}"
    note += f", days without a clock, {first} to {last}" if days else f", {first} to {last}"
    if order == "time":
        # A user's next event may be tied to this one; the next user's first never is.
        tied = float((log.tied | np.append(log.tied[1:], False)).mean())
        share = f"{tied:.0%}" if not 0 < tied < 0.01 else "under 1%"
        note += f"; {share} of events share theirs with another of the same user"
        if tied:
            note += ": their order says nothing (--order file if that of the rows does)"
    return note


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


def _rejected(low: pl.DataFrame, events: pl.DataFrame, item_ids: list[str]) -> pl.DataFrame:
    """The pairs of users that are left and items that they rated too low and never otherwise."""
    users = np.unique(events["user"].to_numpy())
    pairs = low.select("user", "item").unique().filter(pl.col("user").is_in(users.tolist()))
    pairs = pairs.join(events, on=["user", "item"], how="anti").sort("user", "item")
    return pl.DataFrame(
        {
            "user": np.searchsorted(users, pairs["user"].to_numpy()).astype(np.int64),
            "item": pl.Series([item_ids[item] for item in pairs["item"]], dtype=pl.String),
        }
    )


def _sequences(
    events: pl.DataFrame,
    before_core: pl.DataFrame,
    user_ids: list[str],
    item_ids: list[str],
    timed: bool,
    order: Order,
    notes: list[str],
) -> Interactions:
    """Group by user what is in order already; number anew the users and items that are left."""
    users, user = np.unique(events["user"].to_numpy(), return_inverse=True)
    items, item = np.unique(events["item"].to_numpy(), return_inverse=True)
    by_user = np.argsort(user, kind="stable")
    indptr = np.zeros(len(users) + 1, dtype=np.int64)
    np.cumsum(np.bincount(user), out=indptr[1:])
    tied = np.zeros(len(user), np.bool_)
    if timed:
        time = events["second"].to_numpy()[by_user]
        if order == "time":
            fraction, own = events["fraction"].to_numpy()[by_user], user[by_user]
            tied[1:] = (np.diff(time) == 0) & (np.diff(fraction) == 0) & (np.diff(own) == 0)
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
        tied=tied,
        dropped_items=frozenset(item_ids[index] for index in dropped),
        notes=notes,
    )
