"""One text field of all items, stored compactly: a million Python strings need much memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

import polars as pl

_PIECE = 65_536


class Texts(Sequence["str | None"]):
    """An immutable sequence of texts and Nones; equal to any sequence with the same entries.

    Args:
        values: The texts; consumed in chunks.
    """

    __slots__ = ("_column",)

    def __init__(self, values: Iterable[str | None]) -> None:
        rest = iter(values)
        pieces = [pl.Series([], dtype=pl.String)]
        while piece := list(islice(rest, _PIECE)):
            pieces.append(pl.Series(piece, dtype=pl.String))
        self._column = pl.concat(pieces)

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str | None: ...
    @overload
    def __getitem__(self, index: slice) -> list[str | None]: ...
    def __getitem__(self, index: int | slice) -> str | list[str | None] | None:
        if isinstance(index, slice):
            some: list[str | None] = self._column[index].to_list()
            return some
        text: str | None = self._column[index]
        return text

    def __iter__(self) -> Iterator[str | None]:
        for start in range(0, len(self), _PIECE):
            yield from self[start : start + _PIECE]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # unhashable, like a list

    def __repr__(self) -> str:
        return f"Texts({self[:10]!r}{', ...' if len(self) > 10 else ''})"
