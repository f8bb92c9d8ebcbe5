"""Raw tables: CSV, TSV, JSON and Parquet, plain or compressed, as a file or a folder of parts."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
import zstandard

from cammsr_cli.data.readers.columns import listed
from cammsr_cli.data.readers.containers import (
    HOLDERS,
    held_columns,
    holder_of,
    read_held,
    tables_of,
)
from cammsr_cli.data.readers.databases import read_query
from cammsr_cli.data.readers.delimited import header_of, line_of, read_delimited
from cammsr_cli.data.readers.dialects import Dialect
from cammsr_cli.data.readers.file_contents import (
    COMPRESSIONS,
    UTF8,
    UTF8_BOM,
    Reading,
    as_utf8,
    first_lines,
    read_content,
    read_text,
)
from cammsr_cli.data.readers.file_names import (
    FORMATS,
    Format,
    part_files,
    partition,
    table_format,
)
from cammsr_cli.data.readers.headerless import known_columns
from cammsr_cli.data.readers.json_rows import json_keys, read_json
from cammsr_cli.errors import CammsrError, UsageError, first_line

INTERACTION_NAMES = ("interactions", "reviews", "ratings", "events")
ITEM_NAMES = ("items", "meta", "products", "catalogue", "movies")


class _Columnar(NamedTuple):
    """A format with typed columns: how polars reads the rows, and how it reads the names only."""

    title: str
    rows: Callable[[io.BytesIO], pl.DataFrame]
    columns: Callable[[Path | io.BytesIO], Iterable[str]]


_COLUMNAR: dict[Format, _Columnar] = {
    "parquet": _Columnar("Parquet", pl.read_parquet, pl.read_parquet_schema),
}
_USUAL_SEPARATORS: dict[Format, str] = {"csv": ",", "tsv": "\t"}
_HEAD = 65_536  # bytes in which the first line ends
_ROWS_A_PIECE = 65_536  # a whole column of texts as Python objects needs much memory
_WORDS_LISTED = 3


@dataclass(frozen=True)
class Table:
    """A raw table and its origin, so that messages can give the file and line of a bad value.

    Attributes:
        path: The file it was read from, or the folder of its parts.
        frame: Its rows, in file order, without blank lines.
        layout: How a row number is converted to a place in the file.
        dialect: The delimiter and the quoting; delimited files only.
        encoding: The encoding of its text.
        notes: Notes for people about how it was read.
        parts: The tables of a folder's files, in order of their names; none for a single file.
        joined: The tables whose rows were joined by id.
    """

    path: Path
    frame: pl.DataFrame
    layout: Literal["delimited", "json lines", "rows", "headerless"]
    dialect: Dialect | None = None
    encoding: str = UTF8
    notes: tuple[str, ...] = ()
    parts: tuple[Table, ...] = ()
    joined: tuple[Table, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it was read from."""
        own = tuple(file for table in (*self.joined, *self.parts) for file in table.files)
        return own or (holder_of(self.path) or self.path,)

    def place(self, row: int) -> str:
        """The place of a 0-based row of `frame`: "FILE, line 7", or "FILE, row 7" in Parquet.

        Lines are counted from 1, including the header and blank lines.
        """
        for part in self.parts:
            if row < part.frame.height:
                return part.place(row)
            row -= part.frame.height
        line = self._line(row)
        return f"{self.path}, row {row + 1}" if line is None else f"{self.path}, line {line}"

    def _line(self, row: int) -> int | None:
        """The line of a row, found by reading the file again; None if it is unknown."""
        if self.layout == "headerless":
            return row + 1
        if self.dialect is not None:
            return line_of(read_text(self.path, self.encoding), self.dialect, row)
        if self.layout != "json lines":
            return None
        text = read_text(self.path, self.encoding)
        lines = (number for number, line in enumerate(text.split("\n"), 1) if line.strip())
        return next(islice(lines, row, None), None)


