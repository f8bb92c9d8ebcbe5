"""Interactions: turn the rows of a raw table into each user's filtered, ordered events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.event_filters import (
    Filters,
    Order,
    RowMarks,
    core,
    marked,
    without_duplicates,
)
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.moments import DAY, YEAR_1980, YEAR_2100, YEAR_2200
from cammsr_cli.data.readers.tables import Table, counted, values_of
from cammsr_cli.data.readers.timestamps import read_times
from cammsr_cli.errors import CammsrError

_SAMPLE = 10_000
_YEAR_1990 = 631_152_000  # seconds since 1970


def _nothing_rejected() -> pl.DataFrame:
    return pl.DataFrame(schema={"user": pl.Int64, "item": pl.String, "place": pl.Int64})


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
        tied: bool [E], whether the order of the event and the same user's previous event is
            unknown: both have the same time, including the fraction of the second, and
            `Filters.order` is "time".
        rank: int64 [E], place of the event among all events of all users, oldest first.
        dropped_items: Items that the k-core dropped.
        weight: float32 [E], weight of each event in the loss; None if all weigh alike.
        rejected: Pairs of a user and an item where the user's last event with the item is negative.
            Columns: `user`, index into `user_ids`; `item`, an id; `place`, how many of the user's
            events came before. Sorted by user; each pair is unique.
        times: How the timestamps were interpreted, in words; "" if there are none.
        notes: Counts for people, including the text of `times`.
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
    weight: NDArray[np.float32] | None = None
    rejected: pl.DataFrame = field(default_factory=_nothing_rejected)
    times: str = ""
    notes: list[str] = field(default_factory=list)


def read_interactions(
    table: Table, columns: dict[str, str], filters: Filters, marks: RowMarks | None = None
) -> Interactions:
    """Clean, filter and order the rows of an interactions table.

    The steps, in this order: drop rows without a user or an item id; drop negative events and
    events below the minimum rating; drop duplicates; drop events outside the k-core. Ties in time
    keep the file's order.

    Args:
        table: The raw table.
        columns: Field to column: `user`, `item`, and `timestamp` unless `filters.order` is
            "file", and `rating` if there is a minimum rating.
        filters: Which events to keep, and their order.
        marks: What else is known about the rows.

    Raises:
        CammsrError: A timestamp or a rating cannot be read, or no events are left.
    """
    notes = list(table.notes)
    every, user_ids, item_ids = _identified(table, columns, notes)
    every = marked(every, table, columns, filters, marks or RowMarks(), notes)
    negatives = "negative" in every.columns
    timed = "timestamp" in columns
    reading_note = ""
    if timed:
        times, reading_note = read_times(
            table,
            columns["timestamp"],
            every["row"],
            filters.time_format,
            every["negative"] if negatives else None,
        )
        every = every.hstack(times)
        if missing := times["second"].null_count():
            notes.append(f"{counted(missing, 'negative event')} without a time taken as the last")
    by_time = timed and filters.order == "time"
    order = ["second", "fraction", "row"] if by_time else ["row"]
    every = every.sort(order, nulls_last=negatives)
    likes = every.filter(~pl.col("negative")) if negatives else every
    if by_time:
        _note_far_off(likes, table, columns["timestamp"], notes)
    events = before = without_duplicates(likes, filters.duplicates, timed, notes)
    if filters.k_core > 1:
        events = core(events, filters.k_core, notes)
    log = _sequences(events, before, user_ids, item_ids, timed, filters.order, notes)
    if timed:
        log = replace(
            log,
            times=_with_times_note(log, table, columns["timestamp"], reading_note, filters.order),
        )
        notes.append(log.times)
    if filters.order == "file" and timed:
        _note_backward_steps(events, notes)
    if not negatives:
        return log
    return replace(log, rejected=_rejected(every, events, item_ids))


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
    _note_lists(named["item"], table, columns["item"], notes)
    users, user_ids = _encode(named["user"])
    items, item_ids = _encode(named["item"])
    return named.with_columns(user=users, item=items), user_ids, item_ids


def _note_lists(items: pl.Series, table: Table, column: str, notes: list[str]) -> None:
    """Note ids that may be lists of ids: many hold a separator, and the parts between repeat."""
    sample = items.head(_SAMPLE)
    for mark in ("|", ";", ","):
        lists = sample.filter(sample.str.contains(mark, literal=True))
        if len(lists) * 2 < len(sample):
            continue
        parts = lists.str.split(mark).explode().str.strip_chars()
        if parts.n_unique() < lists.n_unique() * 2 and parts.n_unique() < len(parts):
            notes.append(
                f"ids of {table.path.name} such as {lists[0]} ({column}) are each read as one "
                "item: if they are lists, write a row an item"
            )
            return


def _encode(ids: pl.Series) -> tuple[pl.Series, list[str]]:
    distinct = ids.unique(maintain_order=True)
    return ids.cast(pl.Enum(distinct)).to_physical().cast(pl.Int64), distinct.to_list()


# --- timestamps ---------------------------------------------------------------------------------


def _note_far_off(events: pl.DataFrame, table: Table, column: str, notes: list[str]) -> None:
    """Note timestamps that may mean "no time", such as 0 or the year 1, or have a wrong unit."""
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


def _with_times_note(
    log: Interactions, table: Table, column: str, reading_note: str, order: Order
) -> str:
    """Describe how the timestamps were interpreted, their range, and the share of tied events."""
    seconds = log.time
    days = not (seconds % DAY).any()
    first, last = (
        str(np.datetime64(int(one), "s")).replace("T", " ")[: -9 if days else None]
        for one in (seconds.min(), seconds.max())
    )
    note = f"times are those of column {column!r} of {table.path.name}: {reading_note}"
    note += f", days without a clock, {first} to {last}" if days else f", {first} to {last}"
    if order == "time":
        # An event also counts if the next event is tied to it. A user's first event is never tied.
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


# --- sequences ----------------------------------------------------------------------------------


def _rejected(every: pl.DataFrame, events: pl.DataFrame, item_ids: list[str]) -> pl.DataFrame:
    """Pairs of a user and an item where the user's last event with the item is negative.

    `place` is the number of the user's remaining events that came before.

    Args:
        every: All events in sequence order, including negative ones.
        events: The events that are left, in sequence order.
        item_ids: Ids by item number.
    """
    users = np.unique(events["user"].to_numpy())
    last = every.with_row_index("at").filter(pl.col("user").is_in(users.tolist()))
    last = last.unique(["user", "item"], keep="last").filter("negative").sort("user", "item")
    # Encode each remaining event and each rejection as one number, sorted by user and then by
    # order.
    place = every.with_row_index("at").select("row", "at").join(events, on="row", how="semi")["at"]
    user = np.searchsorted(users, events["user"].to_numpy())
    event = np.sort(user * every.height + place.to_numpy())
    user = np.searchsorted(users, last["user"].to_numpy())
    first = np.searchsorted(event, user * every.height)
    return pl.DataFrame(
        {
            "user": user.astype(np.int64),
            "item": pl.Series([item_ids[item] for item in last["item"]], dtype=pl.String),
            "place": np.searchsorted(event, user * every.height + last["at"].to_numpy()) - first,
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
    """Group ordered events by user, and renumber the users and items that are left."""
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
        weight=events["weight"].to_numpy()[by_user] if "weight" in events.columns else None,
        dropped_items=frozenset(item_ids[index] for index in dropped),
        notes=notes,
    )
