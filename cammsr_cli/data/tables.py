"""Raw tables: CSV, TSV, JSON lines and Parquet, plain or compressed, told by their extension."""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import polars as pl
import zstandard

from cammsr_cli.errors import CammsrError, UsageError, first_line

Format = Literal["csv", "tsv", "jsonl", "parquet"]

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",  # as Amazon's reviews of 2014 and 2018 are called
    ".parquet": "parquet",
    ".inter": "tsv",  # RecBole's atomic files
    ".item": "tsv",
}
COMPRESSIONS = (".gz", ".zst")
INTERACTION_NAMES = ("interactions", "reviews", "ratings", "events")
ITEM_NAMES = ("items", "meta", "products", "catalogue", "movies")
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
UTF8 = "utf-8"
_SEPARATORS: dict[Format, str] = {"csv": ",", "tsv": "\t"}
_LARGEST_FIELD = 2**31 - 1  # bytes; the csv module's own limit is 128 KiB
_LONGEST_LINE = 2**26  # bytes that are read to learn a table's columns
_LINES_TO_LEARN_FROM = 20
_ROWS_A_PIECE = 65_536  # as Python's values a whole column of texts is large
_NO_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape")  # codecs of other things
_EXACT_FLOAT = 2**53  # from here on a float no longer holds every whole number
_MADE_LINES = {  # what else JSON files hold, by its first character, and how it becomes lines
    "[": ("a list", "A file that is one list becomes lines with: jq -c '.[]' OLD > NEW.jsonl"),
    "{": ("an object", "Such objects become lines with: jq -c . OLD > NEW.jsonl"),
}


@dataclass(frozen=True)
class Table:
    """A raw table and where it came from, so that a bad value can be shown by file and line.

    Attributes:
        path: The file it was read from.
        frame: Its rows, in file order, blank lines left out.
        layout: How a row number turns into a place in the file.
        quoted: Delimited files only: whether double quotes enclose fields.
        encoding: What its text is written in.
        notes: What people should know of how it was read.
    """

    path: Path
    frame: pl.DataFrame
    layout: Literal["csv", "tsv", "jsonl", "parquet", "headerless"]
    quoted: bool = True
    encoding: str = UTF8
    notes: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        """Where a 0-based row of `frame` stands: "FILE, line 7", or "FILE, row 7" in Parquet.

        Lines count from 1, the header and blank lines among them.
        """
        line = self._line(row)
        return f"{self.path}, row {row + 1}" if line is None else f"{self.path}, line {line}"

    def _line(self, row: int) -> int | None:
        """The line of a row, found by reading the file again; None where it cannot be told."""
        if self.layout == "parquet":
            return None
        if self.layout == "headerless":
            return row + 1
        text = read_text(self.path, self.encoding)
        if self.layout == "jsonl":
            lines = (number for number, line in enumerate(text.split("\n"), 1) if line.strip())
            return next(islice(lines, row, None), None)
        records = _records(text, _separator(text.encode(), self.layout), self.quoted)
        filled = (line for line, record in records if any(record))
        try:
            return next(islice(filled, row + 1, None), None)
        except csv.Error:
            return None


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
    """The format a file name stands for, or None: `reviews.jsonl.gz` is "jsonl"."""
    name = path.name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return FORMATS.get(Path(name).suffix)


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


def open_table(path: Path, encoding: str = UTF8) -> Table:
    """Read a CSV, TSV, JSON lines or Parquet file, plain, `.gz` or `.zst`, told by extension.

    Rows are in file order. Every column of a delimited file is a string (ids such as "007" stay
    what they are); JSON lines and Parquet keep their types.

    A line of a JSON file may also be a Python literal, as in Amazon's metadata of 2014.

    Args:
        path: The file.
        encoding: What delimited and JSON files are written in. A file that begins with UTF-8's
            byte order mark is UTF-8, whatever is said here.

    Raises:
        CammsrError: The file is missing, empty, broken or of an unknown kind; it says where.
    """
    if not path.exists():
        raise CammsrError(f"{path}: no such file", "Check the path.")
    kind = table_format(path)
    if kind is None:
        raise CammsrError(f"{path}: unknown kind of table", _known_extensions())
    content = read_content(path)
    if not content.removeprefix(UTF8_BOM).strip():
        raise CammsrError(f"{path} is empty", "Give a file with a header and at least one row.")
    if kind == "parquet":
        return _with_rows(_read_parquet(path, content))
    content = _as_utf8(path, content, encoding)
    if kind == "jsonl":
        table = Table(path, _read_json_lines(path, content), kind)
    else:
        table = _read_delimited(path, content, kind)
    return _with_rows(replace(table, encoding=encoding))


