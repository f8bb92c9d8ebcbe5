"""Ready-made vectors: features that somebody has computed already, from CSV, Parquet or NPY."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.columns import is_index, listed
from cammsr_cli.data.tables import separator_of
from cammsr_cli.errors import CammsrError, UsageError, first_line
from cammsr_cli.features.rows import RowFile
from cammsr_cli.features.runner import Features, Problem, StoredType, fitting
from cammsr_cli.files import sha256_of

# Column names that hold the item, compared without case, "_" and "-".
_ID_NAMES = ("itemid", "item", "movieid", "parentasin", "asin", "productid", "id")
_DELIMITED: dict[str, Literal["csv", "tsv"]] = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}
_COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class _Rows:
    """Vectors by row of the file.

    Attributes:
        ids: [R] item identifiers.
        values: float64 [R, D]; NaN where the file has none.
        first_line: The file's line (or row) number of the first vector.
        notes: What was left out.
    """

    ids: list[str]
    values: NDArray[np.float64]
    first_line: int
    notes: list[str]


@dataclass(frozen=True)
class _Listed:
    """Vectors by item of the catalogue.

    Attributes:
        values: [R, D], by row of the file; an NPY file's stay there until they are used.
        row: int64 [N], each item's row; -1 if the file has none for it.
        notes: Counts for people.
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
) -> Features:
    """Features from a file of vectors.

    A table (CSV, TSV, plain or .gz or .zst; Parquet) has a column with the item and either one list
    column or numeric columns, which together are the vector; the index that pandas writes and other
    columns are left out, and told. Booleans are 0 and 1. An array (NPY) has one row for each row of
    the items file.

    Args:
        path: The file.
        item_ids: [N] the catalogue.
        item_rows: [N] each item's row in the items file, as in `Corpus.item_rows`.
        modality: For messages.
        dtype: What the features are stored as.
        row_count: Rows of the items file, for NPY; taken from `item_rows` if None.
        scratch_dir: Where the features are put into a file without a name; None keeps them in
            memory.

    Raises:
        UsageError: If the format or the columns are not understood.
        CammsrError: If a cell is no number, an item appears twice, or the row count is off.
    """
    if not path.is_file():
        raise UsageError(f"no vectors file {path}", "give a .csv, .tsv, .parquet or .npy file")
    kind = _kind(path)
    if kind == ".npy":
        vectors = _array_rows(path, item_rows, row_count)
    else:
        vectors = _by_item(path, _table_rows(path, kind), item_ids)
    fingerprint = json.dumps({"vectors": f"sha256:{sha256_of(path)}"})
    shape = len(item_ids), vectors.values.shape[1]
    stored = np.zeros(shape, dtype) if scratch_dir is None else RowFile(scratch_dir, shape, dtype)
    return _features(path, vectors, item_ids, modality, stored, fingerprint)


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind not in (*_DELIMITED, ".parquet", ".npy"):
        raise UsageError(
            f"{path.name}: {kind or 'no extension'} is no format for vectors",
            "save them as .csv, .tsv, .parquet or .npy",
        )
    return kind


def _array_rows(path: Path, item_rows: Sequence[int | None], row_count: int | None) -> _Listed:
    """Vectors by item from an array aligned to the items file's rows."""
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


def _table_rows(path: Path, kind: str) -> _Rows:
    table = _table(path, kind)
    column = _id_column(path, table.columns)
    ids = _identifiers(table[column])
    index = [one for one in table.columns if is_index(one)]
    rest = table.drop(column, *index)
    line = 1 if kind == ".parquet" else 2  # a delimited file's first line is its header
    lists = [one for one in rest.columns if _is_list(rest[one])]
    if len(lists) > 1:
        raise UsageError(f"{path.name} has several list columns: {', '.join(lists)}; keep one")
    if lists:
        used, values = lists, _list_values(path, rest[lists[0]], line)
    else:
        used, values = _numeric_values(path, rest, line)
    notes = (
        [f"the index that pandas wrote into {path.name} left out of the vectors"] if index else []
    )
    if others := [one for one in rest.columns if one not in used]:
        why = "beside the list" if lists else "without numbers such as 0.5"
        told = f"columns of {path.name} {why} left out of the vectors: {listed(others)}"
        notes.append(told)
    return _Rows(ids, values, line, notes)


