"""Reads precomputed vectors as features, from CSV, Parquet or NPY."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.readers.columns import CANDIDATES, is_index, item_column, listed, normalised
from cammsr_cli.data.readers.containers import holder_of
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.file_names import table_format
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.tables import Table, open_table
from cammsr_cli.encoding.features import Features, Problem, StoredType, fitting
from cammsr_cli.encoding.rows import RowFile
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.files import sha256_of

_DECIMAL_COMMA = r"^[-+]?\d+(?:,\d+)?(?:[eE][-+]?\d+)?$"  # usual with the delimiter ";"


@dataclass(frozen=True)
class _Rows:
    """Vectors by row of the file.

    Attributes:
        table: The rows of the file.
        ids: [R] item identifiers; None where a row has none.
        values: float64 [R, D]; NaN where the file has no value.
        notes: Notes about what is ignored.
    """

    table: Table
    ids: list[str | None]
    values: NDArray[np.float64]
    notes: list[str]


@dataclass(frozen=True)
class _Listed:
    """Vectors by item of the catalogue.

    Attributes:
        values: [R, D], by row of the file; an NPY file is memory-mapped.
        row: int64 [N], the row of each item; -1 if the file has none for it.
        notes: Counts and remarks for the user.
    """

    values: NDArray[Any]
    row: NDArray[np.int64]
    notes: list[str]


def read_vectors(
    path: Path,
    item_ids: Sequence[str],
    item_rows: Sequence[int | None],
    modality: str,
    *,
    dtype: StoredType = "float16",
    row_count: int | None = None,
    scratch_dir: Path | None = None,
    reading: Reading | None = None,
) -> Features:
    """Read features from a file of vectors.

    A table may have any format in which items can be read. It has a column with the item id, and
    either one list column or numeric columns that together are the vector. The index that pandas
    writes and other columns are ignored, with a note. Booleans are 0 and 1. An array (NPY) has one
    row for each row of the items file.

    Args:
        path: The file.
        item_ids: [N] the catalogue.
        item_rows: [N] the row of each item in the items file, as in `Corpus.item_rows`.
        modality: For messages.
        dtype: The type in which the features are stored.
        row_count: Number of rows of the items file, for NPY; derived from `item_rows` if None.
        scratch_dir: The folder for an unnamed temporary file of features; None keeps them in
            memory.
        reading: How to read a table; None detects it.

    Raises:
        UsageError: If the format or the columns are not understood.
        CammsrError: If a cell is not a number, an item appears twice, or the row count is wrong.
    """
    if not path.exists():
        raise UsageError(f"no vectors file {path}", "give a .csv, .tsv, .parquet or .npy file")
    if path.suffix.lower() == ".npy":
        vectors = _array_rows(path, item_rows, row_count)
        files: tuple[Path, ...] = (path,)
    elif table_format(path) is None and holder_of(path) is None:
        raise UsageError(
            f"{path.name}: {path.suffix or 'no extension'} is no format for vectors",
            "save them as .csv, .tsv, .parquet or .npy",
        )
    else:
        rows = _table_rows(open_table(path, reading))
        vectors, files = _by_item(path, rows, item_ids), rows.table.files
    fingerprint = json.dumps({"vectors": f"sha256:{' '.join(map(sha256_of, files))}"})
    shape = len(item_ids), vectors.values.shape[1]
    stored = np.zeros(shape, dtype) if scratch_dir is None else RowFile(scratch_dir, shape, dtype)
    return _features(path, vectors, item_ids, modality, stored, fingerprint)


def _array_rows(path: Path, item_rows: Sequence[int | None], row_count: int | None) -> _Listed:
    """Read vectors by item from an array that is aligned with the rows of the items file."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CammsrError(
            f"{path.name} is no readable .npy array of numbers",
            "save it again with numpy.save(file, array.astype('float32'))",
        ) from error
    if values.ndim != 2 or values.dtype.kind not in "fiu" or values.shape[1] == 0:
        raise CammsrError(
            f"{path.name} is {values.dtype} {list(values.shape)}; vectors are numbers [rows, dim]"
        )
    listed = [row for row in item_rows if row is not None]
    expected = row_count if row_count is not None else max(listed, default=-1) + 1
    if len(values) != expected:
        raise CammsrError(
            f"{path.name} has {len(values)} rows and the items file has {expected}",
            "an .npy file has one row for each row of the items file, in its order; "
            "a .csv or .parquet file with an item column needs no such order",
        )
    return _Listed(values, np.array([-1 if row is None else row for row in item_rows], int), [])


def _table_rows(table: Table) -> _Rows:
    name = table.path.name
    column = _id_column(table)
    notes = list(table.notes)
    ids = clean_ids(table, column, notes).to_list()
    index = [one for one in table.frame.columns if is_index(one)]
    rest = table.frame.drop(column, *index)
    lists = [one for one in rest.columns if _is_list(rest[one])]
    if len(lists) > 1:
        raise UsageError(f"{name} has several list columns: {', '.join(lists)}; keep one")
    if lists:
        used, values = lists, _list_values(table, rest[lists[0]])
    else:
        used, values = _numeric_values(table, rest)
    if index:
        notes.append(f"the index that pandas wrote into {name} left out of the vectors")
    if others := [one for one in rest.columns if one not in used]:
        why = "beside the list" if lists else "without numbers such as 0.5"
        notes.append(f"columns of {name} {why} left out of the vectors: {listed(others)}")
    return _Rows(table, ids, values, notes)


