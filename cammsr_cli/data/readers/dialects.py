"""How a file's bytes are lines and fields: its separator and its quotes, by what they show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Quotes = Literal["doubled", "escaped", "none"]

_SEPARATORS = (",", ";", "\t", "|", "::", " ")
_INSIDE = "\x1f"  # what stands for a separator of two characters while a file is read
_HEAD = 65_536  # bytes that tell the separator
_LINES_TO_LEARN_FROM = 20
_PIECE = 2**20  # bytes, as many as a processor's cache holds
_SEPARATOR_LINE = re.compile(rb'"?sep=(.)"?\r?\n')  # as Excel writes it


@dataclass(frozen=True)
class Dialect:
    r"""How a file's bytes are lines and fields.

    Attributes:
        separator: What stands between two fields.
        quotes: What a double quote is: "doubled" where fields may stand in quotes, and a quote
            within is written twice; "escaped" where it is written `\"` instead; "none" where no
            field goes beyond its line, and quotes around a whole field are taken off.
        first_line: The number of the first line that is read, from 1.
        columns: The columns' names where the file has no header.
    """

    separator: str
    quotes: Quotes = "doubled"
    first_line: int = 1
    columns: tuple[str, ...] = ()


def separator_of(content: bytes, usual: str) -> str:
    """The usual one, or what the first lines show instead: many programs write "CSV" with ";"."""
    whole = content[:_HEAD].decode("utf-8", "replace")
    if usual == "\t" and _even(whole.split("\n")[:_LINES_TO_LEARN_FROM], usual):
        return usual  # quotes of a TSV may pair by chance
    head = re.sub(r'"[^"\n]*"', "", whole)
    lines = [line for line in head.split("\n")[:_LINES_TO_LEARN_FROM] if line.strip()]
    if len(content) > _HEAD and len(lines) > 1:
        lines.pop()  # the last may be cut
    marks = (usual, *(mark for mark in _SEPARATORS if mark != usual))
    counts = {mark: [line.count(mark) for line in lines] or [0] for mark in marks}
    for mark in marks:
        if counts[mark][0] and len(set(counts[mark])) == 1:
            return mark
    del counts[" "]
    return usual if counts[usual][0] else max(counts, key=lambda mark: counts[mark][0])


def _even(lines: Sequence[str], mark: str) -> bool:
    """Whether all lines that hold anything have as many marks, one at least."""
    counts = {line.count(mark) for line in lines if line.strip()}
    return len(counts) == 1 and counts != {0}


def after_separator_line(content: bytes, usual: str) -> tuple[bytes, Dialect]:
    """The content from its header on, and how its fields are separated."""
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    if declared := _SEPARATOR_LINE.match(content):
        return content[declared.end() :], Dialect(declared[1].decode("latin-1"), first_line=2)
    return content, Dialect(separator_of(content, usual))


def one_separator(content: bytes, dialect: Dialect) -> bytes:
    """The content with separators of one byte, as its readers want them."""
    if len(dialect.separator) == 1:
        return content
    return content.replace(dialect.separator.encode(), _INSIDE.encode())


def mark_of(dialect: Dialect) -> str:
    """The separator as it is once it is of one byte."""
    return dialect.separator if len(dialect.separator) == 1 else _INSIDE


def positions_of(content: bytes, mark: bytes) -> NDArray[np.int64]:
    """Where a byte stands, ascending."""
    if mark not in content:
        return np.zeros(0, np.int64)
    data = np.frombuffer(content, np.uint8)
    pieces = range(0, len(data), _PIECE)
    return np.concatenate([at + np.flatnonzero(data[at : at + _PIECE] == mark[0]) for at in pieces])


def count_of(content: bytes, mark: str) -> int:
    """How often a byte stands there; numpy is faster than `bytes.count` where it is frequent."""
    data = np.frombuffer(content, np.uint8)
    pieces = range(0, len(data), _PIECE)
    return sum(int(np.count_nonzero(data[at : at + _PIECE] == ord(mark))) for at in pieces)


def lines_alike(content: bytes, dialect: Dialect) -> bool:
    """Whether every line that holds anything has as many separators as the first, quotes or not."""
    if not content.endswith(b"\n"):
        content += b"\n"
    ends = positions_of(content, b"\n")
    counts = np.diff(
        np.searchsorted(positions_of(content, mark_of(dialect).encode()), ends), prepend=0
    )
    data = np.frombuffer(content, np.uint8)
    returns = data[np.maximum(ends - 1, 0)] == ord("\r")
    filled = counts[np.diff(ends, prepend=-1) - 1 - returns > counts]  # more than separators
    return len(filled) > 0 and filled[0] > 0 and bool((filled == filled[0]).all())


def quotes_enclose(
    content: bytes, quotes: NDArray[np.int64], mark: str, doubled: bool = True
) -> bool:
    """Whether all quotes stand around whole fields, or, if `doubled`, twice within such.

    Then any reader understands them alike.
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
    """How many lines outside quotes hold nothing."""
    ends = positions_of(content, b"\n")
    ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
    lengths = np.diff(ends, prepend=-1) - 1
    data = np.frombuffer(content, np.uint8)
    returns = (lengths == 1) & (data[np.maximum(ends - 1, 0)] == ord("\r"))
    last = content[int(ends[-1]) + 1 :] if len(ends) else content
    return int(((lengths == 0) | returns).sum()) + (last in (b"\r",))
