"""Files that hold several tables: workbooks and databases.

The path of a table is written as if the file were a folder: `shop.xlsx/Orders`.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from cammsr_cli.data.readers.columns import listed
from cammsr_cli.data.readers.databases import DATABASES, database_tables, read_query
from cammsr_cli.data.readers.sheets import WORKBOOKS, read_sheet, sheet_names
from cammsr_cli.errors import CammsrError, closest

HOLDERS = (*WORKBOOKS, *DATABASES)
_ROWS_TO_LEARN_FROM = 20


def is_holder(path: Path) -> bool:
    """Whether a path is a workbook or a database, by its extension."""
    return path.suffix.lower() in HOLDERS and path.is_file()


def holder_of(path: Path) -> Path | None:
    """The workbook or database of a path, which may be its own or a table's path; else None."""
    if is_holder(path):
        return path
    return path.parent if is_holder(path.parent) else None


def tables_of(holder: Path) -> list[Path]:
    """The paths of the tables of a workbook or a database.

    Raises:
        CammsrError: The file cannot be read, or the package that reads it is not installed.
    """
    return [holder / name for name in _names(holder)]


def held_columns(path: Path) -> list[str]:
    """The columns of a table in a workbook or a database.

    Raises:
        CammsrError: There is no such table, or the file cannot be read.
    """
    return _read(path, _ROWS_TO_LEARN_FROM)[0].columns


def read_held(path: Path) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Read the rows of a table in a workbook or a database; also return notes.

    Raises:
        CammsrError: There is no such table, or the file cannot be read.
    """
    frame, above = _read(path, None)
    if not above:
        return frame, ()
    return frame, (f"what stands above the header of {path.name} is not read: {above}",)


def _names(holder: Path) -> list[str]:
    if holder.suffix.lower() in WORKBOOKS:
        return sheet_names(holder)
    return list(database_tables(holder))


def _read(path: Path, rows: int | None) -> tuple[pl.DataFrame, str]:
    holder, name = path.parent, path.name
    names = _names(holder)
    if name not in names:
        meant = closest(name, names, 1)
        question = f", did you mean {meant[0]!r}?" if meant else ""
        raise CammsrError(
            f"{holder} has no table {name!r}{question}", f"Its tables: {listed(names) or 'none'}"
        )
    if holder.suffix.lower() in WORKBOOKS:
        return read_sheet(holder, name, rows)
    limit = "" if rows is None else f" LIMIT {rows}"
    sql = f"SELECT * FROM {database_tables(holder)[name]}{limit}"  # noqa: S608
    return read_query(holder, sql), ""
