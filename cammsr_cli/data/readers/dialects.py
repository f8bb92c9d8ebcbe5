"""The dialect of a delimited file: its delimiter and its quoting, detected from its content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Quotes = Literal["doubled", "escaped", "none"]

_SEPARATORS = (",", ";", "\t", "|", "::", " ")
_INSIDE = "\x1f"  # replaces a delimiter of two characters while a file is read
_HEAD = 65_536  # bytes that are read to detect the delimiter
_LINES_TO_LEARN_FROM = 20
_PIECE = 2**20  # bytes that fit into a processor's cache
_SEPARATOR_LINE = re.compile(rb'"?sep=(.)"?\r?\n')  # as Excel writes it


@dataclass(frozen=True)
class Dialect:
    r"""How the content of a file is split into lines and fields.

    Attributes:
        separator: The delimiter of fields.
        quotes: The quoting. "doubled": fields may be quoted, and a quote within a quoted field is
            written twice. "escaped": such a quote is written `\"`. "none": no field has a line
            break, and quotes around a whole field are removed.
        first_line: The number of the first line that is read, from 1.
        columns: The column names of a file without a header.
    """

    separator: str
    quotes: Quotes = "doubled"
    first_line: int = 1
    columns: tuple[str, ...] = ()


def separator_of(content: bytes, usual: str) -> str:
    """Detect the delimiter in the first lines: many programs write "CSV" with ";".

    The usual delimiter is returned if the first lines show no other.
    """
    whole = content[:_HEAD].decode("utf-8", "replace")
    if usual == "\t" and _even(whole.split("\n")[:_LINES_TO_LEARN_FROM], usual):
        return usual  # quotes in a TSV may match by chance
    head = re.sub(r'"[^"\n]*"', "", whole)
    lines = [line for line in head.split("\n")[:_LINES_TO_LEARN_FROM] if line.strip()]
    if len(content) > _HEAD and len(lines) > 1:
        lines.pop()  # the last line may be truncated
    marks = (usual, *(mark for mark in _SEPARATORS if mark != usual))
    counts = {mark: [line.count(mark) for line in lines] or [0] for mark in marks}
    for mark in marks:
        if counts[mark][0] and len(set(counts[mark])) == 1:
            return mark
    del counts[" "]
    return usual if counts[usual][0] else max(counts, key=lambda mark: counts[mark][0])


def _even(lines: Sequence[str], mark: str) -> bool:
    """Whether all lines that are not blank have the same number of marks, at least one."""
    counts = {line.count(mark) for line in lines if line.strip()}
    return len(counts) == 1 and counts != {0}


def after_separator_line(content: bytes, usual: str) -> tuple[bytes, Dialect]:
    """Remove Excel's "sep=" line, if there is one, and detect the dialect of the rest."""
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    if declared := _SEPARATOR_LINE.match(content):
        return content[declared.end() :], Dialect(declared[1].decode("latin-1"), first_line=2)
    return content, Dialect(separator_of(content, usual))


def one_separator(content: bytes, dialect: Dialect) -> bytes:
    """Replace a delimiter of several characters by one byte, as the readers need it."""
    if len(dialect.separator) == 1:
        return content
    return content.replace(dialect.separator.encode(), _INSIDE.encode())


def mark_of(dialect: Dialect) -> str:
    """The delimiter in the output of `one_separator`."""
    return dialect.separator if len(dialect.separator) == 1 else _INSIDE


def positions_of(content: bytes, mark: bytes) -> NDArray[np.int64]:
    """The positions of a byte, ascending."""
    if mark not in content:
        return np.zeros(0, np.int64)
    data = np.frombuffer(content, np.uint8)
    pieces = range(0, len(data), _PIECE)
    return np.concatenate([at + np.flatnonzero(data[at : at + _PIECE] == mark[0]) for at in pieces])


def count_of(content: bytes, mark: str) -> int:
    """Count a byte; for a frequent byte, numpy is faster than `bytes.count`."""
    data = np.frombuffer(content, np.uint8)
    pieces = range(0, len(data), _PIECE)
    return sum(int(np.count_nonzero(data[at : at + _PIECE] == ord(mark))) for at in pieces)


def lines_alike(content: bytes, dialect: Dialect) -> bool:
    """Whether all lines with any value have the same number of delimiters; quotes are ignored."""
    if not content.endswith(b"\n"):
        content += b"\n"
    ends = positions_of(content, b"\n")
    counts = np.diff(
        np.searchsorted(positions_of(content, mark_of(dialect).encode()), ends), prepend=0
    )
    data = np.frombuffer(content, np.uint8)
    returns = data[np.maximum(ends - 1, 0)] == ord("\r")
    filled = counts[np.diff(ends, prepend=-1) - 1 - returns > counts]  # lines with values
    return len(filled) > 0 and filled[0] > 0 and bool((filled == filled[0]).all())


def quotes_enclose(
    content: bytes, quotes: NDArray[np.int64], mark: str, doubled: bool = True
) -> bool:
    """Whether all quotes enclose whole fields, or, if `doubled`, are doubled within such fields.

    Then every reader reads the file in the same way.
    """
    if not len(quotes):
        return True
    if len(quotes) % 2:
        return False
    data = np.frombuffer(content, np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    twice = closing[:-1] + 1 == opening[1:]
    if not doubled and twice.any():
        return False
    opening = opening[np.append(True, ~twice)]
    closing = closing[np.append(~twice, True)]
    before = data[opening[opening > 0] - 1]
    after = data[np.minimum(closing + 1, len(data) - 1)]
    returns = closing[after == ord("\r")]
    after_returns = data[np.minimum(returns + 2, len(data) - 1)]
    between = [ord(mark), ord("\n")]
    ends = closing + 1 >= len(data)
    return bool(
        np.isin(before, between).all()
        and (np.isin(after, [*between, ord("\r")]) | ends).all()
        and ((after_returns == ord("\n")) | (returns + 2 >= len(data))).all()
    )


def empty_lines(content: bytes, quotes: NDArray[np.int64]) -> int:
    """The number of empty lines outside quotes."""
    ends = positions_of(content, b"\n")
    ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    lengths = np.diff(ends, prepend=-1) - 1
    data = np.frombuffer(content, np.uint8)
    returns = (lengths == 1) & (data[np.maximum(ends - 1, 0)] == ord("\r"))
    last = content[int(ends[-1]) + 1 :] if len(ends) else content
    return int(((lengths == 0) | returns).sum()) + (last in (b"\r",))