def columns_of(path: Path, encoding: str = UTF8) -> list[str]:
    """The columns that a table begins with, from its first lines; [] if they cannot be told.

    Of JSON lines those of the first twenty. Whether the rest of the file is sound is not looked
    at: `open_table` does.
    """
    kind = table_format(path)
    try:
        if kind == "parquet":
            plain = path.suffix.lower() == ".parquet"
            return list(pl.read_parquet_schema(path if plain else io.BytesIO(read_content(path))))
        lines = _first_lines(path, encoding)
        if not lines or kind is None:
            return []
        if kind == "jsonl":
            return _keys(path, lines)
        separator = _separator(lines[0].encode("utf-8", "replace"), kind)
        csv.field_size_limit(_LARGEST_FIELD)
        return next(csv.reader([lines[0].rstrip("\r\n")], delimiter=separator), [])
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, pl.exceptions.PolarsError):
        return []
    except (CammsrError, UnicodeError, csv.Error):
        return []


def separator_of(path: Path, kind: Literal["csv", "tsv"]) -> str:
    """What separates the fields of a file in UTF-8, by its header, read without the rest of it.

    It is the kind's own where there is no header to be read, as whatever reads the file will tell.
    """
    try:
        lines = _first_lines(path, UTF8)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError):
        lines = []
    return _separator("".join(lines[:1]).encode(), kind)


def _first_lines(path: Path, encoding: str) -> list[str]:
    """The first lines that hold anything, read without the rest of the file."""
    suffix = path.suffix.lower()
    with path.open("rb") as raw:
        stream = raw
        if suffix == ".gz":
            stream = io.BufferedReader(gzip.GzipFile(fileobj=raw))
        elif suffix == ".zst":
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))
        if stream.peek(len(UTF8_BOM)).startswith(UTF8_BOM):
            encoding = "utf-8-sig"
        text = io.TextIOWrapper(stream, encoding, errors="replace")
        lines = [text.readline(_LONGEST_LINE) for _ in range(_LINES_TO_LEARN_FROM)]
    lines[0] = lines[0].removeprefix("\ufeff")
    return [line for line in lines if line.strip()]


def _keys(path: Path, lines: Sequence[str]) -> list[str]:
    keys: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        try:
            keys |= dict.fromkeys(_json_object(path, number, line))
        except CammsrError:
            break
    return list(keys)


