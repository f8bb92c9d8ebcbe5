"""Ids of users and items as strings: the same id is the same string in all files and types."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable

import polars as pl

from cammsr_cli.data.readers.faults import shortened
from cammsr_cli.data.readers.json_rows import EXACT_FLOAT
from cammsr_cli.data.readers.tables import Table
from cammsr_cli.errors import CammsrError

_WHOLE = r"^-?\d+(?:\.0+)?$"
_NO_FRACTION = r"\.0+$"

# Possible causes why the ids of two files differ, and functions that make them equal.
_CAUSES: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("without leading zeros", lambda one: one.lstrip("0")),
    ("without regard to capital letters", str.casefold),
    ("with accents written alike (Unicode NFC)", lambda one: unicodedata.normalize("NFC", one)),
)


def clean_ids(table: Table, column: str, notes: list[str] | None = None) -> pl.Series:
    """A column of ids as strings, without surrounding spaces; null if an id is missing.

    The ".0" at the end of whole numbers is removed, because programs write it if a column has
    missing values. This applies to floats and decimals, and to texts if all ids of the column are
    whole numbers.

    Args:
        table: The raw table.
        column: The column.
        notes: Receives a note if ids are changed.

    Raises:
        CammsrError: The column holds lists or objects, or floats so large that different ids are
            equal.
    """
    ids = table.frame[column]
    if ids.dtype.is_nested():
        _refuse(table, column, int((ids.is_not_null()).arg_max() or 0))
    if ids.dtype.is_float():
        ids = ids.fill_nan(None)
        if (ids.abs() >= EXACT_FLOAT).any():
            raise CammsrError(
                f"{table.path}: column {column!r} holds ids as floating-point numbers so large "
                "that different ids look alike",
                "Write the ids as text.",
            )
        whole = ids.cast(pl.Int64, strict=False)
        if (whole.cast(ids.dtype) == ids).all() and whole.null_count() == ids.null_count():
            ids = whole
    try:
        texts = ids.cast(pl.String)
    except pl.exceptions.PolarsError:
        raise CammsrError(
            f"{table.path}: column {column!r} holds {ids.dtype}, not ids",
            "Map another column with --map.",
        ) from None
    if ids.dtype == pl.String and table.layout in ("json lines", "rows"):
        _require_no_json(table, column, texts)
    # Remove NUL: names do not contain it, and HDF5 cannot store it.
    texts = texts.str.replace_all("\0", "", literal=True).str.strip_chars()
    texts = texts.to_frame("id").select(pl.when(pl.col("id") != "").then(pl.col("id"))).to_series()
    return _whole_numbers(table, column, texts, notes)


def cause_of(unlisted: Iterable[str], listed: Iterable[str]) -> str | None:
    """Find out why ids are not in `listed`: a difference in notation; None if there is none."""
    missing = list(unlisted)
    there = list(listed)
    for cause, alike in _CAUSES:
        known = {alike(one): one for one in there}
        found = [(one, known[key]) for one in missing if (key := alike(one)) in known]
        if found:
            (one, other), count = found[0], len(found)
            return f"{count:,} of them are listed {cause}, as {one!r}, which is {other!r} there"
    return None


def _whole_numbers(
    table: Table, column: str, texts: pl.Series, notes: list[str] | None
) -> pl.Series:
    """Remove ".0" at the end of texts if all are whole numbers."""
    if not texts.str.contains(".", literal=True).any() or not texts.str.contains(_WHOLE).all():
        return texts
    if notes is not None:
        example = texts.filter(texts.str.contains(".", literal=True))[0]
        short = example.partition(".")[0]
        notes.append(f"ids of {table.path.name} such as {example} ({column}) are read as {short}")
    return texts.str.replace(_NO_FRACTION, "")


def _require_no_json(table: Table, column: str, texts: pl.Series) -> None:
    """Raise if a text is a JSON list or object."""
    bracketed = (texts.str.starts_with("{") | texts.str.starts_with("[")).fill_null(False)
    for row in bracketed.arg_true():
        try:
            value = json.loads(texts[int(row)])
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list):
            _refuse(table, column, int(row))


def _refuse(table: Table, column: str, row: int) -> None:
    said = shortened(str(table.frame[column].gather([row]).to_list()[0]))
    raise CammsrError(
        f"{table.place(row)}: {column} is a list or an object, not an id: {said}",
        "Map another column with --map, or write the id as a text or a number.",
    )
