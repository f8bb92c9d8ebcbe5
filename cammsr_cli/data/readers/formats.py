"""The known formats of raw files, detected by their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from cammsr_cli.data.readers.amazon import as_amazon, find_amazon
from cammsr_cli.data.readers.columns import CANDIDATES, listed, looks_like_data, normalised
from cammsr_cli.data.readers.containers import holder_of, is_holder, tables_of
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.file_names import (
    FORMATS,
    part_files,
    table_format,
    visible,
)
from cammsr_cli.data.readers.grouplens import LAYOUTS, find_grouplens
from cammsr_cli.data.readers.item_files import joined_items
from cammsr_cli.data.readers.item_properties import is_properties, items_of_properties
from cammsr_cli.data.readers.microlens import find_microlens
from cammsr_cli.data.readers.public_sets import as_diginetica, find_mind
from cammsr_cli.data.readers.recbole import as_recbole, find_recbole
from cammsr_cli.data.readers.tables import (
    INTERACTION_NAMES,
    ITEM_NAMES,
    SourceTables,
    Table,
    columns_of,
    named_table,
    open_table,
)
from cammsr_cli.errors import CammsrError, UsageError, typed

FormatName = Literal[
    "amazon-2014",
    "amazon-2018",
    "amazon-2023",
    "movielens",
    "recbole",
    "microlens",
    "mind",
    "plain",
]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)

_WHOLE_FOLDERS = ("movielens", "microlens", "mind")  # detected by several files together
OTHER_TABLES = (".feather", ".orc", ".avro", ".numbers", ".mdb", ".accdb")
_TEXTS = (".txt", ".dat", ".txt.gz", ".dat.gz", ".txt.zst", ".dat.zst")
_COLUMNS_LISTED = 8

# The content of a folder of each format, for messages.
HOLDS: dict[FormatName, str] = {
    "amazon-2014": "reviews with reviewerID, asin and overall",
    "amazon-2018": "reviews with reviewerID, asin, overall and verified",
    "amazon-2023": "reviews with user_id, parent_asin and rating",
    "movielens": ", ".join(LAYOUTS),
    "recbole": "NAME.inter with types after its columns' names",
    "microlens": "a table of user and item, perhaps one of item and title, and folders covers or "
    "videos with files called by their item's id",
    "mind": "behaviors.tsv + news.tsv",
    "plain": "interactions.*, or one table with columns user and item",
}


def open_sources(
    interactions: Path,
    items: Path | None = None,
    format_name: FormatName | None = None,
    reading: Reading | None = None,
    read_otherwise: Sequence[Path] = (),
) -> SourceTables:
    """Open the raw tables of a file, a pair of files or a folder.

    Args:
        interactions: A file with one row per interaction, or a folder of a known format.
        items: A file with one row per item; it replaces the items file of the folder.
        format_name: The format; None detects it.
        reading: How to read the files; None detects everything.
        read_otherwise: Files that other code reads; no note lists them as not read.

    Raises:
        UsageError: The files do not have the requested format, or have no known format.
        CammsrError: A file is missing or broken.
    """
    reading = reading or Reading()
    found: FormatName | None = None
    if interactions.is_dir() and not part_files(interactions):
        found, tables = _open_folder(interactions, format_name, reading)
    elif is_holder(interactions):
        tables = _open_holder(interactions, reading)
    else:
        tables = SourceTables(open_table(interactions, reading))
    if items is not None:
        if items == tables.interactions.path or (
            items.is_file() and not is_holder(items) and items.samefile(tables.interactions.path)
        ):
            raise UsageError(
                f"{items} is given as the interactions and as the items",
                "Give a file with one row an item as --items, or none: "
                "a review's title is not the item's.",
            )
        opened = [open_table(path, reading) for path in _item_tables(items, reading)]
        tables = replace(tables, items=_as_items(opened))
    if not (found in _WHOLE_FOLDERS or format_name == "plain"):
        tables = _of_format(tables, format_name)
    if interactions.is_dir() or is_holder(interactions):
        not_read = _not_read(interactions, reading, tables, read_otherwise)
        tables = replace(tables, notes=(*tables.notes, *not_read))
    return tables


def _of_format(tables: SourceTables, wanted: FormatName | None) -> SourceTables:
    """Convert tables of RecBole, Amazon or Diginetica, which are detected by their columns."""
    if wanted in (None, "recbole") and (made := as_recbole(tables)):
        return made
    year = wanted.removeprefix("amazon-") if wanted else None
    if (wanted is None or wanted.startswith("amazon-")) and (made := as_amazon(tables, year)):
        return made
    if wanted is None:
        return as_diginetica(tables) or tables
    if wanted in _WHOLE_FOLDERS:
        raise UsageError(
            f"--format {wanted}: {tables.interactions.path} is a file",
            f"Give the folder that holds {HOLDS[wanted]}.",
        )
    raise UsageError(
        f"--format {wanted}: {tables.interactions.path} is something else; expected are "
        f"{HOLDS[wanted]} (its columns: {listed(tables.interactions.frame.columns)})",
        "Leave out --format to have it recognised, or name another: " + ", ".join(FORMAT_NAMES),
    )


# --- folders ------------------------------------------------------------------------------------


def _open_folder(
    folder: Path, wanted: FormatName | None, reading: Reading
) -> tuple[FormatName, SourceTables]:
    columns = _tables_in(folder, reading)
    for name in FORMAT_NAMES if wanted is None else (wanted,):
        tables = _find(name, folder, columns, reading)
        if tables is not None:
            return name, tables
    looked_for = "; ".join(
        f"{name}: {holds}" for name, holds in HOLDS.items() if wanted in (None, name)
    )
    there = ", ".join(f"{path.name} ({_why_not(path, names)})" for path, names in columns.items())
    raise UsageError(
        f"{folder} holds no interactions: looked for {looked_for}; "
        f"its tables: {there or 'none'}; tables are {', '.join(FORMATS)}",
        "Give the file itself, or rename it to one of interactions.*, reviews.*, ratings.*, "
        "events.*; where it has no header: --columns FILE=user,item,timestamp",
    )


def _open_holder(holder: Path, reading: Reading) -> SourceTables:
    """Open the tables of a workbook or a database: the requested ones, or found as in a folder."""
    columns = {path: columns_of(path, reading) for path in tables_of(holder)}
    if holder.name in reading.queries or len(columns) == 1:
        return SourceTables(open_table(holder, reading))
    wanted = reading.tables.get(holder.name)
    found = _find_plain(holder, columns, reading, holder / wanted if wanted else None)
    if found is None:
        raise UsageError(
            f"{holder} has no table with columns known as the user and the item; {_each(columns)}",
            "Name the one that is meant: --table NAME, and its columns: --map user=COLUMN "
            "--map item=COLUMN",
        )
    return found


def _item_tables(items: Path, reading: Reading) -> list[Path]:
    """The items file; for a workbook or a database, the tables that describe items."""
    if not is_holder(items):
        return [items]
    if wanted := reading.tables.get(items.name):
        return [items / wanted]
    columns = {path: columns_of(path, reading) for path in tables_of(items)}
    found = [path for path, names in columns.items() if _describes_items(names)]
    if not found and len(columns) != 1:
        raise UsageError(
            f"{items} has no table known to tell of items; {_each(columns)}",
            f"Name the one that does: --items {typed(items)}/TABLE",
        )
    return found or list(columns)


def _each(columns: Mapping[Path, Sequence[str]]) -> str:
    """List the tables of a workbook or a database with their column names, for a message."""
    not_read = "; ".join(
        f"{p.name} ({listed(names[:_COLUMNS_LISTED])})" for p, names in columns.items()
    )
    return f"its tables: {not_read or 'none'}"


def _may_be_meant(path: Path, columns: Sequence[str], reading: Reading) -> bool:
    """Whether a file of a folder is a table: many .txt files are texts for people."""
    known = _known(columns, "user") or _has_item(columns) or path.name in reading.columns
    return known or looks_like_data(columns) or not path.name.lower().endswith(_TEXTS)


def _tables_in(folder: Path, reading: Reading) -> dict[Path, list[str]]:
    """The tables in a folder, or in a workbook or a database, with their columns."""
    return {
        path: names
        for path in _paths_in(folder)
        if (table_format(path) or holder_of(path))
        and _may_be_meant(path, names := columns_of(path, reading), reading)
    }


def _paths_in(folder: Path) -> list[Path]:
    """The files in a folder; a workbook or database with several tables is replaced by these."""
    if is_holder(folder):
        return tables_of(folder)
    return [path for file in visible(folder) for path in (_several_in(file) or [file])]


def _several_in(file: Path) -> list[Path]:
    try:
        held = tables_of(file) if is_holder(file) else []
    except CammsrError:  # `_not_read` reports it
        return []
    return held if len(held) > 1 else []


def _not_read(
    folder: Path, reading: Reading, tables: SourceTables, read_otherwise: Sequence[Path]
) -> list[str]:
    """A note for each table of the folder that was not read, with the reason."""
    if part_files(folder) if folder.is_dir() else folder.name in reading.queries:
        return []
    read = [table for table in (tables.interactions, tables.items, tables.tags) if table]
    used = {path for table in read for path in (table.path, *table.files)} | {*read_otherwise}
    used |= {one.path for table in read for one in table.joined}
    used = {path.resolve() for path in used}
    there = [path for path in _paths_in(folder) if path.resolve() not in used]
    columns = _tables_in(folder, reading)
    notes = [
        f"{path.relative_to(folder).as_posix()} not read: {_why_not(path, columns[path])}"
        for path in there
        if path in columns
    ]
    others = [path for path in there if path.suffix.lower() in OTHER_TABLES]
    return notes + [f"{path.name} not read: save it as CSV or Parquet" for path in others]


def _why_not(path: Path, columns: Sequence[str]) -> str:
    """The reason why a table is used neither as interactions nor as items."""
    if is_holder(path):
        try:
            tables_of(path)
        except CammsrError as error:
            return f"{error.message} ({error.hint})" if error.hint else error.message
    if not columns:
        return "its columns cannot be told"
    if looks_like_data(columns):
        return "no header; --columns FILE=NAME,NAME,… names its columns"
    if _known(columns, "user") and _known(columns, "item"):
        return "another table of users and items"
    if not _has_item(columns):
        return f"no column known as the item ({listed(columns[:_COLUMNS_LISTED])})"
    if _known(columns, "user"):
        return "it tells of users"
    return (
        "no column known as title, description, category, image or video "
        f"({listed(columns[:_COLUMNS_LISTED])}); to read it: --items FILE --map title=COLUMN"
    )


def _find(
    name: FormatName, folder: Path, columns: Mapping[Path, list[str]], reading: Reading
) -> SourceTables | None:
    match name:
        case "movielens":
            return find_grouplens(folder, reading)
        case "recbole":
            return find_recbole(folder, columns, reading)
        case "microlens":
            return find_microlens(folder, columns, reading)
        case "mind":
            return find_mind(folder, columns, reading)
        case "plain":
            return _find_plain(folder, columns, reading)
        case _:
            return find_amazon(folder, columns, reading, name.removeprefix("amazon-"))


def _find_plain(
    folder: Path,
    columns: Mapping[Path, list[str]],
    reading: Reading,
    interactions: Path | None = None,
) -> SourceTables | None:
    """Find the interactions and items by well-known names, otherwise by their columns.

    Without such a name, the interactions are the only table of users and items. All tables that
    describe items are joined.
    """
    logs = [p for p, names in columns.items() if _known(names, "user") and _known(names, "item")]
    interactions = interactions or named_table(folder, columns, INTERACTION_NAMES)
    if interactions is None and len(logs) > 1:
        raise UsageError(
            f"{folder} holds several tables of users and items: {listed(p.name for p in logs)}",
            "Give one of them with its --items, or put the parts of one log into a folder."
            if folder.is_dir()
            else f"Name one: --table {typed(logs[0].name)}",
        )
    if interactions is None and not logs:
        return None
    named = named_table(folder, columns, ITEM_NAMES)
    items = [path for path, names in columns.items() if _describes_items(names)]
    if named is not None:
        others = [path for path in items if path != named] if _has_item(columns[named]) else []
        items = [named, *others]
    items = [path for path in items if path != interactions]
    opened = [open_table(path, reading) for path in items]
    return SourceTables(
        open_table(interactions or logs[0], reading), _as_items(opened) if opened else None
    )


def _as_items(tables: Sequence[Table]) -> Table:
    """Join tables of items and tables of their properties into one table with a row per item."""
    wide = [table for table in tables if not is_properties(table.frame.columns)]
    long = [table for table in tables if is_properties(table.frame.columns)]
    return joined_items([*wide, items_of_properties(long)] if long else wide)


def _has_item(columns: Sequence[str]) -> bool:
    """Whether there is a column of item ids with a name that is known for tables of items."""
    return not set(CANDIDATES["items"]["item"]).isdisjoint(map(normalised, columns))


def _known(columns: Sequence[str], field: str) -> bool:
    return not set(CANDIDATES["interactions"][field]).isdisjoint(map(normalised, columns))


def _describes_items(columns: Sequence[str]) -> bool:
    """Whether there are item ids and content, but no users; a table of vectors has no content."""
    names = set(map(normalised, columns))
    content = [names & set(CANDIDATES["items"][f]) for f in CANDIDATES["items"] if f != "item"]
    described = any(content) or is_properties(columns)
    return described and _has_item(columns) and not _known(columns, "user")