def checked_encoding(name: str) -> str:
    """The codec that an encoding's name stands for.

    Raises:
        UsageError: There is no such encoding of text.
    """
    try:
        codec = codecs.lookup(name)
        "".encode(name)  # refused by codecs that are not for text, such as "base64"
        if codec.name in _NO_FILES:
            raise LookupError
    except (LookupError, ValueError):
        raise UsageError(
            f"--encoding {name}: no such encoding",
            "Usual ones are utf-8, latin-1, cp1252, utf-16, gb18030 and shift_jis.",
        ) from None
    return codec.name


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 event", "1,200 events"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def read_content(path: Path) -> bytes:
    """A file's content, decompressed if its name ends in `.gz` or `.zst`.

    Raises:
        CammsrError: The file is missing, cannot be read, or its compressed stream is broken.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CammsrError(f"{path}: no such file", "Check the path.") from None
    except OSError as error:
        raise CammsrError(f"{path} cannot be read: {error.strerror}", "Check the path.") from None
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz":
            return gzip.decompress(raw)
        if suffix == ".zst":
            return _decompress_zstd(raw)
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise CammsrError(
            f"{path}: the compressed file is cut short or damaged ({error})",
            "Download or copy it again.",
        ) from None
    return raw


def decode(path: Path, content: bytes, encoding: str = UTF8) -> str:
    """Decode text, or say which byte on which line of which file cannot be decoded.

    Raises:
        CammsrError: A byte sequence is not valid in `encoding`.
    """
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = content[error.start : error.start + 1].hex()
        raise CammsrError(
            f"{path}, line {line}: not {encoding.upper()} text (byte 0x{wrong} at {error.start:,})",
            _encoding_hint("latin-1" if codecs.lookup(encoding).name == UTF8 else UTF8),
        ) from None
    except UnicodeError as error:
        raise CammsrError(
            f"{path}: not {encoding.upper()} text ({error})", _encoding_hint(UTF8)
        ) from None


def read_text(path: Path, encoding: str = UTF8) -> str:
    """A text file whole, without a byte order mark.

    Raises:
        CammsrError: The file cannot be read, or a byte is not valid in `encoding`.
    """
    return decode(path, _as_utf8(path, read_content(path), encoding))


def _as_utf8(path: Path, content: bytes, encoding: str) -> bytes:
    """Text in UTF-8, without a byte order mark; whether UTF-8 itself is valid is seen later."""
    if content.startswith(UTF8_BOM):
        return content.removeprefix(UTF8_BOM)
    if codecs.lookup(encoding).name != UTF8:
        text = decode(path, content, encoding).removeprefix("\ufeff")
        return text.encode("utf-8", "replace")  # some codecs yield surrogates
    if content.startswith(UTF16_BOMS):
        raise CammsrError(
            f"{path}, line 1: the text is UTF-16, not UTF-8", _encoding_hint("utf-16")
        )
    return content


def _decompress_zstd(raw: bytes) -> bytes:
    """All frames of a zstd file; `zstandard` itself does not complain about a cut one."""
    parts: list[bytes] = []
    while raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(raw))
        if not frame.eof:
            raise EOFError("the last frame has no end")
        raw = frame.unused_data
    return b"".join(parts)


def _known_extensions() -> str:
    return f"Known extensions: {', '.join(FORMATS)}, each also with {' or '.join(COMPRESSIONS)}."


def _encoding_hint(likely: str) -> str:
    return f"Say what it is written in, e.g. --encoding {likely}"


def _with_rows(table: Table) -> Table:
    if table.frame.width == 0:
        raise CammsrError(f"{table.path} names no columns", "Give objects such as {...} with keys.")
    if table.frame.height == 0:
        raise CammsrError(
            f"{table.path} has a header but no rows", "Give a file with at least one row."
        )
    return table


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
    return Table(path, frame, "parquet", notes=tuple(notes))


# --- JSON lines ---------------------------------------------------------------------------------


def _read_json_lines(path: Path, content: bytes) -> pl.DataFrame:
    """Objects stay JSON text: a column for each key that any row has would not fit in memory."""
    head = content[:_LONGEST_LINE].split(b"\n", _LINES_TO_LEARN_FROM)[:_LINES_TO_LEARN_FROM]
    objects = _object_columns([line for line in head if line.strip()])
    try:
        return pl.read_ndjson(
            content, infer_schema_length=None, schema_overrides=dict.fromkeys(objects, pl.String)
        )
    except pl.exceptions.PolarsError:
        return _parse_json_lines(path, content)


def _object_columns(lines: Sequence[bytes]) -> list[str]:
    """The keys under which any of these lines holds an object."""
    found: dict[str, None] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if isinstance(row, dict):
            found |= dict.fromkeys(key for key, value in row.items() if isinstance(value, dict))
    return list(found)


def _parse_json_lines(path: Path, content: bytes) -> pl.DataFrame:
    """Line by line, for what polars refuses: finds the bad line, or returns strings throughout.

    A value that is no string is kept as its JSON text, so lists can still be told from strings.
    """
    rows: list[dict[str, object]] = []
    for number, line in enumerate(decode(path, content).split("\n"), 1):
        if line.strip():
            rows.append(_json_object(path, number, line))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame(
        {name: [_json_text(row.get(name)) for row in rows] for name in columns},
        schema=dict.fromkeys(columns, pl.String),
    )


def _json_object(path: Path, number: int, line: str) -> dict[str, object]:
    """The object on a line, whether it is written as JSON or as a Python literal."""
    must = "Each line must be one JSON object such as {...}"
    hint = f"{must}: mend or delete that line."
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        value = _python_object(line)
        if value is None and number == 1 and _goes_on(line):
            what, command = _MADE_LINES[line.strip()[0]]
            raise CammsrError(
                f"{path}, line 1: {what} that goes on over several lines", f"{must}. {command}"
            ) from None
        if value is None:
            reason = getattr(error, "msg", str(error))
            raise CammsrError(f"{path}, line {number}: not JSON ({reason})", hint) from None
    if not isinstance(value, dict):
        if isinstance(value, list):
            hint += f" {_MADE_LINES['['][1]}"
        raise CammsrError(f"{path}, line {number}: a JSON value, but not an object", hint)
    return {_storable(key): entry for key, entry in value.items()}


def _goes_on(line: str) -> bool:
    """Whether a line begins a list or an object that later lines may end."""
    text = line.strip()
    return text.startswith("[") or (text.startswith("{") and text.endswith(("{", "[", ",")))


def _python_object(line: str) -> dict[str, object] | None:
    """A dict written as Python does, of values that JSON has too; None if it is not one.

    It is parsed, never run.
    """
    if not line.lstrip().startswith("{"):
        return None
    try:
        value = ast.literal_eval(line.strip())
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else None


def _json_text(value: object) -> str | None:
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_FLOAT:
        value = int(value)  # an id among gaps, as 7.0, is the 7 of other files
    return _storable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _storable(text: str) -> str:
    """Text with a question mark for what UTF-8 cannot hold, which are lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")


