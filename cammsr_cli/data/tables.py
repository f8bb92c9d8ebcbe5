"""Raw tables: CSV, TSV, JSON lines and Parquet, plain or compressed, told by their extension."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import polars as pl
import zstandard

from cammsr_cli.errors import CammsrError

Format = Literal["csv", "tsv", "jsonl", "parquet"]

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
COMPRESSIONS = (".gz", ".zst")
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS: dict[Format, str] = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class Table:
    """A raw table and where it came from, so that a bad value can be shown by file and line.

    Attributes:
        path: The file it was read from.
        frame: Its rows, in file order, blank lines left out.
        layout: How a row number turns into a place in the file.
        quoted: Delimited files only: whether double quotes enclose fields.
    """

    path: Path
    frame: pl.DataFrame
    layout: Literal["csv", "tsv", "jsonl", "parquet", "headerless"]
    quoted: bool = True

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
        text = _text_of(self.path, read_content(self.path))
        if self.layout == "jsonl":
            lines = (number for number, line in enumerate(text.split("\n"), 1) if line.strip())
            return next(islice(lines, row, None), None)
        records = _records(text, _SEPARATORS[self.layout], self.quoted)
        try:
            return next((line for line, _ in islice(records, row + 1, None)), None)
        except csv.Error:
            return None


@dataclass(frozen=True)
class SourceTables:
    """The raw tables a corpus is made of.

    Attributes:
        interactions: Who took what, when.
        items: What the items are; None if there is no such file.
        tags: Words users gave to items (GroupLens); columns `user`, `item`, `tag`.
    """

    interactions: Table
    items: Table | None = None
    tags: Table | None = None


def table_format(path: Path) -> Format | None:
    """The format a file name stands for, or None: `reviews.jsonl.gz` is "jsonl"."""
    name = path.name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return FORMATS.get(Path(name).suffix)


def read_table(path: Path) -> pl.DataFrame:
    """Read a table whole; see `open_table`.

    Returns:
        The rows in file order. Every column of a delimited file is a string (ids such as "007"
        stay what they are); JSON lines and Parquet keep their types.

    Raises:
        CammsrError: The file is missing, empty, broken or of an unknown kind.
    """
    return open_table(path).frame


def open_table(path: Path) -> Table:
    """Read a CSV, TSV, JSON lines or Parquet file, plain, `.gz` or `.zst`, told by extension.

    Delimited and JSON files are UTF-8, with or without a byte order mark.

    Raises:
        CammsrError: The file is missing, empty, broken or of an unknown kind; it says where.
    """
    if not path.exists():
        raise CammsrError(f"{path}: no such file", "Check the path.")
    kind = table_format(path)
    if kind is None:
        raise CammsrError(f"{path}: unknown kind of table", _known_extensions(path))
    content = read_content(path)
    if not content.removeprefix(UTF8_BOM).strip():
        raise CammsrError(f"{path} is empty", "Give a file with a header and at least one row.")
    if kind == "parquet":
        return _with_rows(Table(path, _read_parquet(path, content), kind))
    if content.startswith(UTF16_BOMS):
        raise CammsrError(f"{path}, line 1: the text is UTF-16, not UTF-8", _utf8_hint("UTF-16"))
    content = content.removeprefix(UTF8_BOM)
    if kind == "jsonl":
        return _with_rows(Table(path, _read_json_lines(path, content), kind))
    return _with_rows(_read_delimited(path, content, kind))


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


def decode(path: Path, content: bytes, encoding: str = "utf-8") -> str:
    """Decode text, or say on which line of which file it cannot be decoded.

    Raises:
        CammsrError: A byte sequence is not valid in `encoding`.
    """
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = content[error.start : error.start + 1].hex()
        raise CammsrError(
            f"{path}, line {line}: not {encoding.upper()} text (byte 0x{wrong})",
            _utf8_hint("ISO-8859-1"),
        ) from None


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


def _known_extensions(path: Path) -> str:
    known = f"Known extensions: {', '.join(FORMATS)}, each also with {' or '.join(COMPRESSIONS)}."
    if ".json" in (suffix.lower() for suffix in path.suffixes):
        known += " If every line is one JSON object, rename it to .jsonl."
    return known


def _utf8_hint(encoding: str) -> str:
    return f"Save it as UTF-8, e.g. with: iconv -f {encoding} -t UTF-8 OLD > NEW"


def _with_rows(table: Table) -> Table:
    if table.frame.width == 0:
        raise CammsrError(f"{table.path} names no columns", "Give objects such as {...} with keys.")
    if table.frame.height == 0:
        raise CammsrError(
            f"{table.path} has a header but no rows", "Give a file with at least one row."
        )
    return table


def _text_of(path: Path, content: bytes) -> str:
    return decode(path, content.removeprefix(UTF8_BOM))


def _read_parquet(path: Path, content: bytes) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise CammsrError(
            f"{path} is not a Parquet file: {_first_line(error)}", "Write it again."
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


# --- JSON lines ---------------------------------------------------------------------------------


def _read_json_lines(path: Path, content: bytes) -> pl.DataFrame:
    try:
        return pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        return _parse_json_lines(path, content)


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
    hint = "Each line must be one JSON object such as {...}: mend or delete that line."
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error))
        raise CammsrError(f"{path}, line {number}: not JSON ({reason})", hint) from None
    if not isinstance(value, dict):
        raise CammsrError(f"{path}, line {number}: a JSON value, but not an object", hint)
    return value


def _json_text(value: object) -> str | None:
    if value is None or (isinstance(value, float) and value != value):
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be stored


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
        return Table(path, _without_blank_rows(frame), kind)
    except pl.exceptions.PolarsError:
        text = decode(path, content)
    quoted = kind == "csv" or _quotes_add_up(text, separator)
    return Table(path, _parse_delimited(path, text, separator, quoted), kind, quoted)


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


def _parse_delimited(path: Path, text: str, separator: str, quoted: bool) -> pl.DataFrame:
    """Record by record, for what polars refuses: finds the bad line, or mends what can be read."""
    line = 0
    rows: list[list[str | None]] = []
    header: list[str] | None = None
    try:
        for line, record in _records(text, separator, quoted):
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
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def _records(text: str, separator: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """Each record that holds anything, with the line it begins on, from 1, header first."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    # A lone carriage return ends a line only where nothing else does; `csv` refuses the others.
    text = re.sub(r"\r(?!\n)", " " if "\n" in text else "\n", text)
    reader = csv.reader(io.StringIO(text), delimiter=separator, quoting=quoting, strict=True)
    begins = 1
    for record in reader:
        if any(record):
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
