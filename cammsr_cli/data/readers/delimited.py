"""Rows of CSV, TSV and other delimited files.

Polars reads them because it is fast. But it accepts files that Python's strict reader rejects, and
then merges records. So polars is used only if the quotes and the number of delimiters show that the
file is not ambiguous. All other files are read record by record.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.readers.columns import distinct_names
from cammsr_cli.data.readers.dialects import (
    Dialect,
    after_separator_line,
    count_of,
    empty_lines,
    lines_alike,
    mark_of,
    one_separator,
    positions_of,
    quotes_enclose,
)
from cammsr_cli.errors import CammsrError

_WITH_QUOTES = (",", ";")  # files with other delimiters are more often written without quoting
_LARGEST_FIELD = 2**31 - 1  # bytes; the csv module's own limit is 128 KiB
_RECORDS_A_PIECE = 65_536
_ENCLOSED = re.compile(r'"((?:[^"]|"")*)"')


@dataclass(frozen=True)
class Delimited:
    """The content of a delimited file.

    Attributes:
        frame: Its rows; every column is a string, an empty field is null, blank lines are dropped.
        dialect: The delimiter and the quoting.
        blank: The number of dropped rows without any value.
        notes: Notes for people about how the file was read.
    """

    frame: pl.DataFrame
    dialect: Dialect
    blank: int
    notes: tuple[str, ...] = ()


class _UnsureError(Exception):
    """The file is ambiguous: polars may read it wrongly."""


class _BrokenError(Exception):
    """A record is broken: its quotes do not match."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def read_delimited(
    path: Path, content: bytes, usual: str, columns: Sequence[str] = ()
) -> Delimited:
    """Read the rows of a delimited file.

    Args:
        path: The file, for messages.
        content: Its content, in UTF-8.
        usual: The usual delimiter of its format; another one is used if the first lines show it.
        columns: The column names of a file without a header.

    Raises:
        CammsrError: A quoted field is broken, or a row has more or fewer fields than the header;
            the message gives the line.
        UnicodeDecodeError: The content is not UTF-8.
    """
    content, dialect = after_separator_line(content, usual)
    dialect = replace(dialect, columns=tuple(columns))
    content = one_separator(content, dialect)
    quotes = positions_of(content, b'"')
    if len(quotes) and dialect.separator not in _WITH_QUOTES and lines_alike(content, dialect):
        dialect = replace(dialect, quotes="none")
    try:
        return _read_fast(path, content, dialect, quotes)
    except (_UnsureError, pl.exceptions.PolarsError):
        text = content.decode()
    try:
        frame, blank = _read_records(path, text, dialect)
    except _BrokenError as broken:
        if b'\\"' in content:
            with suppress(_UnsureError, pl.exceptions.PolarsError):
                return _read_escaped(path, content, dialect)
        if dialect.separator in _WITH_QUOTES:
            raise CammsrError(
                f"{path}, line {broken.line}: a quoted field is broken ({broken})",
                'Close the quotes; a quote inside a quoted field is written twice ("").',
            ) from None
        dialect = replace(dialect, quotes="none")
        frame, blank = _read_records(path, text, dialect)
    return Delimited(frame, dialect, blank)


def header_of(lines: Sequence[str], usual: str) -> list[str]:
    """The column names in a file's first lines; [] if they are unknown."""
    content, dialect = after_separator_line("".join(lines).encode("utf-8", "replace"), usual)
    text = one_separator(content, dialect).decode()
    records = _records(text, dialect)
    try:
        return next((record for _, record in records if any(record)), [])
    except _BrokenError:
        return []


def line_of(text: str, dialect: Dialect, row: int) -> int | None:
    """The line on which a 0-based row of a file begins; None if it is unknown."""
    content = one_separator(text.encode(), dialect)
    if dialect.quotes == "escaped":
        content = _with_doubled_quotes(content)
    lines = content.decode().split("\n", dialect.first_line - 1)
    records = _records(lines[-1], dialect)
    header = not dialect.columns
    try:
        for line, record in records:
            if not _is_blank(record):
                if row == 0 and not header:
                    return line
                row -= not header
                header = False
    except _BrokenError:
        return None
    return None


# --- readers ------------------------------------------------------------------------------------


def _read_fast(
    path: Path, content: bytes, dialect: Dialect, quotes: NDArray[np.int64]
) -> Delimited:
    """Read a file with polars, if it is not ambiguous.

    Raises:
        _UnsureError: The file may be ambiguous, or a row has fewer fields than the header.
        PolarsError: Polars cannot read the file.
        UnicodeDecodeError: A column's name is not UTF-8.
    """
    quoted = dialect.quotes != "none" and len(quotes) > 0
    mark = mark_of(dialect)
    if quoted and not quotes_enclose(content, quotes, mark):
        raise _UnsureError
    if content.endswith(mark.encode()):
        content += b"\n"  # without it polars reads one field too many in the last line
    frame = pl.read_csv(
        content,
        separator=mark,
        infer_schema=False,
        has_header=not dialect.columns,
        quote_char='"' if quoted else None,
    )
    if any("\ufffd" in name for name in frame.columns):
        content.decode()  # polars does not raise for invalid bytes in a header
    if dialect.columns:
        if len(dialect.columns) != frame.width:
            raise _UnsureError
        frame = frame.rename(dict(zip(frame.columns, dialect.columns, strict=True)))
    kept = _without_blank_rows(frame)
    blank = frame.height - kept.height
    if frame.width > 1 and kept[:, -1].null_count():
        # Polars fills short rows with nulls; they are detected by their missing delimiters.
        empty = empty_lines(content, quotes if quoted else quotes[:0]) if blank else 0
        records = frame.height + (not dialect.columns) - empty
        separators = count_of(content, mark)
        if quoted:
            inside = frame.select(pl.all().str.count_matches(mark, literal=True).sum())
            separators -= sum(inside.row(0)) + sum(name.count(mark) for name in frame.columns)
        if separators != records * (frame.width - 1):
            raise _UnsureError
    if dialect.quotes == "none":
        kept = _unquoted(kept)
    return Delimited(kept, dialect, blank)