@dataclass(frozen=True)
class SourceTables:
    """The raw tables a corpus is made of.

    Attributes:
        interactions: The events: users, items and times.
        items: The items and their content; None if there is no such file.
        tags: Tags that users gave to items (GroupLens); columns `user`, `item`, `tag`.
        lists_are_paths: Whether a list of categories goes from the coarsest to the finest, so that
            it is a path in a hierarchy and not a set.
        known: Whether the format defines which of several possible columns is used.
        notes: Notes for people about how the files were read.
    """

    interactions: Table
    items: Table | None = None
    tags: Table | None = None
    lists_are_paths: bool = False
    known: bool = False
    notes: tuple[str, ...] = ()


def named_table(folder: Path, tables: Mapping[Path, object], names: Sequence[str]) -> Path | None:
    """The table in a folder whose name comes first in `names`; None if no name matches.

    Raises:
        UsageError: Several tables have the same name.
    """
    for name in names:
        found = [path for path in tables if path.name.lower().partition(".")[0] == name]
        if len(found) > 1:
            raise UsageError(
                f"{folder} holds several {name} files: {', '.join(file.name for file in found)}",
                "Give the file itself instead of the folder.",
            )
        if found:
            return found[0]
    return None


def open_table(path: Path, reading: Reading | None = None) -> Table:
    """Read a table: CSV, TSV, JSON or Parquet, plain, `.gz` or `.zst`, by its extension.

    A table of a workbook or a database is read too. Its path is such as `shop.xlsx/Orders`. The
    path of the workbook or database is enough if it holds only one table, or if `reading` names
    the table or has a query.

    Rows are in file order. Every column of a delimited file or a sheet is a string, so that ids
    such as "007" do not change. JSON, Parquet and databases keep their types. Words that stand for
    a missing value become null, and a note counts them.

    Args:
        path: The file, or a folder of parts, which are read in order of their names.
        reading: How to read it; None detects everything.

    Raises:
        CammsrError: The file is missing, empty, broken or of an unknown kind; the message gives
            the place.
    """
    reading = reading or Reading()
    table: Table | None
    if holder := holder_of(path):
        table = _open_held(path, holder, reading)
    elif not path.exists():
        raise CammsrError(f"{path}: no such file", "Check the path.")
    else:
        table = _open_parts(path, reading) if path.is_dir() else _open_file(path, reading)
    if table is None:
        raise CammsrError(f"{path} is empty", "Give a file with a header and at least one row.")
    if table.frame.width == 0:
        raise CammsrError(f"{path} names no columns", "Give objects such as {...} with keys.")
    if table.frame.height == 0:
        raise CammsrError(f"{path} has a header but no rows", "Give a file with at least one row.")
    return _without_missing(table, reading.missing)


def _open_held(path: Path, holder: Path, reading: Reading) -> Table:
    """Read a table of a workbook or a database, or the result of a query."""
    if path == holder and holder.name in reading.queries:
        rows = read_query(holder, reading.queries[holder.name])
        return _of_texts(Table(path, rows, "rows"))
    if path == holder and (name := reading.tables.get(holder.name)):
        path = holder / name
    if path == holder:
        names = tables_of(holder)
        if len(names) != 1:
            raise CammsrError(
                f"{holder} holds {len(names)} tables: {listed(one.name for one in names)}",
                f"Name one: --table {names[0].name if names else 'NAME'}",
            )
        path = names[0]
    frame, notes = read_held(path)
    kept = frame.filter(~pl.all_horizontal(pl.all().is_null())) if frame.width else frame
    notes = (*notes, *blank_note(path, frame.height - kept.height))
    return _of_texts(Table(path, kept, "rows", notes=notes))


