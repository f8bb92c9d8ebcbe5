"""Several items files as one table: rows with the same id are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from cammsr_cli.data.readers.columns import item_column
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.tables import Table, counted
from cammsr_cli.errors import CammsrError, first_line


def joined_items(tables: Sequence[Table]) -> Table:
    """Join tables of items by id; if several have a value for the same cell, the first is used.

    Args:
        tables: At least one table; each has a column that is recognised as the item's id.

    Raises:
        CammsrError: Ids cannot be read, or columns with the same name have different types.
    """
    if len(tables) == 1:
        return tables[0]
    first = tables[0]
    name = item_column(first.frame.columns, "items")
    notes = [note for table in tables for note in table.notes]
    frames: list[pl.DataFrame] = []
    for table in tables:
        own = item_column(table.frame.columns, "items")
        ids = clean_ids(table, own, notes).alias(name)
        frame = table.frame.drop(own, *([name] if own != name else []), strict=False)
        frame = frame.insert_column(0, ids).drop_nulls(name)
        if frame.height < table.frame.height:
            missing = counted(table.frame.height - frame.height, "row")
            notes.append(f"{missing} of {table.path.name} without an item id dropped")
        unique = frame.unique(name, keep="first", maintain_order=True)
        if unique.height < frame.height:
            later = counted(frame.height - unique.height, "row")
            notes.append(
                f"{later} of {table.path.name} repeating an item id dropped, the first kept"
            )
        frames.append(unique)
    try:
        together = pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise CammsrError(
            f"columns of {', '.join(table.path.name for table in tables)} are of one name and "
            f"hold different kinds of values ({first_line(error)})",
            "Give one of them: --items FILE",
        ) from None
    joined = together.group_by(name, maintain_order=True).agg(pl.all().drop_nulls().first())
    shared = together.height - joined.height
    note = f"items read from {', '.join(table.path.name for table in tables)}, joined by their ids"
    if shared:
        note += f" ({counted(shared, 'row')} of items that an earlier file has, too)"
    parts = tuple(replace(table, notes=()) for table in tables)
    return Table(first.path, joined, "rows", notes=(note, *notes), joined=parts)