# --- delimited files ----------------------------------------------------------------------------


def _read_delimited(path: Path, content: bytes, kind: Literal["csv", "tsv"]) -> Table:
    """Every column a string; an empty field is null; lines without any value are left out.

    A TSV whose quotes do not add up is read as having none: most tools write TSV unquoted.
    """
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    separator = _separator(content, kind)
    try:
        frame = pl.read_csv(content, separator=separator, infer_schema=False)
        if any("\ufffd" in name for name in frame.columns):
            decode(path, content)  # polars replaces what it cannot decode in a header
        kept = _without_blank_rows(frame)
        return Table(path, kept, kind, notes=blank_note(path, frame.height - kept.height))
    except pl.exceptions.PolarsError:
        text = decode(path, content)
    quoted = kind == "csv" or _quotes_add_up(text, separator)
    frame, blank = _parse_delimited(path, text, separator, quoted)
    return Table(path, frame, kind, quoted, notes=blank_note(path, blank))


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


def _separator(content: bytes, kind: Literal["csv", "tsv"]) -> str:
    """The kind's own, or what the header shows instead: many programs write "CSV" with ";"."""
    usual = _SEPARATORS[kind]
    header = content[:65_536].partition(b"\n")[0].decode("utf-8", "replace")
    counts = {mark: header.count(mark) for mark in (";", "\t", "|", ",")}
    other = max(counts, key=lambda mark: counts[mark])
    return usual if counts[usual] or not counts[other] else other


def _without_blank_rows(frame: pl.DataFrame) -> pl.DataFrame:
    blank = pl.all_horizontal(pl.all().is_null() | (pl.all() == ""))
    return frame.filter(~blank)


def _quotes_add_up(text: str, separator: str) -> bool:
    try:
        for _ in _records(text, separator, quoted=True):
            pass
    except csv.Error:
        return False
    return True


def _parse_delimited(
    path: Path, text: str, separator: str, quoted: bool
) -> tuple[pl.DataFrame, int]:
    """Record by record, for what polars refuses: finds the bad line, or mends what can be read.

    Returns:
        The rows, and how many without any value were left out.
    """
    line, blank = 0, 0
    rows: list[list[str | None]] = []
    header: list[str] | None = None
    try:
        for line, record in _records(text, separator, quoted):
            if not any(record):
                blank += header is not None
                continue
            if header is None:
                header = _distinct(record)
                continue
            if len(record) > len(header):
                raise CammsrError(
                    f"{path}, line {line}: {len(record)} fields, but the header has {len(header)}",
                    "Quote fields that hold the separator, or mend that line.",
                )
            padding = [""] * (len(header) - len(record))
            rows.append([field or None for field in (*record, *padding)])
    except csv.Error as error:
        raise CammsrError(
            f"{path}, after line {line}: a quoted field is broken ({error})",
            'Close the quotes; a quote inside a quoted field is written twice ("").',
        ) from None
    names = header or []
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row"), blank


def _records(text: str, separator: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Each record, blank ones too, with the line it begins on, from 1, header first."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    # A lone carriage return ends a line only where nothing else does; `csv` refuses the others.
    text = re.sub(r"\r(?!\n)", " " if "\n" in text else "\n", text)
    csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader(io.StringIO(text), delimiter=separator, quoting=quoting, strict=True)
    begins = 1
    for record in reader:
        yield begins, record
        begins = reader.line_num + 1


def _distinct(header: list[str]) -> list[str]:
    """Column names made unique as polars does it: a second `x` is `x_duplicated_0`."""
    seen: dict[str, int] = {}
    names: list[str] = []
    for name in header:
        names.append(f"{name}_duplicated_{seen[name] - 1}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return names