def _table(path: Path, kind: str) -> pl.DataFrame:
    try:
        if kind == ".parquet":
            return pl.read_parquet(path)
        separator = separator_of(path, _DELIMITED[kind])
        return pl.read_csv(path, separator=separator, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        told = first_line(error)
        raise CammsrError(f"{path.name} cannot be read as {kind[1:]}: {told}") from error


def _id_column(path: Path, columns: list[str]) -> str:
    plain = {one.strip().lower().replace("_", "").replace("-", ""): one for one in columns[::-1]}
    for name in _ID_NAMES:
        if name in plain:
            return plain[name]
    raise UsageError(
        f"{path.name}: no column names the item; it has: {', '.join(columns[:12])}",
        "call the item's column item_id",
    )


def _identifiers(column: pl.Series) -> list[str]:
    if column.dtype.is_float() and bool((column.drop_nulls() % 1 == 0).all()):
        column = column.cast(pl.Int64)
    return [(value or "").strip() for value in column.cast(pl.String)]


def _is_list(column: pl.Series) -> bool:
    if isinstance(column.dtype, pl.List | pl.Array):
        return True
    filled = column.drop_nulls() if column.dtype == pl.String else column.clear()
    return len(filled) > 0 and str(filled[0]).lstrip().startswith("[")


def _list_values(path: Path, column: pl.Series, first_line: int) -> NDArray[np.float64]:
    """[R, D] from a column of lists, or of JSON lists as text; a null is a row of NaN."""
    lists: list[list[Any] | None] = []
    for line, cell in enumerate(column, start=first_line):
        try:
            told = json.loads(cell) if isinstance(cell, str) else cell
            lists.append(None if told is None else [float(one) for one in told])
        except (ValueError, TypeError) as error:
            raise CammsrError(
                f"{path.name}, line {line}: column {column.name!r} is no list of numbers"
            ) from error
    dim = next((len(one) for one in lists if one), 0)
    if dim == 0:
        raise CammsrError(f"{path.name}: column {column.name!r} holds no numbers")
    for line, one in enumerate(lists, start=first_line):
        if one and len(one) != dim:
            raise CammsrError(
                f"{path.name}, line {line}: a vector of {len(one)} numbers among those of {dim}"
            )
    return np.array([one or [np.nan] * dim for one in lists], dtype=np.float64)


def _numeric_values(
    path: Path, table: pl.DataFrame, first_line: int
) -> tuple[list[str], NDArray[np.float64]]:
    """The numeric columns, and [R, D] of them; columns with no number at all are left out."""
    columns: dict[str, NDArray[np.float64]] = {}
    for series in table:
        numbers = _numbers(path, series, first_line)
        if numbers is not None:
            columns[series.name] = numbers
    if not columns:
        raise UsageError(
            f"{path.name} has no numeric column beside the item",
            "a table of vectors has numbers in its other columns, or one list column",
        )
    return list(columns), np.stack(list(columns.values()), axis=1)


def _numbers(path: Path, series: pl.Series, first_line: int) -> NDArray[np.float64] | None:
    """A column as float64 with NaN for empty cells; None if it holds no numbers at all."""
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        return series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    if series.dtype != pl.String:
        return None
    text = series.str.strip_chars()
    text = text.set(text == "", None)
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() == len(numbers):
        numbers = _truths(text)
    if numbers.null_count() == len(numbers):
        return None
    wrong = numbers.is_null() & text.is_not_null()
    if wrong.any():
        row = int(wrong.arg_true()[0])
        raise CammsrError(
            f"{path.name}, line {row + first_line}: {text[row]!r} in column {series.name!r} "
            "is not a number",
            "mend the cell, or leave it empty if the item has no vector",
        )
    return numbers.fill_null(np.nan).to_numpy()


def _truths(text: pl.Series) -> pl.Series:
    """1 for "true" and 0 for "false", however written; all null if there are other words."""
    truths = text.str.to_lowercase().replace_strict({"true": 1.0, "false": 0.0}, default=None)
    return truths if truths.null_count() == text.null_count() else truths.clear(len(text))


def _by_item(path: Path, rows: _Rows, item_ids: Sequence[str]) -> _Listed:
    """Vectors by item from rows that name theirs."""
    line_of: dict[str, int] = {}
    for line, one in enumerate(rows.ids, start=rows.first_line):
        if one in line_of:
            raise CammsrError(
                f"{path.name}: item {one!r} appears twice, on lines {line_of[one]} and {line}",
                "keep one vector an item",
            )
        line_of[one] = line
    nowhere = rows.first_line - 1
    row = np.array([line_of.get(one, nowhere) - rows.first_line for one in item_ids], int)
    strange = len(line_of.keys() - set(item_ids))
    if (row < 0).all():
        raise CammsrError(
            f"{path.name} names no item of the catalogue (its first: {rows.ids[:1]})",
            "check that its item column holds the same identifiers as the interactions",
        )
    told = [f"{strange} ids of {path.name} are not in the catalogue"] if strange else []
    return _Listed(rows.values, row, [*rows.notes, *told])


def _features(
    path: Path,
    vectors: _Listed,
    item_ids: Sequence[str],
    modality: str,
    values: NDArray[Any] | RowFile,
    fingerprint: str,
) -> Features:
    """Mask what is not listed, and with a problem what has NaN or cannot be stored."""
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
    told = [f"{absent} items have no vector in {path.name}"] if absent else []
    notes = [*vectors.notes, *told]
    return Features(values, present, problems, 0, 0, fingerprint, "vectors", (), notes)
