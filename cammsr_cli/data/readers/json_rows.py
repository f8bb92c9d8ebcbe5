"""Rows of JSON files: an object a line, lists of objects, and objects over several lines."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from cammsr_cli.data.readers.columns import CANDIDATES, normalised
from cammsr_cli.errors import CammsrError

_HEAD = 2**26  # bytes that tell which keys hold objects
_LINES_TO_LEARN_FROM = 20
EXACT_FLOAT = 2**53
"""From here on a float no longer holds every whole number."""

_IDS = frozenset(CANDIDATES["interactions"]["user"] + CANDIDATES["items"]["item"])
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]"
)
_SPACE = re.compile(rb"\s*")
_BETWEEN = re.compile(r"[\s,]*")


def read_json(path: Path, content: bytes) -> tuple[pl.DataFrame, bool]:
    """The rows of a JSON file, and whether each stands on a line of its own.

    A row is an object: on a line, where a comma may follow it; in a list, which may be all that an
    object holds; or over several lines. A line may also be a Python literal, as in Amazon's
    metadata of 2014. Objects within rows stay JSON text, as a column for each key that any of them
    has would not fit in memory.

    Args:
        path: The file, for messages.
        content: What it holds, in UTF-8.

    Raises:
        CammsrError: It is not JSON, or holds something else; it says on which line.
    """
    start = _end(_SPACE.match(content))
    end = content.find(b"\n", start)
    first = content[start : end if end >= 0 else None]
    alone = end < 0 or not content[end : end + _HEAD].strip()
    if first.startswith(b"[") or _is_unfinished(first) or (alone and _holds_rows(first)):
        return _read_document(path, content.decode()), False
    return _read_lines(path, content), True


def json_keys(path: Path, lines: Sequence[str]) -> list[str]:
    """The keys of the rows that these first lines of a file hold; [] if they cannot be told."""
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
        return _parse_lines(path, content)  # polars reads NUL there
    try:
        return pl.read_ndjson(
            content, infer_schema_length=None, schema_overrides=dict.fromkeys(objects, pl.String)
        )
    except pl.exceptions.PolarsError:
        return _parse_lines(path, content)


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


def _parse_lines(path: Path, content: bytes) -> pl.DataFrame:
    """Line by line, for what polars refuses: finds the bad line, or returns strings throughout.

    A value that is no string is kept as its JSON text, so lists can still be told from strings.
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
    """The object on a line, whether it is written as JSON or as a Python literal."""
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
    """A dict written as Python does, of values that JSON has too; None if it is not one.

    It is parsed, never run.
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
        value = int(value)  # an id among gaps, as 7.0, is the 7 of other files
    return _storable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _storable(text: str) -> str:
    """Text with a question mark for what UTF-8 cannot hold, which are lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")


# --- lists, and objects over several lines ------------------------------------------------------


def _is_unfinished(line: bytes) -> bool:
    """Whether a line begins an object that later lines may end."""
    text = line.strip()
    if not text.startswith(b"{") or not text.endswith((b"{", b"[", b",")):
        return False
    return _json_or_none(text.removesuffix(b",")) is None


def _holds_rows(line: bytes) -> bool:
    """Whether a line is an object that is no row but holds a list of them."""
    value = _json_or_none(line)
    return isinstance(value, dict) and _nested_rows(value) is not None


def _json_or_none(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _nested_rows(value: dict[str, object]) -> list[dict[str, object]] | None:
    """The only list of objects that an object without an id holds."""
    if not _IDS.isdisjoint(map(normalised, value)):
        return None
    lists = [
        entry
        for entry in value.values()
        if isinstance(entry, list) and entry and all(isinstance(one, dict) for one in entry)
    ]
    return lists[0] if len(lists) == 1 else None


def _read_document(path: Path, text: str) -> pl.DataFrame:
    """The rows of a list, of an object that holds one, or of objects one after another."""
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
    """The JSON values of a text, one after another, with commas between them or not."""
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
