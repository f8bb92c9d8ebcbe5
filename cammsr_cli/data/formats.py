"""The formats of raw files that are known, recognised by what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from cammsr_cli.data.amazon import as_amazon, find_amazon
from cammsr_cli.data.columns import CANDIDATES, listed, normalised
from cammsr_cli.data.grouplens import LAYOUTS, find_grouplens
from cammsr_cli.data.microlens import find_microlens
from cammsr_cli.data.recbole import as_recbole, find_recbole
from cammsr_cli.data.tables import (
    FORMATS,
    INTERACTION_NAMES,
    ITEM_NAMES,
    UTF8,
    SourceTables,
    checked_encoding,
    columns_of,
    named_table,
    open_table,
    table_format,
)
from cammsr_cli.errors import UsageError

FormatName = Literal[
    "amazon-2014", "amazon-2018", "amazon-2023", "movielens", "recbole", "microlens", "plain"
]
FORMAT_NAMES: tuple[FormatName, ...] = get_args(FormatName)

# What a folder of a format holds, for messages.
HOLDS: dict[FormatName, str] = {
    "amazon-2014": "reviews with reviewerID, asin and overall",
    "amazon-2018": "reviews with reviewerID, asin, overall and verified",
    "amazon-2023": "reviews with user_id, parent_asin and rating",
    "movielens": ", ".join(LAYOUTS),
    "recbole": "NAME.inter with types after its columns' names",
    "microlens": "a table of user and item, perhaps one of item and title, and folders covers or "
    "videos with files called by their item's id",
    "plain": "interactions.*, or one table with columns user and item",
}


def open_sources(
    interactions: Path,
    items: Path | None = None,
    format_name: FormatName | None = None,
    encoding: str | None = None,
) -> SourceTables:
    """Open the raw tables of a file, a pair of files or a folder.

    Args:
        interactions: A file with a row an interaction, or a folder of a known format.
        items: A file with a row an item; it takes the place of the folder's.
        format_name: The format; None recognises it.
        encoding: What text files are written in; None is UTF-8, with or without a byte order
            mark.

    Raises:
        UsageError: The files are not what was said, or of no known format.
        CammsrError: A file is missing or broken.
    """
    codec = None if encoding is None else checked_encoding(encoding)
    found: FormatName | None = None
    if interactions.is_dir():
        found, tables = _open_folder(interactions, format_name, codec)
    else:
        tables = SourceTables(open_table(interactions, codec or UTF8))
    if items is not None:
        if items.exists() and items.samefile(tables.interactions.path):
            raise UsageError(
                f"{items} is given as the interactions and as the items",
                "Give a file with one row an item as --items, or none: "
                "a review's title is not the item's.",
            )
        tables = replace(tables, items=open_table(items, codec or UTF8))
    if found in ("movielens", "microlens") or format_name == "plain":
        return tables
    return _of_format(tables, format_name)


def _of_format(tables: SourceTables, wanted: FormatName | None) -> SourceTables:
    """Tables as their format's readers want them, which some formats tell by the columns."""
    if wanted in (None, "recbole") and (made := as_recbole(tables)):
        return made
    year = wanted.removeprefix("amazon-") if wanted else None
    if (wanted is None or wanted.startswith("amazon-")) and (made := as_amazon(tables, year)):
        return made
    if wanted is None:
        return tables
    if wanted in ("movielens", "microlens"):
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
    folder: Path, wanted: FormatName | None, encoding: str | None
) -> tuple[FormatName, SourceTables]:
    codec = encoding or UTF8
    columns = {
        path: columns_of(path, codec)
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
        if path.is_file() and table_format(path)
    }
    for name in FORMAT_NAMES if wanted is None else (wanted,):
        tables = _find(name, folder, columns, encoding)
        if tables is not None:
            return name, tables
    looked_for = "; ".join(
        f"{name}: {holds}" for name, holds in HOLDS.items() if wanted in (None, name)
    )
    raise UsageError(
        f"{folder} holds no interactions: looked for {looked_for}; tables are {', '.join(FORMATS)}",
        "Give the file itself, or rename it to one of interactions.*, reviews.*, ratings.*, "
        "events.*",
    )


def _find(
    name: FormatName, folder: Path, columns: Mapping[Path, list[str]], encoding: str | None
) -> SourceTables | None:
    codec = encoding or UTF8
    match name:
        case "movielens":
            return find_grouplens(folder, encoding)
        case "recbole":
            return find_recbole(folder, columns, codec)
        case "microlens":
            return find_microlens(folder, columns, codec)
        case "plain":
            return _find_plain(folder, columns, codec)
        case _:
            return find_amazon(folder, columns, codec, name.removeprefix("amazon-"))


def _find_plain(
    folder: Path, columns: Mapping[Path, list[str]], encoding: str
) -> SourceTables | None:
    """Tables of well-known names, else the only one of users and the only one of items."""
    interactions = named_table(folder, columns, INTERACTION_NAMES) or _only(columns, "user", "item")
    if interactions is None:
        return None
    items = named_table(folder, columns, ITEM_NAMES)
    if items is None:
        items = _only({p: c for p, c in columns.items() if _describes_items(c)}, "item")
    opened = open_table(items, encoding) if items is not None else None
    return SourceTables(open_table(interactions, encoding), opened)


def _only(columns: Mapping[Path, list[str]], *fields: str) -> Path | None:
    """The table that has columns for these fields, if there is exactly one."""
    found = [path for path, names in columns.items() if all(_known(names, f) for f in fields)]
    return found[0] if len(found) == 1 else None


def _known(columns: Sequence[str], field: str) -> bool:
    return not set(CANDIDATES["interactions"][field]).isdisjoint(map(normalised, columns))


def _describes_items(columns: Sequence[str]) -> bool:
    """Whether there is content, and no user: a table of vectors, say, has neither."""
    names = set(map(normalised, columns))
    content = [names & set(CANDIDATES["items"][f]) for f in CANDIDATES["items"] if f != "item"]
    return any(content) and not _known(columns, "user")
