"""Public data sets that need more than recognised column names: MIND and Diginetica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from cammsr_cli.data.readers.columns import normalised
from cammsr_cli.data.readers.faults import fail_at
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.tables import SourceTables, Table, counted, open_table
from cammsr_cli.data.readers.timestamps import read_values

_BEHAVIORS = ("impression_id", "user", "time", "history", "impressions")
_NEWS = (
    *("item", "category", "subcategory", "title", "abstract", "url"),
    *("title_entities", "abstract_entities"),
)


def as_diginetica(tables: SourceTables) -> SourceTables | None:
    """Read Diginetica's views or purchases by session; None if the tables are others.

    Sessions are used as users, because few sessions have a user. The time is the day in the date
    column plus the time frame, which is in milliseconds since the start of the session.
    """
    frame = tables.interactions.frame
    names = {normalised(column): column for column in frame.columns}
    if not {"sessionid", "itemid", "timeframe", "eventdate"} <= names.keys():
        return None
    day = read_values(frame[names["eventdate"]]).times["second"]
    milliseconds = frame[names["timeframe"]].cast(pl.Int64, strict=False)
    frame = frame.with_columns(
        frame[names["sessionid"]].alias("user"), (day * 1_000 + milliseconds).alias("timestamp")
    )
    note = (
        "read as Diginetica: users are the sessions, and times are "
        f"{names['eventdate']} and {names['timeframe']} together"
    )
    interactions = replace(tables.interactions, frame=frame)
    return replace(tables, interactions=interactions, known=True, notes=(*tables.notes, note))


def find_mind(
    folder: Path, columns: Mapping[Path, Sequence[str]], reading: Reading
) -> SourceTables | None:
    """Read a folder of MIND (Microsoft News): `behaviors.tsv` and `news.tsv`, without a header.

    The interactions are the clicks among the impressions and the clicks of a user's history. Clicks
    of the history have no times. They are put before the user's first impression, in their order,
    one second apart.

    Returns:
        The tables, or None if there are no such files.

    Raises:
        CammsrError: A file is broken; the message gives the place.
    """
    files = {path.name.lower().partition(".")[0]: path for path in columns}
    if not {"behaviors", "news"} <= files.keys():
        return None
    behaviors, news = files["behaviors"], files["news"]
    named = {behaviors.name: _BEHAVIORS, news.name: _NEWS, **reading.columns}
    reading = replace(reading, columns=named)
    interactions, note = _clicks(open_table(behaviors, reading))
    note = f"read as MIND (--format mind): {note}"
    return SourceTables(
        interactions, _news(open_table(news, reading)), lists_are_paths=True, notes=(note,)
    )


def _clicks(table: Table) -> tuple[Table, str]:
    second = read_values(table.frame["time"], "month-first").times["second"]
    if second.null_count():
        row = int(second.is_null().arg_max() or 0)
        fail_at(table, row, "time", "not a time such as 11/13/2019 8:36:57 AM", "Mend that row.")
    rows = table.frame.with_columns(second.alias("timestamp")).with_row_index("row")
    shown = rows.select(
        "user", "timestamp", pl.col("impressions").str.split(" ").alias("shown")
    ).explode("shown")
    clicks = shown.filter(pl.col("shown").str.ends_with("-1")).select(
        "user", pl.col("shown").str.head(-2).alias("item"), "timestamp"
    )
    first = rows.sort("timestamp", "row").unique("user", keep="first", maintain_order=True)
    histories = first.select("user", "timestamp", pl.col("history").str.split(" ").alias("item"))
    place = pl.int_ranges(pl.col("item").list.len()) - pl.col("item").list.len().cast(pl.Int64)
    before = (
        histories.drop_nulls("item")
        .with_columns(place.alias("place"))
        .explode("item", "place")
        .select("user", "item", pl.col("timestamp") + pl.col("place"))
    )
    note = (
        f"{counted(clicks.height, 'click')} among {counted(shown.height, 'impression')}, and "
        f"{before.height:,} of the histories, which have no times and are put before a user's "
        "first impression, in their order"
    )
    frame = pl.concat([before, clicks])
    return replace(table, frame=frame, layout="rows", dialect=None), note


def _news(table: Table) -> Table:
    path = pl.concat_list("category", "subcategory").alias("category")
    frame = table.frame.with_columns(path).drop("subcategory", "url", *_NEWS[-2:])
    return replace(table, frame=frame)