def _id_column(table: Table) -> str:
    columns = table.frame.columns
    if set(CANDIDATES["items"]["item"]).isdisjoint(map(normalised, columns)):
        raise UsageError(
            f"{table.path.name}: no column names the item; it has: {listed(columns[:12])}",
            "call the item's column item_id",
        )
    return item_column(columns, "items")


def _is_list(column: pl.Series) -> bool:
    if isinstance(column.dtype, pl.List | pl.Array):
        return True
    filled = column.drop_nulls() if column.dtype == pl.String else column.clear()
    return len(filled) > 0 and str(filled[0]).lstrip().startswith("[")


def _list_values(table: Table, column: pl.Series) -> NDArray[np.float64]:
    """Return [R, D] from a column of lists, or of JSON lists as text; a null is a row of NaN."""
    lists: list[list[Any] | None] = []
    for row, cell in enumerate(column):
        try:
            parsed = json.loads(cell) if isinstance(cell, str) else cell
            lists.append(None if parsed is None else [float(one) for one in parsed])
        except (ValueError, TypeError) as error:
            raise CammsrError(
                f"{table.place(row)}: column {column.name!r} is no list of numbers",
                "write it as [0.5, 1.25]: a JSON list",
            ) from error
    dim = next((len(one) for one in lists if one), 0)
    if dim == 0:
        raise CammsrError(f"{table.path}: column {column.name!r} holds no numbers")
    for row, one in enumerate(lists):
        if one and len(one) != dim:
            raise CammsrError(
                f"{table.place(row)}: a vector of {len(one)} numbers among those of {dim}"
            )
    return np.array([one or [np.nan] * dim for one in lists], dtype=np.float64)


def _numeric_values(table: Table, rest: pl.DataFrame) -> tuple[list[str], NDArray[np.float64]]:
    """Return the names of the numeric columns and their values [R, D]; ignore all others."""
    columns: dict[str, NDArray[np.float64]] = {}
    for series in rest:
        numbers = _numbers(table, series)
        if numbers is not None:
            columns[series.name] = numbers
    if not columns:
        raise UsageError(
            f"{table.path.name} has no numeric column beside the item",
            "a table of vectors has numbers in its other columns, or one list column",
        )
    return list(columns), np.stack(list(columns.values()), axis=1)


def _numbers(table: Table, series: pl.Series) -> NDArray[np.float64] | None:
    """Return a column as float64 with NaN for empty cells; None if it contains no number."""
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        return series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    if series.dtype != pl.String:
        return None
    text = series.str.strip_chars()
    text = text.set(text == "", None)
    beside_semicolons = table.dialect is not None and table.dialect.separator == ";"
    if beside_semicolons and text.str.contains(_DECIMAL_COMMA).all():
        text = text.str.replace(",", ".", literal=True)
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() == len(numbers):
        numbers = _truths(text)
    if numbers.null_count() == len(numbers):
        return None
    wrong = numbers.is_null() & text.is_not_null()
    if wrong.any():
        row = int(wrong.arg_true()[0])
        raise CammsrError(
            f"{table.place(row)}: {text[row]!r} in column {series.name!r} is not a number",
            "mend the cell, or leave it empty if the item has no vector",
        )
    return numbers.fill_null(np.nan).to_numpy()


def _truths(text: pl.Series) -> pl.Series:
    """Return 1 for "true" and 0 for "false", in any case; all null if there are other words."""
    truths = text.str.to_lowercase().replace_strict({"true": 1.0, "false": 0.0}, default=None)
    return truths if truths.null_count() == text.null_count() else truths.clear(len(text))


def _by_item(path: Path, rows: _Rows, item_ids: Sequence[str]) -> _Listed:
    """Match rows with the catalogue by their item ids."""
    row_of: dict[str, int] = {}
    for row, one in enumerate(rows.ids):
        if one is None:
            continue
        if one in row_of:
            raise CammsrError(
                f"{rows.table.place(row)}: item {one!r} was there before: "
                f"{rows.table.place(row_of[one])}",
                "keep one vector an item",
            )
        row_of[one] = row
    places = np.array([row_of.get(one, -1) for one in item_ids], int)
    strange = len(row_of.keys() - set(item_ids))
    if (places < 0).all():
        raise CammsrError(
            f"{path.name} names no item of the catalogue (its first: {rows.ids[:1]})",
            "check that its item column holds the same identifiers as the interactions",
        )
    nameless = rows.ids.count(None)
    notes = [f"{nameless} rows of {path.name} without an item id left out"] if nameless else []
    notes += [f"{strange} ids of {path.name} are not in the catalogue"] if strange else []
    return _Listed(rows.values, places, [*rows.notes, *notes])


def _features(
    path: Path,
    vectors: _Listed,
    item_ids: Sequence[str],
    modality: str,
    values: NDArray[Any] | RowFile,
    fingerprint: str,
) -> Features:
    """Mask items without a row; mask vectors with NaN, or that do not fit, with a problem."""
    present = np.zeros(len(item_ids), bool)
    problems: list[Problem] = []
    for item in np.flatnonzero(vectors.row >= 0).tolist():
        stored = fitting(vectors.values[vectors.row[item]], values.dtype)
        if isinstance(stored, str):
            problems.append(Problem(item_ids[item], modality, path.name, stored))
        else:
            values[np.array([item])] = stored
            present[item] = True
    absent = int((vectors.row < 0).sum())
    without = [f"{absent} items have no vector in {path.name}"] if absent else []
    notes = [*vectors.notes, *without]
    return Features(values, present, problems, 0, 0, fingerprint, "vectors", (), notes)
