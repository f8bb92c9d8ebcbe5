"""Numbers in raw files, with a decimal point or a decimal comma."""

from __future__ import annotations

import polars as pl

_COMMA = r"^[-+]?\d+,\d+$"


def as_numbers(values: pl.Series) -> pl.Series:
    """A column as Float64; null if a value is not a number.

    Texts with a decimal comma, such as "3,99", are numbers if no value of the column has a point.
    """
    if values.dtype.is_nested() or values.dtype == pl.Boolean:
        return pl.Series([None] * len(values), dtype=pl.Float64)
    if values.dtype == pl.String:
        values = values.str.strip_chars()
        point = values.str.contains(".", literal=True).any()
        if not point and values.str.contains(_COMMA).any():
            values = values.str.replace(r"^([-+]?\d+),(\d+)$", "${1}.${2}")
    return values.cast(pl.Float64, strict=False)