def _read_escaped(path: Path, content: bytes, dialect: Dialect) -> Delimited:
    r"""Read a file that writes `\"` for a quote within quotes."""
    escaped = replace(dialect, quotes="escaped")
    bare = re.sub(rb'\\[\\"]', b"..", content)
    if not quotes_enclose(bare, positions_of(bare, b'"'), mark_of(dialect), doubled=False):
        raise _UnsureError
    doubled = _with_doubled_quotes(content)
    read = _read_fast(path, doubled, escaped, positions_of(doubled, b'"'))
    note = f'quotes of {path.name} are written \\" within quotes: read as such'
    return replace(read, notes=(note,))


def _with_doubled_quotes(content: bytes) -> bytes:
    r"""Replace `\"` by `""` and `\\` by `\`."""
    return re.sub(rb'\\([\\"])', lambda found: b'""' if found[1] == b'"' else b"\\", content)


def _without_blank_rows(frame: pl.DataFrame) -> pl.DataFrame:
    blank = pl.all_horizontal(pl.all().is_null() | (pl.all() == ""))
    return frame.filter(~blank)


def _unquoted(frame: pl.DataFrame) -> pl.DataFrame:
    """Remove quotes that enclose a whole field or a whole column name."""
    enclosed = pl.all().str.contains(f"(?s)^{_ENCLOSED.pattern}$")
    inner = pl.all().str.slice(1).str.head(-1).str.replace_all('""', '"', literal=True)
    frame = frame.select(pl.when(enclosed).then(inner).otherwise(pl.all()))
    names = distinct_names([_bare(name) for name in frame.columns])
    return frame.rename(dict(zip(frame.columns, names, strict=True)))


def _bare(field: str) -> str:
    """Remove quotes that enclose a whole field."""
    enclosed = _ENCLOSED.fullmatch(field)
    return field if enclosed is None else enclosed[1].replace('""', '"')


def _read_records(path: Path, text: str, dialect: Dialect) -> tuple[pl.DataFrame, int]:
    """Read a file record by record: read what polars cannot read, or find the bad line.

    Returns:
        The rows, and the number of dropped rows without any value.

    Raises:
        CammsrError: A record has more or fewer fields than the header.
        _BrokenError: Quotes do not match.
    """
    blank, wrong = 0, 0
    header = list(dialect.columns)
    pieces: list[pl.DataFrame] = []
    rows: list[list[str | None]] = []
    first: tuple[int, int] | None = None
    known = "--columns names" if dialect.columns else "the header has"

    def piece() -> pl.DataFrame:
        return pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")

    for line, record in _records(text, dialect):
        if _is_blank(record):
            blank += bool(header)
        elif not header:
            header = distinct_names(record)
        elif len(record) != len(header):
            first = first or (line, len(record))
            wrong += 1
        else:
            rows.append([field or None for field in record])
            if len(rows) == _RECORDS_A_PIECE:
                pieces.append(piece())
                rows = []
    if first is not None:
        line, width = first
        others = f" (the first of {wrong:,} such lines)" if wrong > 1 else ""
        title = wrong > 1 and not rows and not pieces and width > len(header)
        above = "If what stands above it is a title, delete that. Else mend" if title else "Mend"
        raise CammsrError(
            f"{path}, line {line}: {width} fields, but {known} {len(header)}{others}",
            f"{above} that line: quote fields that hold the separator or a line break, and leave "
            "an empty field where there is nothing.",
        )
    return pl.concat([*pieces, piece()]), blank


def _records(text: str, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield each record with the line on which it begins, including the header and blank records.

    Raises:
        _BrokenError: Quotes do not match.
    """
    # A lone carriage return ends a line only in a file without line feeds; `csv` rejects others.
    text = re.sub(r"\r(?!\n)", " " if "\n" in text else "\n", text)
    mark = mark_of(dialect)
    line = dialect.first_line
    if dialect.quotes == "none":
        for number, fields in enumerate(text.removesuffix("\n").split("\n"), line):
            yield number, [_bare(field) for field in fields.removesuffix("\r").split(mark)]
        return
    csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader(io.StringIO(text), delimiter=mark, strict=True)
    begins = 0
    try:
        for record in reader:
            yield begins + line, record
            begins = reader.line_num
    except csv.Error as error:
        raise _BrokenError(begins + line, str(error)) from None


def _is_blank(record: Sequence[str]) -> bool:
    """Whether no field has a value; a line of spaces is one such field."""
    return not any(record) or (len(record) == 1 and not record[0].strip())
