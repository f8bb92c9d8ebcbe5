"""Filters of events: chosen rows, negative events, duplicates, the k-core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.readers.faults import fail_at
from cammsr_cli.data.readers.numbers import as_numbers
from cammsr_cli.data.readers.tables import Table, counted
from cammsr_cli.errors import CammsrError

Order = Literal["time", "file"]
Duplicates = Literal["exact", "keep", "first", "last"]


@dataclass(frozen=True)
class Filters:
    """Which events are kept, and in which order.

    Attributes:
        min_rating: Events rated lower are dropped; None keeps all.
        duplicates: How several events of the same user and item are handled: "exact" keeps the
            first of those that also have the same timestamp, "keep" keeps all, "first" and "last"
            keep the first or the last one in sequence order.
        k_core: Users and items with fewer events are dropped, repeated until stable.
        order: "time", or "file" if the rows are already in the order in which they happened.
        time_format: Format of the timestamps, as `timestamps.checked_time_format` returns it; None
            detects it.
    """

    min_rating: float | None = None
    duplicates: Duplicates = "exact"
    k_core: int = 0
    order: Order = "time"
    time_format: str | None = None


@dataclass(frozen=True)
class RowMarks:
    """Marks of a table's rows, in addition to their cells; one value per row.

    Attributes:
        chosen: Bool, whether the row is used at all; None if all are.
        negative: Bool, whether the event is negative, such as a dislike; None if none is.
        weight: Float32, weight of the event in the loss; None if all weigh alike.
    """

    chosen: pl.Series | None = None
    negative: pl.Series | None = None
    weight: pl.Series | None = None


def marked(
    events: pl.DataFrame,
    table: Table,
    columns: dict[str, str],
    filters: Filters,
    marks: RowMarks,
    notes: list[str],
) -> pl.DataFrame:
    """The chosen events, with a column `negative` if any is negative, and `weight` if given.

    Raises:
        CammsrError: No event is chosen, all are negative, or a rating cannot be read.
    """
    if marks.chosen is not None:
        events = events.filter(marks.chosen.gather(events["row"]))
        if events.is_empty():
            raise CammsrError(
                f"{table.path}: no chosen row has both a user and an item id", "Choose others."
            )
    negative = pl.repeat(False, events.height, eager=True)
    if marks.negative is not None:
        negative = marks.negative.gather(events["row"])
        if count := int(negative.sum()):
            notes.append(f"{counted(count, 'negative event')} not learnt from")
    if filters.min_rating is not None:
        low = _low(events, table, columns["rating"], filters.min_rating, notes)
        negative = negative | low
    if negative.all():
        raise CammsrError(
            f"{table.path}: nothing is left: all {counted(events.height, 'event')} are negative",
            "Say which kinds are: --negative COLUMN=KIND, or --negative '' for none.",
        )
    if negative.any():
        events = events.with_columns(negative.alias("negative"))
    if marks.weight is not None:
        events = events.with_columns(marks.weight.gather(events["row"]).alias("weight"))
    return events


def _low(
    events: pl.DataFrame, table: Table, column: str, least: float, notes: list[str]
) -> pl.Series:
    """Whether each event is rated below the minimum rating."""
    ratings = table.frame[column].gather(events["row"])
    values = as_numbers(ratings)
    bad = (~values.is_finite().fill_null(False)).arg_true()
    if len(bad):
        row = int(events["row"][int(bad[0])])
        fail_at(table, row, column, "not a number", "Mend that row, or leave out --min-rating.")
    low = values < least
    if low.all():
        raise CammsrError(
            f"{table.path}: nothing is left: all {counted(events.height, 'event')} "
            f"are rated below {least:g}",
            f"The highest rating is {float(values.to_numpy().max()):g}: lower --min-rating.",
        )
    if low.any():
        notes.append(f"{counted(int(low.sum()), 'event')} below rating {least:g} dropped")
    return low


def without_duplicates(
    events: pl.DataFrame, duplicates: Duplicates, timed: bool, notes: list[str]
) -> pl.DataFrame:
    """Drop duplicate events; the events and the result are in sequence order.

    In a log without timestamps no events are exact duplicates. The event that is kept of exact
    duplicates gets the largest of their weights.
    """
    if duplicates == "keep" or (duplicates == "exact" and not timed):
        return events
    same = ["user", "item", *(["second", "fraction"] if duplicates == "exact" else [])]
    keep: Literal["first", "last"] = "last" if duplicates == "last" else "first"
    if duplicates == "exact" and "weight" in events.columns:
        events = events.with_columns(pl.col("weight").max().over(same))
    kept = events.unique(same, keep=keep, maintain_order=True)
    if kept.height < events.height:
        what = "same user, item and timestamp" if duplicates == "exact" else "same user and item"
        dropped = counted(events.height - kept.height, "duplicate event")
        notes.append(f"{dropped} ({what}) dropped, the {keep} kept")
    return kept


def core(events: pl.DataFrame, k: int, notes: list[str]) -> pl.DataFrame:
    """The k-core of events; a note counts what is dropped.

    Raises:
        CammsrError: The k-core is empty.
    """
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
    """The largest set of events in which every user and every item has at least `k` events.

    Args:
        user: int64 [E], user of each event, from 0.
        item: int64 [E], item of each event, from 0.
        k: The minimum number of events.

    Returns:
        int64 [E'], positions of the events kept, ascending.
    """
    index = np.arange(len(user))
    while True:
        often = (np.bincount(user)[user] >= k) & (np.bincount(item)[item] >= k)
        if often.all():
            return index
        user, item, index = user[often], item[often], index[often]
