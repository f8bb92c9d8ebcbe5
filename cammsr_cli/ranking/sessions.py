"""Histories that recommendations are made for: those of a data set's users, and of visitors.

Axes: U users or visitors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.data.dataset import DataSet, Histories
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.ranking.new_items import evenly

_SAMPLED = 256
"""Number of users by whom the typical time between two events is estimated."""

_NO_PAIRS = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)


@dataclass(frozen=True)
class Sessions:
    """Users or visitors, with their histories.

    Attributes:
        ids: [U] ids of users, or names of visitors.
        histories: Their events.
        rejected: Pairs that must not be recommended: row among the sessions, int64 in ascending
            order; item index; and number of the session's events before the rejection.
        passed_over: Items of visitors that are not in the data set.
    """

    ids: Sequence[str]
    histories: Histories
    rejected: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] = _NO_PAIRS
    passed_over: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Number of sessions, U."""
        return len(self.ids)

    def part(self, first: int, past: int) -> Sessions:
        """The sessions `[first, past)`."""
        low, high = self.histories.indptr[first], self.histories.indptr[past]
        row, item, place = self.rejected
        here = (row >= first) & (row < past)
        return Sessions(
            self.ids[first:past],
            Histories(
                self.histories.indptr[first : past + 1] - low,
                self.histories.item[low:high],
                self.histories.time[low:high],
                self.histories.tied[low:high],
            ),
            (row[here] - first, item[here], place[here]),
        )

    def first(self, counts: Sequence[int]) -> Sessions:
        """Keep only the first events of each session, as many as `counts` says."""
        indptr = self.histories.indptr
        end = indptr[:-1] + np.minimum(np.array(counts, np.int64), np.diff(indptr))
        at = np.arange(len(self.histories.item))
        return self._keeping(at < np.repeat(end, np.diff(indptr)))

    def until(self, moment: int) -> Sessions:
        """Drop the events after `moment`, in seconds since 1970."""
        return self._keeping(self.histories.time <= moment)

    def _keeping(self, kept: NDArray[np.bool_]) -> Sessions:
        """Keep only some of the events."""
        before = np.append(0, np.cumsum(kept))
        row, item, place = self.rejected
        indptr = before[self.histories.indptr]
        known = place <= np.diff(indptr)[row]
        return replace(
            self,
            rejected=(row[known], item[known], place[known]),
            histories=Histories(
                indptr,
                self.histories.item[kept],
                self.histories.time[kept],
                self.histories.tied[kept],
            ),
        )


def of_users(data: DataSet, users: NDArray[np.int64]) -> Sessions:
    """The sessions of some users of a data set, given by index."""
    ids = data.user_ids
    return Sessions([ids[user] for user in users], data.histories(users), data.rejected(users))


def of_visitor(data: DataSet, history: str) -> Sessions:
    """The session of one visitor.

    Args:
        data: The data set of the items.
        history: ITEM or ITEM@TIME, separated by commas, oldest first. TIME is in seconds since
            1970, or a date in ISO 8601, in UTC if it has no time zone.

    Raises:
        UsageError: It names no item, a time cannot be parsed, or only some items have a time.
        CammsrError: None of its items is in the data set.
    """
    known = set(data.item_ids)
    events = [_event(word.strip(), known) for word in history.split(",") if word.strip()]
    if not events:
        raise UsageError("--history names no item", "Write --history ITEM,ITEM,…")
    items, times = zip(*events, strict=True)
    if len({time is None for time in times}) > 1:
        raise UsageError(
            "--history: some items have a time and some have none",
            "Write ITEM@TIME for each, or for none",
        )
    order = sorted(range(len(items)), key=lambda at: times[at] or 0)
    timed = times[0] is not None
    return _session(
        data,
        ["visitor"],
        np.array([0, len(items)]),
        [items[at] for at in order],
        np.array([times[at] for at in order]) if timed else None,
    )


