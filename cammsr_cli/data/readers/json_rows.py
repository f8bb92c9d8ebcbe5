"""Rows of JSON files: one object per line, lists of objects, or objects over several lines."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from cammsr_cli.data.readers.columns import CANDIDATES, normalised
from cammsr_cli.errors import CammsrError

_HEAD = 2**26  # bytes that are read to find the keys whose values are objects
_LINES_TO_LEARN_FROM = 20
EXACT_FLOAT = 2**53
"""From this number on, a float cannot represent every whole number."""

_IDS = frozenset(CANDIDATES["interactions"]["user"] + CANDIDATES["items"]["item"])
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"
)
_SPACE = re.compile(rb"\s*")
_BETWEEN = re.compile(r"[\s,]*")


def read_json(path: Path, content: bytes) -> tuple[pl.DataFrame, bool]:
    """Read the rows of a JSON file; also return whether each row is on a line of its own.

    A row is an object. It may be on one line, with or without a comma after it; it may be in a
    list, which may itself be in an object; or it may extend over several lines. A line may also be
    a Python literal, as in Amazon's metadata of 2014. Objects within rows stay JSON text: one
    column for each of their keys would not fit in memory.

    Args:
        path: The file, for messages.
        content: Its content, in UTF-8.

    Raises:
        CammsrError: The content is not JSON, or not rows; the message gives the line.
    """
    start = _end(_SPACE.match(content))
    end = content.find(b"\n", start)
    first = content[start : end if end >= 0 else None]
    alone = end < 0 or not content[end : end + _HEAD].strip()
    if first.startswith(b"[") or _is_unfinished(first) or (alone and _holds_rows(first)):
        return _read_document(path, content.decode()), False
    return _read_lines(path, content), True


def json_keys(path: Path, lines: Sequence[str]) -> list[str]:
    """The keys of the rows in the first lines of a file; [] if they are unknown."""
    keys: dict[str, None] = {}
    first = lines[0].lstrip() if lines else ""
    if first.startswith("[") or _is_unfinished(first.encode("utf-8", "replace")):
        decoder = json.JSONDecoder()
        text = "".join(lines)
        begin = text.find("{")
        try:
            while begin >= 0:
                value, end = decoder.raw_decode(text, begin)
                value = next(iter(_nested_rows(value) or ()), value)
                keys |= dict.fromkeys(map(_storable, value))
                begin = text.find("{", end)
        except (ValueError, RecursionError):
            keys |= dict.fromkeys([] if keys else re.findall(r'[{,]\s*"([^"\\]+)"\s*:', text))
        return list(keys)
    for number, line in enumerate(lines, 1):
        try:
            row = _object_on(path, number, line)
            rows = _nested_rows(row) if len(lines) == 1 else None
            keys |= dict.fromkeys(rows[0] if rows else row)
        except CammsrError:
            break
    return list(keys)


# --- an object a line ---------------------------------------------------------------------------


def _read_lines(path: Path, content: bytes) -> pl.DataFrame:
    head = content[:_HEAD].split(b"\n", _LINES_TO_LEARN_FROM)[:_LINES_TO_LEARN_FROM]
    objects = _object_columns([line for line in head if line.strip()])
    if b"\\u" in content and _LONE_SURROGATE.search(content):
        return _parse_lines(path, content)  # polars reads lone surrogates as NUL
    try:
        return pl.read_ndjson(
            content, infer_schema_length=None, schema_overrides=dict.fromkeys(objects, pl.String)
        )
    except pl.exceptions.PolarsError:
        return _parse_lines(path, content)


def _object_columns(lines: Sequence[bytes]) -> list[str]:
    """The keys whose value is an object in any of the lines."""
    found: dict[str, None] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if isinstance(row, dict):
            found |= dict.fromkeys(key for key, value in row.items() if isinstance(value, dict))
    return list(found)


def _parse_lines(path: Path, content: bytes) -> pl.DataFrame:
    """Read line by line what polars cannot read: find the bad line, or return only strings.

    A value that is not a string is kept as JSON text, so that lists remain different from strings.
    """
    rows: list[dict[str, object]] = []
    for number, line in enumerate(content.decode().split("\n"), 1):
        if line.strip():
            rows.append(_object_on(path, number, line))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return pl.DataFrame(
        {name: [_json_text(row.get(name)) for row in rows] for name in columns},
        schema=dict.fromkeys(columns, pl.String),
    )


def _object_on(path: Path, number: int, line: str) -> dict[str, object]:
    """Parse the object on a line, written as JSON or as a Python literal."""
    hint = "Each line must be one JSON object such as {...}: mend or delete that line."
    text = line.strip().removesuffix(",")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        value = _python_object(text)
        if value is None:
            reason = getattr(error, "msg", str(error))
            raise CammsrError(f"{path}, line {number}: not JSON ({reason})", hint) from None
    if not isinstance(value, dict):
        raise CammsrError(f"{path}, line {number}: a JSON value, but not an object", hint)
    return {_storable(key): entry for key, entry in value.items()}


def _python_object(text: str) -> dict[str, object] | None:
    """Parse a Python dict literal with values that JSON has too; None if it is not one.

    The literal is parsed, never executed.
    """
    if not text.startswith("{"):
        return None
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return {str(key): entry for key, entry in value.items()} if isinstance(value, dict) else None


def _json_text(value: object) -> str | None:
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_FLOAT:
        value = int(value)  # 7.0 in a column with missing ids is 7 in other files
    return _storable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _storable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


# --- lists, and objects over several lines ------------------------------------------------------


def _is_unfinished(line: bytes) -> bool:
    """Whether a line begins an object that may end on a later line."""
    text = line.strip()
    if not text.startswith(b"{") or not text.endswith((b"{", b"[", b",")):
        return False
    return _json_or_none(text.removesuffix(b",")) is None


def _holds_rows(line: bytes) -> bool:
    """Whether a line is an object that is not a row but holds a list of rows."""
    value = _json_or_none(line)
    return isinstance(value, dict) and _nested_rows(value) is not None


def _json_or_none(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _nested_rows(value: dict[str, object]) -> list[dict[str, object]] | None:
    """The list of objects in an object without an id; None unless there is exactly one list."""
    if not _IDS.isdisjoint(map(normalised, value)):
        return None
    lists = [
        entry
        for entry in value.values()
        if isinstance(entry, list) and entry and all(isinstance(one, dict) for one in entry)
    ]
    return lists[0] if len(lists) == 1 else None


def _read_document(path: Path, text: str) -> pl.DataFrame:
    """Read the rows of a list, of an object that holds a list, or of consecutive objects."""
    values = list(_values(path, text))
    if len(values) == 1 and isinstance(values[0], dict):
        values = [_nested_rows(values[0]) or values[0]]
    rows = [row for value in values for row in (value if isinstance(value, list) else [value])]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise CammsrError(
                f"{path}, row {number}: a JSON value, but not an object",
                "Each entry of the list must be one JSON object such as {...}.",
            )
    if not rows:
        raise CammsrError(f"{path} holds no rows", "Give a list of objects such as [{...}, {...}].")
    return _read_lines(path, "\n".join(map(json.dumps, rows)).encode())


def _values(path: Path, text: str) -> Iterator[object]:
    """Yield the consecutive JSON values of a text, with or without commas between them."""
    decoder = json.JSONDecoder()
    at = _end(_BETWEEN.match(text))
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise CammsrError(
                f"{path}, line {error.lineno}: not JSON ({error.msg})",
                "Mend that line, or write the file again: a list of objects, or one on each line.",
            ) from None
        except RecursionError:
            raise CammsrError(
                f"{path}: lists within lists, too deep to be read", "Write one object on each line."
            ) from None
        yield value
        at = _end(_BETWEEN.match(text, at))


def _end(found: re.Match[str] | re.Match[bytes] | None) -> int:
    return found.end() if found else 0
