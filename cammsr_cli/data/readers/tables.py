"""Raw tables: CSV, TSV, JSON and Parquet, plain or compressed, a file or a folder of parts."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import polars as pl
import zstandard

from cammsr_cli.data.readers.columns import listed
from cammsr_cli.data.readers.contents import (
    COMPRESSIONS,
    UTF8,
    UTF8_BOM,
    Reading,
    as_utf8,
    first_lines,
    read_content,
    read_text,
)
from cammsr_cli.data.readers.delimited import Dialect, header_of, line_of, read_delimited
from cammsr_cli.data.readers.headerless import known_columns
from cammsr_cli.data.readers.json_rows import json_keys, read_json
from cammsr_cli.errors import CammsrError, UsageError, first_line

Format = Literal["csv", "tsv", "jsonl", "parquet"]

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "tsv",  # whatever separates the fields: it is seen in the first lines
    ".dat": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",  # as Amazon's reviews of 2014 and 2018 are called
    ".parquet": "parquet",
    ".inter": "tsv",  # RecBole's atomic files
    ".item": "tsv",
}
INTERACTION_NAMES = ("interactions", "reviews", "ratings", "events")
ITEM_NAMES = ("items", "meta", "products", "catalogue", "movies")
_USUAL_SEPARATORS: dict[Format, str] = {"csv": ",", "tsv": "\t"}
_HEAD = 65_536  # bytes in which the first line ends
_ROWS_A_PIECE = 65_536  # as Python's values a whole column of texts is large
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_PARTITION = re.compile(r"([^=]+)=(.*)")  # a folder of Hive: the column and its value
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_WORDS_TOLD = 3


@dataclass(frozen=True)
class Table:
    """A raw table and where it came from, so that a bad value can be shown by file and line.

    Attributes:
        path: The file it was read from, or the folder of its parts.
        frame: Its rows, in file order, blank lines left out.
        layout: How a row number turns into a place in the file.
        dialect: Delimited files only: how fields are told apart.
        encoding: What its text is written in.
        notes: What people should know of how it was read.
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
        return own or (self.path,)

    def place(self, row: int) -> str:
        """Where a 0-based row of `frame` stands: "FILE, line 7", or "FILE, row 7" in Parquet.

        Lines count from 1, the header and blank lines among them.
        """
        for part in self.parts:
            if row < part.frame.height:
                return part.place(row)
            row -= part.frame.height
        line = self._line(row)
        return f"{self.path}, row {row + 1}" if line is None else f"{self.path}, line {line}"

    def _line(self, row: int) -> int | None:
        """The line of a row, found by reading the file again; None where it cannot be told."""
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
        interactions: Who took what, when.
        items: What the items are; None if there is no such file.
        tags: Words users gave to items (GroupLens); columns `user`, `item`, `tag`.
        lists_are_paths: Whether a list of categories leads from the coarsest to the finest, so
            that it is a place in a hierarchy, and not a set.
        known: Whether it is known which of several columns is meant.
        notes: What people should know of how the files were read.
    """

    interactions: Table
    items: Table | None = None
    tags: Table | None = None
    lists_are_paths: bool = False
    known: bool = False
    notes: tuple[str, ...] = ()


def table_format(path: Path) -> Format | None:
    """The format a file name stands for, or None: `reviews.jsonl.gz` is "jsonl".

    A folder's is that of its parts.
    """
    if path.is_dir():
        parts = part_files(path)
        return _named_format(parts[0].name) if parts else None
    return _named_format(path.name)


def _named_format(name: str) -> Format | None:
    name = name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return FORMATS.get(Path(name).suffix)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without what systems and programs put there for themselves.

    That is what begins with "." or "_" (`._x.csv`, `.DS_Store`, `_SUCCESS`, `__MACOSX`),
    `Thumbs.db` and `desktop.ini`.
    """
    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.name[0] not in "._" and path.name.lower() not in _SYSTEM_FILES
        ),
        key=lambda path: path.name,
    )


def part_files(folder: Path) -> list[Path]:
    """The files of a table that is a folder of parts, as Spark and Hive write it; else none.

    All must be of one format. Parts are called `part…`, or alike but for digits, or the folder is
    called as a table is (`ratings.parquet`); folders within are called `column=value`.
    """
    files: list[Path] = []
    for path in _leaves(folder):
        # Names first: a folder of a million pictures is none of parts.
        kind = _named_format(path.name)
        if kind is None or path.is_dir() or (files and kind != _named_format(files[0].name)):
            return []
        files.append(path)
    named = _named_format(folder.name) or any(path.parent != folder for path in files)
    alike = len(files) > 1 and len({re.sub(r"\d+", "", path.name) for path in files}) == 1
    parts = all(path.name.lower().startswith("part") for path in files)
    return files if named or alike or parts else []


def _leaves(folder: Path) -> Iterator[Path]:
    """The files of a folder and of its partitions, and the folders that are no partitions."""
    for path in visible(folder):
        if _PARTITION.fullmatch(path.name) and path.is_dir():
            yield from _leaves(path)
        else:
            yield path


