"""RecBole's atomic files: tab-separated, with a type after the name of each column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.tables import SourceTables, Table, open_table
from cammsr_cli.errors import UsageError

_TYPED = re.compile(r"(?P<name>.+):(?P<type>token|token_seq|float|float_seq)")
_BETWEEN_QUOTED = re.compile(r"(?<=['\"]),\s*(?=['\"])")

# Column names of titles and categories in RecBole's own data sets.
_NAMES = {"movie_title": "title", "item_name": "title", "class": "category"}
_TEXTS = ("title", "name", "description", "text", "review", "abstract", "summary")


def is_atomic(columns: Sequence[str]) -> bool:
    """Whether every column has one of RecBole's types after its name."""
    return bool(columns) and all(_TYPED.fullmatch(column) for column in columns)


def find_recbole(
    folder: Path, columns: Mapping[Path, list[str]], reading: Reading
) -> SourceTables | None:
    """Read a folder with one `.inter` file, and perhaps the `.item` file of the same name.

    Raises:
        UsageError: The folder holds several `.inter` files.
        CammsrError: A file is broken.
    """
    atomic = [path for path, names in columns.items() if is_atomic(names)]
    interactions = [path for path in atomic if _suffix(path) == ".inter"]
    if not interactions:
        return None
    if len(interactions) > 1:
        raise UsageError(
            f"{folder} holds several .inter files: {', '.join(p.name for p in interactions)}",
            "Give the files themselves: cammsr prepare NAME.inter --items NAME.item",
        )
    stem = interactions[0].name.partition(".inter")[0]
    items = [p for p in atomic if _suffix(p) == ".item" and p.name.startswith(f"{stem}.")]
    return SourceTables(
        open_table(interactions[0], reading), open_table(items[0], reading) if items else None
    )


def _suffix(path: Path) -> str:
    """The suffix `.inter` or `.item` of a file name: `.inter` for `a.inter` and `a.inter.gz`."""
    suffixes = [one.lower() for one in path.suffixes if one.lower() in (".inter", ".item")]
    return suffixes[-1] if suffixes else ""


def as_recbole(tables: SourceTables) -> SourceTables | None:
    """Remove RecBole's types from column names; None if the columns have no types."""
    items = tables.items
    atomic = is_atomic(tables.interactions.frame.columns)
    atomic_items = items is not None and is_atomic(items.frame.columns)
    if not atomic and not atomic_items:
        return None
    return replace(
        tables,
        interactions=_interactions(tables.interactions) if atomic else tables.interactions,
        items=_items(items) if items is not None and atomic_items else items,
        notes=(*tables.notes, "read as RecBole's atomic files (--format recbole)"),
    )


def _interactions(table: Table) -> Table:
    names = {column: _parts(column)[0] for column in table.frame.columns}
    notes = [
        f"column {name} of {table.path.name} not read: sequences of a row are no events"
        for column, name in names.items()
        if _parts(column)[1].endswith("_seq")
    ]
    frame = table.frame.rename(_distinct(names))
    return replace(table, frame=frame, notes=(*table.notes, *notes))


def _items(table: Table) -> Table:
    """Rename columns to recognised names, and convert token sequences to lists unless text."""
    names: dict[str, str] = {}
    lists: list[str] = []
    for column in table.frame.columns:
        name, kind = _parts(column)
        names[column] = _NAMES.get(name, name)
        if kind == "token_seq" and not any(word in name.lower() for word in _TEXTS):
            lists.append(column)
    tokens = {column: [_tokens(text) for text in table.frame[column]] for column in lists}
    frame = table.frame.with_columns(
        pl.Series(column, values, dtype=pl.List(pl.String)) for column, values in tokens.items()
    )
    return replace(table, frame=frame.rename(_distinct(names)))


def _parts(column: str) -> tuple[str, str]:
    name, _, kind = column.rpartition(":")
    return name, kind


def _distinct(names: Mapping[str, str]) -> dict[str, str]:
    """The new names; columns with the same new name keep their old names."""
    taken = list(names.values())
    return {column: name if taken.count(name) == 1 else column for column, name in names.items()}


def _tokens(text: str | None) -> list[str]:
    """Split a sequence into tokens at spaces, or at commas as in RecBole's Amazon sets."""
    if not text:
        return []
    if len(text) > 1 and text[0] in "'\"" and text[-1] in "'\"":
        return [token[1:-1] for token in _BETWEEN_QUOTED.split(text) if token[1:-1].strip()]
    if "," in text:
        return [token.strip() for token in text.split(",") if token.strip()]
    return text.split()
