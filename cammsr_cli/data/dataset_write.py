"""Writing a data set, or a part of one: the file is complete, or it is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from cammsr_cli import __version__
from cammsr_cli.data.checksums import add_checksums, has_mark
from cammsr_cli.data.dataset import ModalityInfo, same_times
from cammsr_cli.data.dataset_check import falls
from cammsr_cli.data.dataset_file import OF_H5PY, PIECE_TEXTS, SCHEMA, TEXT, digest, escaped, pieces
from cammsr_cli.errors import UsageError, typed
from cammsr_cli.files import IN_CACHE, refusals_named, written_whole

if TYPE_CHECKING:  # this module imports polars, which writing does not need
    from cammsr_cli.data.corpus import Corpus

_ATTRIBUTE_BYTES = 60_000


class Rows(Protocol):
    """An array [n, dim], in memory or not, that is read in slices of rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and the length of a row."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of its values."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Some consecutive rows."""


@dataclass(frozen=True)
class ModalityVectors:
    """One modality of all items, to be written.

    Attributes:
        values: [N, dim] float16 or float32; rows of items without the modality are zero.
        present: [N] bool, whether an item has the modality.
        info: The origin of the vectors.
        inputs: [N, 32] uint8, SHA-256 of the encoded input, zeros if an item has none; None if
            unknown.
    """

    values: Rows
    present: NDArray[np.bool_]
    info: ModalityInfo
    inputs: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Part:
    """Data that a part of a data set records in addition to its content.

    Attributes:
        shard: The number of the part and of all parts, "2/8".
        problems: The items that could not be encoded: item, modality, path, reason.
    """

    shard: str
    problems: Sequence[tuple[str, str, str | None, str]]


def require_replaceable(out: Path, force: bool) -> None:
    """Raise if a data set must not be written to `out`.

    Raises:
        UsageError: `out` is a folder, or a data set and `force` is false, or another file.
    """
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name a file, such as shop.h5")
    if out.exists() and not force:
        raise UsageError(
            f"{out} is there already and nothing is overwritten",
            "Choose another name, or replace it: --force",
        )
    if out.exists() and not _is_data_set(out):
        raise UsageError(
            f"--force replaces only a data set, and {out} is something else",
            f"Choose another name: --out NAME.h5; or, if it may go: rm {typed(out)}",
        )


def _is_data_set(path: Path) -> bool:
    """Whether a file is a data set, or an HDF5 file that is too damaged to be opened."""
    if has_mark(path):
        return True
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "content" in file.attrs or "splits" in file
    except OF_H5PY:
        return True


def write_dataset(
    path: Path,
    corpus: Corpus,
    modalities: Mapping[str, ModalityVectors],
    part: Part | None = None,
) -> None:
    """Write a data set, or a part of one: the file is complete, or it is not there.

    The same input gives the same content.

    Raises:
        CammsrError: The system refuses to write the file, for example because the disk is full.
    """
    with refusals_named(path, IN_CACHE), new_file(path) as file:
        _write_texts(file, "users/id", corpus.user_ids)
        _write_texts(file, "items/id", corpus.item_ids)
        file.create_group("items/fields")
        for name, values in sorted(corpus.fields.items()):
            _write_texts(file, f"items/fields/{escaped(name)}", values)
        _write_texts(file, "items/categories/names", corpus.category_names)
        file["items/categories/indptr"] = corpus.category_indptr
        file["items/categories/index"] = corpus.category_index
        file["events/indptr"] = corpus.event_indptr
        file["events/item"] = corpus.event_item
        file["events/time"] = corpus.event_time
        if falls(corpus.event_time, corpus.event_indptr).any():
            file["events"].attrs["order"] = "file"
        same_second = same_times(corpus.event_indptr, corpus.event_time)
        if corpus.event_tied is not None and (corpus.event_tied != same_second).any():
            file["events/tied"] = corpus.event_tied
        if corpus.event_weight is not None:
            file["events/weight"] = corpus.event_weight
        if corpus.rejected is not None:
            user, item, place = corpus.rejected
            counts = np.bincount(user, minlength=len(corpus.user_ids))
            file["events/rejected_indptr"] = np.append(0, np.cumsum(counts))
            file["events/rejected_item"] = item.astype(np.int32)
            file["events/rejected_place"] = place.astype(np.int32)
        file["splits/leave_one_out"] = corpus.event_part
        if part is not None:
            file.attrs["corpus"] = digest(file)
            _write_texts(file, "problems", [json.dumps(one) for one in part.problems])
        for name, modality in sorted(modalities.items()):
            write_modality(file, name, modality, rows_alone=part is not None)
        seal(file, json.dumps(corpus.sources, sort_keys=True), _as_json(corpus.decisions))
        if part is not None:
            file.attrs["shard"] = part.shard


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """Open a new HDF5 file for a data set or a part of one; checksums are added at the end."""
    with written_whole(path) as partial:
        with h5py.File(partial, "w") as file:
            yield file
        add_checksums(partial)


def write_modality(
    file: h5py.File, name: str, modality: ModalityVectors, rows_alone: bool = False
) -> None:
    """Write one modality to an open file; with `rows_alone`, only the rows that are present."""
    group = file.create_group(f"features/{name}")
    present, source = modality.present, modality.values
    count = int(present.sum()) if rows_alone else len(present)
    if rows_alone:
        group["rows"] = np.flatnonzero(present)
    values = group.create_dataset("values", (count, *source.shape[1:]), source.dtype)
    done = 0
    for piece in pieces(len(present), int(source.dtype.itemsize * np.prod(source.shape[1:]))):
        rows = source[piece][present[piece]] if rows_alone else source[piece]
        if rows.size:
            values[done : done + len(rows)] = rows
        done += len(rows)
    group["present"] = present
    if modality.inputs is not None:
        group["inputs"] = modality.inputs
    group.attrs["encoder"] = modality.info.encoder
    group.attrs["fingerprint"] = modality.info.fingerprint
    group.attrs["fields"] = json.dumps(modality.info.fields)


def _as_json(decisions: Sequence[tuple[str, str]]) -> str:
    """The decisions as an attribute; long texts are cut, as an attribute holds only 64 KiB."""
    longest = _ATTRIBUTE_BYTES // (8 * max(1, len(decisions)))  # a character is up to 6 bytes
    return json.dumps([(what[:longest], how[:longest]) for what, how in decisions])


def seal(file: h5py.File, sources: str, decisions: str) -> None:
    """Write the attributes that mark a file as a data set, after everything else."""
    file.require_group("features")
    file.attrs["content"] = digest(file)
    file.attrs["schema"] = SCHEMA
    file.attrs["tool"] = f"cammsr {__version__}"
    file.attrs["sources"] = sources
    file.attrs["decisions"] = decisions
    file.attrs["checksums"] = "SHA-256 of each MiB, after the end"


def _write_texts(file: h5py.File, name: str, values: Sequence[str | None]) -> None:
    stored = file.create_dataset(name, len(values), TEXT)
    for start in range(0, len(values), PIECE_TEXTS):
        some = values[start : start + PIECE_TEXTS]
        stored[start : start + len(some)] = np.array([one or "" for one in some], dtype=TEXT)
