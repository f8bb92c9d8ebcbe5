"""Sheets of Excel and OpenDocument workbooks."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import polars as pl

from cammsr_cli.data.readers.columns import distinct_names
from cammsr_cli.errors import CammsrError, first_line

WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")

T = TypeVar("T")


def sheet_names(path: Path) -> list[str]:
    """The names of a workbook's sheets, in order.

    Raises:
        CammsrError: The file cannot be read, or the package that reads it is not installed.
    """

    def names() -> list[str]:
        import fastexcel

        return list(fastexcel.read_excel(path).sheet_names)

    return _read(path, names)


def read_sheet(path: Path, name: str, rows: int | None = None) -> tuple[pl.DataFrame, str]:
    """Read a sheet's rows and the text above its header; as in a CSV file, columns are strings.

    The header is the first row with at least two cells, because a row with one cell is a title. If
    no row has two cells, the header is the first row with one.

    Args:
        path: The workbook.
        name: Its sheet.
        rows: The number of first rows to read; None reads all.

    Raises:
        CammsrError: The file cannot be read, or the package that reads it is not installed.
    """
    options = {"dtypes": "string"} | ({} if rows is None else {"n_rows": rows})
    cells = _read(
        path,
        lambda: pl.read_excel(
            path,
            sheet_name=name,
            engine="calamine",
            has_header=False,
            read_options=options,
            drop_empty_rows=False,
            raise_if_empty=False,
        ),
    )
    if not cells.height or not cells.width:
        return pl.DataFrame(), ""
    filled = cells.select(pl.sum_horizontal(pl.all().is_not_null())).to_series()
    header = _header_row(filled)
    names = [cell or f"column{at}" for at, cell in enumerate(cells.row(header), 1)]
    frame = cells.slice(header + 1).rename(
        dict(zip(cells.columns, distinct_names(names), strict=True))
    )
    above = [cell for row in cells.head(header).rows() for cell in row if cell]
    return frame, " ".join(above)


def _header_row(filled: pl.Series) -> int:
    """The first row with at least two cells, else with one; `filled` counts the cells by row."""
    for least in (2, 1):
        found = (filled >= least).arg_true()
        if len(found):
            return int(found[0])
    return 0


def _read(path: Path, read: Callable[[], T]) -> T:
    if find_spec("fastexcel") is None:
        raise CammsrError(
            f"{path}: to read sheets, the package fastexcel is needed, which is not installed",
            "Install it: pip install 'cammsr[sheets]'",
        )
    try:
        return read()
    except Exception as error:  # fastexcel and calamine have no common error class
        raise CammsrError(
            f"{path} cannot be read as a workbook: {first_line(error)}",
            "Open it in a spreadsheet program and save it again, or as CSV.",
        ) from error