def _open_file(path: Path, reading: Reading) -> Table | None:
    """Read the table in a file; None if the file is empty."""
    kind = table_format(path)
    if kind is None:
        raise CammsrError(f"{path}: unknown kind of table", _known_extensions())
    content = read_content(path)
    if not content.removeprefix(UTF8_BOM)[:_ROWS_A_PIECE].strip() and not content.strip():
        return None
    if kind in _COLUMNAR:
        return _read_columnar(path, content, _COLUMNAR[kind])
    content, encoding, notes = as_utf8(path, content, reading.encoding_of(path))
    if kind == "jsonl":
        frame, by_line = read_json(path, content)
        return Table(path, frame, "json lines" if by_line else "rows", None, encoding, notes)
    usual, columns = _USUAL_SEPARATORS[kind], reading.columns.get(path.name, ())
    if not columns:
        head = content[:_HEAD].decode("utf-8", "replace")
        columns = known_columns(path.name, header_of([head.partition("\n")[0]], usual))
        if columns:
            note = (
                f"{path.name} has no header: its columns are taken for {', '.join(columns)} "
                f"(else: --columns {path.name}=NAME,NAME,…)"
            )
            notes = (*notes, note)
    read = read_delimited(path, content, usual, columns)
    notes = (*notes, *read.notes, *blank_note(path, read.blank))
    twice = [name for name in read.frame.columns if name.endswith("_duplicated_0")]
    if twice:
        several = listed(name.removesuffix("_duplicated_0") for name in twice)
        notes = (*notes, f"columns of {path.name} that are there twice: {several}; the first holds")
    return Table(path, read.frame, "delimited", read.dialect, encoding, notes)


def _open_parts(folder: Path, reading: Reading) -> Table | None:
    """Read the rows of all parts, concatenated; None if there are none."""
    files = part_files(folder)
    if not files:
        raise CammsrError(
            f"{folder} is a folder, but not one of parts of a table",
            "Give a file, or a folder of files that are called alike, as part-00000.parquet.",
        )
    opened = [(file, _open_file(file, reading)) for file in files]
    parts = [_with_partition(folder, table) for _, table in opened if table and table.frame.height]
    if not parts:
        return None
    columns = parts[0].frame.columns
    for part in parts[1:]:
        if part.layout == "delimited" and set(part.frame.columns) != set(columns):
            raise CammsrError(
                f"{part.path} has other columns than {parts[0].path.name} "
                f"({', '.join(part.frame.columns[:8])}; {', '.join(columns[:8])})",
                f"If the parts have no header: --columns {folder.name}=user,item,timestamp",
            )
    try:
        frame = pl.concat([part.frame for part in parts], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise CammsrError(
            f"{folder}: its parts hold values of other types ({first_line(error)})",
            "Write them again with one type a column.",
        ) from None
    notes = [f"{folder.name} read from {counted(len(files), 'part')}"]
    if empty := len(files) - len(parts):
        notes[0] += f", {empty:,} of them without rows"
    notes += [note for part in parts for note in part.notes]
    return Table(folder, frame, "rows", None, UTF8, tuple(notes), tuple(parts))


def _with_partition(folder: Path, part: Table) -> Table:
    """Add the columns that are encoded in the names of a part's folders."""
    columns = [
        pl.lit(value, pl.String).alias(key)
        for key, value in partition(folder, part.path).items()
        if key not in part.frame.columns
    ]
    return replace(part, frame=part.frame.with_columns(columns))


def columns_of(path: Path, reading: Reading | None = None) -> list[str]:
    """Read the column names of a table from its first lines; [] if they are unknown.

    For JSON, they are the keys of the first twenty lines. The rest of the file is not checked:
    `open_table` checks it.
    """
    reading = reading or Reading()
    if holder := holder_of(path):
        try:
            own = tables_of(holder) if path == holder else [path]
            return held_columns(own[0]) if len(own) == 1 else []
        except CammsrError:
            return []
    if path.is_dir():
        files = part_files(path)
        found = next((columns for file in files if (columns := columns_of(file, reading))), [])
        return [*found, *(partition(path, files[0]) if files else ())]
    kind = table_format(path)
    columnar = _COLUMNAR.get(kind) if kind else None
    if columnar is None and path.name in reading.columns:
        return list(reading.columns[path.name])
    try:
        if columnar is not None:
            plain = path.suffix.lower() in FORMATS  # otherwise the whole file is compressed
            return list(columnar.columns(path if plain else io.BytesIO(read_content(path))))
        lines = first_lines(path, reading.encoding_of(path))
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, pl.exceptions.PolarsError):
        return []
    except (CammsrError, UnicodeError):
        return []
    if not lines or kind is None:
        return []
    if kind == "jsonl":
        return json_keys(path, lines)
    header = header_of(lines, _USUAL_SEPARATORS[kind])
    return list(known_columns(path.name, header)) or header


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 event", "1,200 events"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def values_of(table: Table, column: str, rows: Sequence[int]) -> Iterator[Any]:
    """Yield the cells of a column in some rows as Python objects, converted in chunks.

    Raises:
        CammsrError: Lists or objects in it hold dates that Python cannot represent.
    """
    series = table.frame[column]
    for start in range(0, len(rows), _ROWS_A_PIECE):
        piece = series.gather(list(rows[start : start + _ROWS_A_PIECE]))
        try:
            yield from piece.to_list()
        except (OverflowError, ValueError) as error:
            if piece.dtype.is_nested():
                raise CammsrError(
                    f"{table.path}: column {column!r} holds dates beyond the years 1 to 9999",
                    "Leave the column out, or write its dates as text.",
                ) from error
            yield from piece.cast(pl.String).to_list()  # a date beyond the years 1 to 9999