def of_file(data: DataSet, path: Path) -> Sessions:
    """The sessions of many visitors, from a table with a session, an item and optionally a time.

    It is read as `prepare` reads interactions: CSV, TSV, JSONL or Parquet. Without times, the rows
    of a session must be in chronological order.

    Raises:
        UsageError: A column is missing.
        CammsrError: The file cannot be read, or none of its items is in the data set.
    """
    from cammsr_cli.data.event_filters import Filters
    from cammsr_cli.data.interactions import read_interactions
    from cammsr_cli.data.readers.columns import Header, match_columns, normalised
    from cammsr_cli.data.readers.tables import open_table

    table = open_table(path)
    header = Header(str(path), table.frame.columns)
    names = [name for name in header.columns if normalised(name) in ("session", "visitor")]
    named = {"user": names[0]} if names else {}
    columns = match_columns(header, None, named, required=("user", "item")).interactions
    timed = "timestamp" in columns
    log = read_interactions(
        table, columns, Filters(duplicates="keep", order="time" if timed else "file")
    )
    items = [log.item_ids[at] for at in log.item]
    return _session(data, log.user_ids, log.indptr, items, log.time if timed else None)


def of_histories(
    data: DataSet, histories: Mapping[str, Sequence[str | tuple[str, int | datetime]]]
) -> Sessions:
    """The sessions of many visitors, each under a name.

    Args:
        data: The data set of the items.
        histories: Name to items, or to pairs of item and time, oldest first. A time is in seconds
            since 1970, or a date, in UTC if it has no time zone.

    Raises:
        UsageError: Only some items have a time, or times are not in ascending order.
        CammsrError: None of the items is in the data set.
    """
    events = [event for history in histories.values() for event in history]
    items = [event if isinstance(event, str) else event[0] for event in events]
    times = [_seconds(event[1]) for event in events if not isinstance(event, str)]
    if times and len(times) < len(events):
        raise UsageError(
            "histories: some items have a time and some have none", "Give all a time, or none"
        )
    indptr = np.append(0, np.cumsum([len(history) for history in histories.values()]))
    at = np.array(times, dtype=np.int64) if times else None
    for name, first, past in zip(histories, indptr[:-1], indptr[1:], strict=True):
        if at is not None and (np.diff(at[first:past]) < 0).any():
            raise UsageError(f"histories: times of '{name}' go back", "Give the oldest event first")
    return _session(data, list(histories), indptr, items, at)


def _seconds(time: int | datetime) -> int:
    if isinstance(time, datetime):
        return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
    return int(time)


def moment(text: str) -> int:
    """Parse a time in seconds since 1970, or a date in ISO 8601 (UTC if it has no time zone).

    Raises:
        ValueError: The text is neither.
    """
    try:
        return int(text)
    except ValueError:
        return _seconds(datetime.fromisoformat(text))


def _event(word: str, known: set[str]) -> tuple[str, int | None]:
    item, at, time = word.rpartition("@")
    if word in known or not at:
        return word, None
    try:
        return item, moment(time)
    except ValueError:
        raise UsageError(
            f"--history: cannot read the time in '{word}'",
            "Write seconds since 1970 or an ISO date: ITEM@2026-11-28T12:00",
        ) from None


def _session(
    data: DataSet,
    ids: Sequence[str],
    indptr: NDArray[np.int64],
    items: Sequence[str],
    times: NDArray[np.int64] | None,
) -> Sessions:
    index = {item: at for at, item in enumerate(data.item_ids)}
    found = np.array([index.get(item, -1) for item in items], dtype=np.int32)
    there = found >= 0
    if len(items) and not there.any():
        raise CammsrError(
            f"no item of the history is in {data.path} ({len(items):,} in all, the first of them "
            f"'{items[0]}')",
            f"Its items are called like: {', '.join(data.item_ids[:3])}",
        )
    before = np.append(0, np.cumsum(there))
    bounds = before[indptr]
    if times is None:
        place = np.arange(int(there.sum())) - np.repeat(bounds[:-1], np.diff(bounds))
        time = place * usual_gap(data)
    else:
        time = times[there]
    tied = np.append(False, np.diff(time) == 0)[: len(time)]
    tied[bounds[:-1][bounds[:-1] < len(tied)]] = False
    histories = Histories(bounds, found[there], time.astype(np.int64), tied)
    passed_over = [item for item, is_there in zip(items, there, strict=True) if not is_there]
    return Sessions(ids, histories, passed_over=passed_over)


def usual_gap(data: DataSet) -> int:
    """Median time in seconds between two events of a user, over a sample of users."""
    users = evenly(len(data.event_indptr) - 1, _SAMPLED).numpy()
    if not len(users):
        return 0
    histories = data.histories(users)
    gaps = np.diff(histories.time)
    first = np.zeros(len(histories.time), dtype=bool)
    starts = histories.indptr[:-1]
    first[starts[starts < len(first)]] = True
    gaps = gaps[~first[1:]]
    return int(np.median(gaps)) if len(gaps) else 0