def named_table(folder: Path, tables: Mapping[Path, object], names: Sequence[str]) -> Path | None:
    """The table in a folder whose name comes first in `names`; two of one name are a fault."""
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
    """Read a table: CSV, TSV, JSON or Parquet, plain, `.gz` or `.zst`, told by extension.

    Rows are in file order. Every column of a delimited file is a string (ids such as "007" stay
    what they are); JSON and Parquet keep their types. Words that stand for a missing value are
    null, and counted.

    Args:
        path: The file, or a folder of parts, which are taken in order of their names.
        reading: How to read it; None finds out.

    Raises:
        CammsrError: The file is missing, empty, broken or of an unknown kind; it says where.
    """
    reading = reading or Reading()
    if not path.exists():
        raise CammsrError(f"{path}: no such file", "Check the path.")
    table = _open_parts(path, reading) if path.is_dir() else _open_file(path, reading)
    if table is None:
        raise CammsrError(f"{path} is empty", "Give a file with a header and at least one row.")
    if table.frame.width == 0:
        raise CammsrError(f"{path} names no columns", "Give objects such as {...} with keys.")
    if table.frame.height == 0:
        raise CammsrError(f"{path} has a header but no rows", "Give a file with at least one row.")
    return _without_missing(table, reading.missing)


def _open_file(path: Path, reading: Reading) -> Table | None:
    """The table in a file; None if there is nothing in it."""
    kind = table_format(path)
    if kind is None:
        raise CammsrError(f"{path}: unknown kind of table", _known_extensions())
    content = read_content(path)
    if not content.removeprefix(UTF8_BOM)[:_ROWS_A_PIECE].strip() and not content.strip():
        return None
    if kind == "parquet":
        return _read_parquet(path, content)
    content, encoding, notes = as_utf8(path, content, reading.encoding_of(path))
    if kind == "jsonl":
        frame, by_line = read_json(path, content)
        return Table(path, frame, "json lines" if by_line else "rows", None, encoding, notes)
    usual, columns = _USUAL_SEPARATORS[kind], reading.columns.get(path.name, ())
    if not columns:
        head = content[:_HEAD].decode("utf-8", "replace")
        columns = known_columns(path.name, header_of([head.partition("\n")[0]], usual))
        if columns:
            told = (
                f"{path.name} has no header: its columns are taken for {', '.join(columns)} "
                f"(else: --columns {path.name}=NAME,NAME,…)"
            )
            notes = (*notes, told)
    read = read_delimited(path, content, usual, columns)
    notes = (*notes, *read.notes, *blank_note(path, read.blank))
    return Table(path, read.frame, "delimited", read.dialect, encoding, notes)


def _open_parts(folder: Path, reading: Reading) -> Table | None:
    """The rows of all parts, one after another; None if there are none."""
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
    """A part with the columns that the names of its folders tell."""
    told = {
        key: None if value == _NO_VALUE else unquote(value)
        for key, value in _partition(folder, part.path).items()
        if key not in part.frame.columns
    }
    columns = [pl.lit(value, pl.String).alias(key) for key, value in told.items()]
    return replace(part, frame=part.frame.with_columns(columns))


def _partition(folder: Path, file: Path) -> dict[str, str]:
    names = file.relative_to(folder).parent.parts
    return {match[1]: match[2] for name in names if (match := _PARTITION.fullmatch(name))}


def columns_of(path: Path, reading: Reading | None = None) -> list[str]:
    """The columns that a table begins with, from its first lines; [] if they cannot be told.

    Of JSON those of the first twenty lines. Whether the rest of the file is sound is not looked
    at: `open_table` does.
    """
    reading = reading or Reading()
    if path.is_dir():
        files = part_files(path)
        found = next((columns for file in files if (columns := columns_of(file, reading))), [])
        return [*found, *(_partition(path, files[0]) if files else ())]
    kind = table_format(path)
    if kind != "parquet" and path.name in reading.columns:
        return list(reading.columns[path.name])
    try:
        if kind == "parquet":
            plain = path.suffix.lower() == ".parquet"
            return list(pl.read_parquet_schema(path if plain else io.BytesIO(read_content(path))))
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
    """The cells of a column in some rows, as Python's values, a piece of them at a time.

    Raises:
        CammsrError: It holds dates within lists or objects that Python has no value for.
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
    """A note on rows of a file that were left out because no field of theirs has a value."""
    return (f"{counted(rows, 'row')} of {path.name} without any value left out",) if rows else ()


def _known_extensions() -> str:
    return f"Known extensions: {', '.join(FORMATS)}, each also with {' or '.join(COMPRESSIONS)}."


def _without_missing(table: Table, words: frozenset[str]) -> Table:
    """The table with null where a cell is one of the words that stand for a missing value."""
    padded = [form for word in words for form in (word, f" {word}", f"{word} ", f" {word} ")]
    texts = table.frame.select(pl.col(pl.String))
    found = texts.select(pl.all().is_in(padded).any())
    columns = [name for name in found.columns if found[name].item()]
    if not columns:
        return table
    cells = [texts[name] for name in columns]
    written = pl.concat([cell.filter(cell.is_in(padded)).alias("") for cell in cells])
    common = written.str.strip_chars().value_counts(sort=True)[""][:_WORDS_TOLD].to_list()
    note = (
        f"{counted(len(written), 'cell')} of {table.path.name} read as missing, written "
        f"{', '.join(common)} in {listed(columns)} (--missing says which words are)"
    )
    frame = table.frame.with_columns(
        pl.when(~pl.col(name).is_in(padded)).then(pl.col(name)).alias(name) for name in columns
    )
    return replace(table, frame=frame, notes=(*table.notes, note))


def _read_parquet(path: Path, content: bytes) -> Table:
    """Columns of bytes are texts where they are UTF-8, as some programs write them."""
    try:
        frame = pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise CammsrError(
            f"{path} is not a Parquet file: {first_line(error)}", "Write it again."
        ) from None
    notes: list[str] = []
    for column in frame.select(pl.selectors.binary()):
        try:
            frame = frame.with_columns(column.cast(pl.String))
        except pl.exceptions.PolarsError:
            frame = frame.drop(column.name)
            notes.append(f"column {column.name!r} of {path.name} holds bytes, not text: left out")
    return Table(path, frame, "rows", notes=tuple(notes))
