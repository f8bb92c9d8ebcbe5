"""Tables of properties, such as RetailRocket's: a row has an item, a property and a value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import polars as pl

from cammsr_cli.data.readers.columns import CANDIDATES, item_column, listed, normalised
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.tables import Table, counted
from cammsr_cli.data.readers.timestamps import read_values
from cammsr_cli.errors import CammsrError, first_line

_PROPERTY, _VALUE = ("property", "attribute"), ("value",)
_LISTED = 8
_KNOWN = {
    name: field for field, names in CANDIDATES["items"].items() if field != "item" for name in names
}


def is_properties(columns: Iterable[str]) -> bool:
    """Whether a table's rows are properties: it has columns for item, property and value."""
    names = {normalised(column) for column in columns}
    has_item = not names.isdisjoint(CANDIDATES["items"]["item"])
    return has_item and bool(names & {*_PROPERTY}) and bool(names & {*_VALUE})


def items_of_properties(tables: Sequence[Table]) -> Table:
    """Make a table with one row per item, and a column for each property that is a known field.

    If rows have timestamps, the latest value of each property is used. Otherwise all its values
    are used, as a list.

    Args:
        tables: At least one table; `is_properties` is true for each.

    Raises:
        CammsrError: Ids cannot be read, or the values of the tables have different types.
    """
    notes = [note for table in tables for note in table.notes]
    try:
        rows = pl.concat([_rows(table, notes) for table in tables], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise CammsrError(
            f"values of {', '.join(table.path.name for table in tables)} are of different kinds "
            f"({first_line(error)})",
            "Write them as text.",
        ) from None
    names = {name: _KNOWN.get(normalised(name)) for name in rows["property"].unique().to_list()}
    read = sorted(name for name, field in names.items() if field is not None)
    others = sorted(name for name, field in names.items() if field is None)
    timed = bool(rows["time"].is_not_null().any())
    value = pl.col("value").last() if timed else pl.col("value").unique(maintain_order=True)
    frame = rows.select("item").unique(maintain_order=True)
    # Nulls come first: a value without a time counts as the oldest.
    known = rows.filter(pl.col("value").is_not_null()).sort("time", maintain_order=True)
    for name in read:
        own = known.filter(pl.col("property") == name).group_by("item").agg(value.alias(name))
        frame = frame.join(own, on="item", how="left", maintain_order="left")
    which = ", the latest value of each item" if timed else ""
    note = (
        f"{', '.join(table.path.name for table in tables)}: a row a property of an item; "
        f"{f'read {listed(read)}{which}' if read else 'none of them is known'}"
    )
    if others:
        more = f" and {len(others) - _LISTED:,} more" if len(others) > _LISTED else ""
        note += f"; not read {listed(others[:_LISTED])}{more}"
    parts = tuple(replace(table, frame=table.frame.clear(), notes=()) for table in tables)
    return Table(tables[0].path, frame, "rows", notes=(note, *notes), joined=parts)


def _rows(table: Table, notes: list[str]) -> pl.DataFrame:
    """Columns `item`, `property`, `value` and `time`; the time is null if it is missing."""
    names = {normalised(column): column for column in reversed(table.frame.columns)}
    ids = clean_ids(table, item_column(table.frame.columns, "items"), notes)
    kinds = clean_ids(table, next(names[name] for name in _PROPERTY if name in names))
    times = next((names[n] for n in CANDIDATES["interactions"]["timestamp"] if n in names), None)
    rows = pl.DataFrame(
        {
            "item": ids,
            "property": kinds,
            "value": table.frame[names[_VALUE[0]]],
            "time": pl.Series([None] * len(ids), dtype=pl.Int64)
            if times is None
            else read_values(table.frame[times]).times["second"],
        }
    )
    named = rows.drop_nulls(["item", "property"])
    if named.height < rows.height:
        missing = counted(rows.height - named.height, "row")
        notes.append(f"{missing} of {table.path.name} without an item or a property dropped")
    return named