def blank_note(path: Path, rows: int) -> tuple[str, ...]:
    """A note about rows of a file that were dropped because all their fields are empty."""
    return (f"{counted(rows, 'row')} of {path.name} without any value left out",) if rows else ()


def _known_extensions() -> str:
    return (
        f"Known extensions: {', '.join(FORMATS)}, each also with {' or '.join(COMPRESSIONS)}; "
        f"{', '.join(HOLDERS)}."
    )


def _without_missing(table: Table, words: frozenset[str]) -> Table:
    """Replace cells by null if they are one of the words that stand for a missing value."""
    padded = [form for word in words for form in (word, f" {word}", f"{word} ", f" {word} ")]
    texts = table.frame.select(pl.col(pl.String))
    found = texts.select(pl.all().is_in(padded).any())
    columns = [name for name in found.columns if found[name].item()]
    if not columns:
        return table
    cells = [texts[name] for name in columns]
    written = pl.concat([cell.filter(cell.is_in(padded)).alias("") for cell in cells])
    common = written.str.strip_chars().value_counts(sort=True)[""][:_WORDS_LISTED].to_list()
    note = (
        f"{counted(len(written), 'cell')} of {table.path.name} read as missing, written "
        f"{', '.join(common)} in {listed(columns)} (--missing says which words are)"
    )
    frame = table.frame.with_columns(
        pl.when(~pl.col(name).is_in(padded)).then(pl.col(name)).alias(name) for name in columns
    )
    return replace(table, frame=frame, notes=(*table.notes, note))


def _read_columnar(path: Path, content: bytes, kind: _Columnar) -> Table:
    try:
        frame = kind.rows(io.BytesIO(content))
    except (pl.exceptions.PolarsError, OSError) as error:  # the bytes are in memory
        raise CammsrError(
            f"{path} is not a file of {kind.title}: {first_line(error)}", "Write it again."
        ) from None
    return _of_texts(Table(path, frame, "rows"))


def _of_texts(table: Table) -> Table:
    """Convert columns of bytes to text, as some programs write text as bytes; drop the others."""
    frame, notes = table.frame, list(table.notes)
    for column in frame.select(pl.selectors.binary()):
        try:
            frame = frame.with_columns(column.cast(pl.String))
        except pl.exceptions.PolarsError:
            frame = frame.drop(column.name)
            notes.append(
                f"column {column.name!r} of {table.path.name} holds bytes, not text: left out"
            )
    return replace(table, frame=frame, notes=tuple(notes))
