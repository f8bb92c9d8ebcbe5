"""Amazon Reviews of 2014, 2018 and 2023: reviews, and metadata without links to other items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from cammsr_cli.data.readers.columns import listed, normalised
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.tables import SourceTables, Table, counted, open_table
from cammsr_cli.errors import UsageError

YEARS = ("2014", "2018", "2023")

# Columns that are dropped: items bought or viewed together with this one, because they include
# events that the split holds out; sales data; and pieces of the page's source.
_LEFT_OUT = (
    *("related", "alsobuy", "alsoview", "boughttogether", "similaritem"),
    *("salesrank", "rank", "averagerating", "ratingnumber", "tech1", "tech2"),
)
_PAGE_SOURCE = r"getTime\(\)"  # some titles of 2018 are JavaScript
_MARKS = {  # columns that only the metadata of this release have
    "2023": {"maincategory", "boughttogether", "averagerating", "ratingnumber"},
    "2018": {"imageurl", "imageurlhighres", "alsobuy", "alsoview", "maincat", "similaritem"},
    "2014": {"imurl", "salesrank", "related"},
}


def year_of_reviews(columns: Iterable[str]) -> str | None:
    """The release whose reviews have these columns; None if there is none."""
    names = {normalised(column) for column in columns}
    if {"userid", "parentasin", "rating"} <= names:
        return "2023"
    if {"reviewerid", "asin", "overall"} <= names:
        return "2018" if names & {"verified", "vote", "style"} else "2014"
    return None


def year_of_metadata(columns: Iterable[str]) -> str | None:
    """The release whose metadata have these columns; None if there is none."""
    names = {normalised(column) for column in columns}
    if not _is_metadata(names):
        return None
    return next((year for year, marks in _MARKS.items() if names & marks), None)


def _is_metadata(names: set[str]) -> bool:
    return bool(names & {"asin", "parentasin"}) and not names & {"userid", "reviewerid"}


def find_amazon(
    folder: Path, columns: Mapping[Path, list[str]], reading: Reading, year: str | None
) -> SourceTables | None:
    """Read a folder that holds the reviews, and perhaps the metadata, of one category.

    Args:
        folder: The folder, for messages.
        columns: The columns of every table in it.
        reading: How to read the tables.
        year: The release; None accepts any.

    Returns:
        The tables, or None if no table holds reviews of that release.

    Raises:
        UsageError: Several tables hold reviews, or several hold metadata.
        CammsrError: A file is broken.
    """
    years = (year,) if year else YEARS
    reviews = [path for path, names in columns.items() if year_of_reviews(names) in years]
    metadata = [p for p, names in columns.items() if _is_metadata(set(map(normalised, names)))]
    if not reviews:
        return None
    for what, found in (("reviews", reviews), ("metadata", metadata)):
        if len(found) > 1:
            raise UsageError(
                f"{folder} holds several files of {what}: {', '.join(p.name for p in found)}",
                "Give the files themselves: cammsr prepare REVIEWS --items METADATA",
            )
    items = open_table(metadata[0], reading) if metadata else None
    return SourceTables(open_table(reviews[0], reading), items)


def as_amazon(tables: SourceTables, year: str | None) -> SourceTables | None:
    """Clean tables that have Amazon's columns; None if the tables are others.

    A list of categories is read as a path. Columns with links to other items or with sales data are
    dropped. Titles that are a piece of the page's source are dropped too.
    """
    found = year_of_reviews(tables.interactions.frame.columns)
    if found is None and tables.items is not None:
        found = year_of_metadata(tables.items.frame.columns)
    if found is None or year not in (None, found):
        return None
    notes = (*tables.notes, f"read as Amazon Reviews {found} (--format amazon-{found})")
    items, item_notes = _items(tables.items) if tables.items else (None, ())
    return replace(
        tables, items=items, lists_are_paths=True, known=True, notes=(*notes, *item_notes)
    )


def _items(table: Table) -> tuple[Table, tuple[str, ...]]:
    frame = table.frame
    left_out = [column for column in frame.columns if normalised(column) in _LEFT_OUT]
    frame = frame.drop(left_out)
    notes = []
    if left_out:
        notes.append(f"columns of {table.path.name} left out: {listed(left_out)}")
    if frame.schema.get("title") == pl.String:
        broken = frame["title"].str.contains(_PAGE_SOURCE).fill_null(False)
        if broken.any():
            titles = pl.when(~broken).then(pl.col("title")).alias("title")
            frame = frame.with_columns(titles)
            notes.append(f"{counted(int(broken.sum()), 'title')} left out, being page source")
    return replace(table, frame=frame), tuple(notes)
