"""Tables of SQLite and DuckDB files, which are opened read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import polars as pl

from cammsr_cli.data.readers.columns import distinct_names
from cammsr_cli.errors import CammsrError, first_line

if TYPE_CHECKING:
    import duckdb

DATABASES = (".sqlite", ".sqlite3", ".db", ".db3", ".duckdb", ".ddb")

_SQLITE, _DUCKDB = b"SQLite format 3\0", b"DUCK"
_DUCKDB_AT = 8
_ROWS_A_PIECE = 65_536
_TABLES = {
    "sqlite": "SELECT name, 'main' FROM sqlite_master WHERE type IN ('table', 'view') "
    "AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY rowid",
    "duckdb": "SELECT table_name, table_schema FROM information_schema.tables "
    "WHERE table_catalog = current_database() ORDER BY table_schema, table_name",
}


def database_tables(path: Path) -> dict[str, str]:
    """Map the names of a database's tables and views to their identifiers in SQL.

    The name of a DuckDB table in another schema than `main` is "schema.table".

    Raises:
        CammsrError: The database cannot be read, or the package that reads it is not installed.
    """
    kind = _kind(path)
    with _refusals_named(path, ""):
        if kind == "sqlite":
            with closing(_sqlite(path)) as connection:
                found = connection.execute(_TABLES[kind]).fetchall()
        else:
            with closing(_duckdb(path)) as duck:
                found = duck.execute(_TABLES[kind]).fetchall()
    return {
        name if schema == "main" else f"{schema}.{name}": ".".join(
            '"' + part.replace('"', '""') + '"' for part in (schema, name)
        )
        for name, schema in found
    }


def read_query(path: Path, sql: str) -> pl.DataFrame:
    """Run a query on a database and return its rows in their order; bytes stay bytes.

    The query cannot change the file, and cannot access other files.

    Raises:
        CammsrError: The query fails; the database cannot be read; the package that reads it is not
            installed.
    """
    kind = _kind(path)
    with _refusals_named(path, sql):
        if kind == "sqlite":
            with closing(_sqlite(path)) as connection:
                return _rows_of_sqlite(connection, sql)
        with closing(_duckdb(path)) as duck:
            result = duck.sql(sql)
            if result is None:
                raise ValueError("the statement gives no rows")
            return pl.DataFrame(result)


def _kind(path: Path) -> str:
    """The database system that wrote a file, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(len(_SQLITE))
    if head == _SQLITE:
        return "sqlite"
    if head[_DUCKDB_AT:].startswith(_DUCKDB):
        return "duckdb"
    raise CammsrError(
        f"{path} is neither an SQLite nor a DuckDB database", "Give a table as CSV or Parquet."
    )


@contextmanager
def _refusals_named(path: Path, sql: str) -> Iterator[None]:
    errors: tuple[type[Exception], ...] = (sqlite3.Error, sqlite3.Warning, ValueError)
    errors = (*errors, pl.exceptions.PolarsError)
    if find_spec("duckdb") is not None:
        import duckdb

        errors = (*errors, duckdb.Error)
    try:
        yield
    except errors as error:
        query_shown = f" ({' '.join(sql.split())})" if sql else ""
        raise CammsrError(
            f"{path} cannot be read: {first_line(error)}{query_shown}",
            "Try it with the database's own program, or save the table as CSV or Parquet.",
        ) from None


# --- SQLite -------------------------------------------------------------------------------------


def _sqlite(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
    connection.set_authorizer(
        lambda action, *_: (
            sqlite3.SQLITE_DENY
            if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_PRAGMA)
            else sqlite3.SQLITE_OK
        )
    )
    return connection


def _rows_of_sqlite(connection: sqlite3.Connection, sql: str) -> pl.DataFrame:
    """Read the rows in chunks; a column with cells of several types becomes text."""
    sql = sql.strip().removesuffix(";")
    cursor = connection.execute(sql)
    if cursor.description is None:
        raise ValueError("the statement gives no rows")
    names = distinct_names([column[0] for column in cursor.description])
    kinds = [set[type]() for _ in names]
    for rows in iter(lambda: cursor.fetchmany(_ROWS_A_PIECE), []):
        for kind, cells in zip(kinds, zip(*rows, strict=True), strict=True):
            kind.update(map(type, cells))
    types = [_type_of(kind - {type(None)}) for kind in kinds]
    pieces = [pl.DataFrame(schema=dict(zip(names, types, strict=True)))]
    cursor = connection.execute(sql)
    for rows in iter(lambda: cursor.fetchmany(_ROWS_A_PIECE), []):
        columns = zip(names, types, zip(*rows, strict=True), strict=True)
        pieces.append(pl.DataFrame([_series(*column) for column in columns]))
    return pl.concat(pieces)


def _type_of(kinds: set[type]) -> pl.DataType:
    if bytes in kinds:
        return pl.Binary()
    if kinds == {int}:
        return pl.Int64()
    return pl.Float64() if kinds and kinds <= {int, float} else pl.String()


def _series(name: str, dtype: pl.DataType, cells: tuple[Any, ...]) -> pl.Series:
    if dtype == pl.String:
        cells = tuple(cell if cell is None else str(cell) for cell in cells)
    elif dtype == pl.Binary:
        cells = tuple(
            cell if cell is None or isinstance(cell, bytes) else str(cell).encode()
            for cell in cells
        )
    return pl.Series(name, cells, dtype, strict=False)


# --- DuckDB -------------------------------------------------------------------------------------


def _duckdb(path: Path) -> duckdb.DuckDBPyConnection:
    if find_spec("duckdb") is None:
        raise CammsrError(
            f"{path}: to read it, the package duckdb is needed, which is not installed",
            "Install it: pip install 'cammsr[duckdb]'",
        )
    import duckdb

    return duckdb.connect(
        str(path),
        read_only=True,
        config={
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "lock_configuration": "true",
        },
    )
