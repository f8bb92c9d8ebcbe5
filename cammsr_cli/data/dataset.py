"""The prepared data set: one HDF5 file that `prepare` writes and everything else reads.

Layout (schema 1), U users, N items, E events, C categories:

    /                       schema, tool, content (SHA-256 of all below), sources (JSON), decisions
                            (JSON, how the raw files were read)
    /users/id               [U] str
    /items/id               [N] str
    /items/fields/<name>    [N] str, empty where missing: title, description, image, video, ...
    /items/categories       names [C] str, indptr [N+1] int64, index int32 (CSR, multi-label)
    /events                 indptr [U+1] int64 (CSR by user), item [E] int32, time [E] int64
                            (seconds), in time order, ties broken by file order, or, where the
                            attribute `order` is "file", in that of the raw file; tied [E] bool,
                            whether nothing tells an event's order and that of the user's one
                            before, where seconds do not say so; weight [E] float32, what an
                            event weighs in the loss, where they do not weigh alike;
                            rejected_indptr [U+1] int64, rejected_item and rejected_place int32
                            (CSR by user), the items that users said no to or rated too low, if
                            there are any, and how many of the user's events came before that
    /splits/leave_one_out   [E] uint8: 0 train, 1 validation, 2 test
    /features/<modality>    values [N, dim] float16 or float32, present [N] bool;
                            inputs [N, 32] uint8, SHA-256 of what was encoded, if it is known;
                            attributes encoder, fingerprint, fields

A part, which `prepare --shard` writes and `merge` joins, differs in this: attributes shard ("2/8")
and corpus (SHA-256 of all but features); /problems [P] str, JSON; in /features/<modality> values
[n, dim] only of the items in rows [n] int64.

Everything lies in one piece and without filters. Checksums follow the HDF5 content
(`checksums.py`); the attribute `checksums` says so. A file of a cammsr that wrote none is read, and
`DataSet.remarks` tells of it.

Reading opens the file, takes what is asked for and closes it: no handle outlives a call, so a
`DataSet` may be sent to other processes. Each opening looks whether it is still the same file.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import h5py
import numpy as np
from numpy.typing import NDArray

from cammsr_cli import __version__
from cammsr_cli.data.checksums import CheckedFile, DamagedDataError, add_checksums, has_mark
from cammsr_cli.data.dataset_check import (
    check_index,
    check_indptr,
    check_layout,
    check_parts,
    check_times,
    check_weights,
    falls,
)
from cammsr_cli.errors import CammsrError, UsageError, first_line, typed
from cammsr_cli.files import IN_CACHE, refusals_told, written_whole

if TYPE_CHECKING:  # it imports polars, which reading does not need
    from cammsr_cli.data.corpus import Corpus

SCHEMA = 1
_ATTRIBUTE_BYTES = 60_000

_TEXT = h5py.string_dtype("utf-8")
# Written, read and hashed a piece at a time: bytes of numbers, and texts.
_PIECE_BYTES, _PIECE_TEXTS = 2**24, 2**16
_OF_H5PY = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError)


@dataclass(frozen=True)
class ModalityInfo:
    """Where a modality's vectors come from.

    Attributes:
        dim: Length of a vector.
        encoder: Name of the plugin or file that made them.
        fingerprint: Everything that decides the vectors' values.
        fields: The item fields that were read.
    """

    dim: int
    encoder: str
    fingerprint: str
    fields: tuple[str, ...]

    @classmethod
    def of(cls, group: h5py.Group) -> ModalityInfo:
        """What a modality's group in a data set, or in a part of one, tells."""
        return cls(
            dim=int(group["values"].shape[1]),
            encoder=str(group.attrs["encoder"]),
            fingerprint=str(group.attrs["fingerprint"]),
            fields=tuple(json.loads(str(group.attrs["fields"]))),
        )


class Rows(Protocol):
    """An array [n, dim], in memory or not, that is read some rows at a time."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and what a row is long."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Some consecutive rows."""


@dataclass(frozen=True)
class ModalityVectors:
    """One modality of all items, to be written.

    Attributes:
        values: [N, dim] float16 or float32; rows without the modality are zero.
        present: [N] bool.
        info: Where they come from.
        inputs: [N, 32] uint8, SHA-256 of what was encoded, zeros for nothing; None if not known.
    """

    values: Rows
    present: NDArray[np.bool_]
    info: ModalityInfo
    inputs: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Part:
    """What makes a file a part of a data set.

    Attributes:
        shard: Which part, "2/8".
        problems: The items it could not encode: item, modality, path, reason.
    """

    shard: str
    problems: Sequence[tuple[str, str, str | None, str]]


@dataclass(frozen=True)
class Histories:
    """The events of some users, end to end, each user's in time order.

    Attributes:
        indptr: int64 [U + 1]; the u-th of these users has events `indptr[u]` to `indptr[u + 1]`.
        item: int32 item index of each event.
        time: int64 time of each event in seconds.
        tied: bool, whether nothing tells an event's order and that of the user's one before.
    """

    indptr: NDArray[np.int64]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    tied: NDArray[np.bool_]


def require_replaceable(out: Path, force: bool) -> None:
    """Refuse to write a data set where something else is, or where one is and may not go.

    Raises:
        UsageError: Saying what is there.
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
    """Whether a file is a data set, or HDF5 so damaged that it is of no use to anybody."""
    if has_mark(path):
        return True
    if not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "content" in file.attrs or "splits" in file
    except _OF_H5PY:
        return True


def write_dataset(
    path: Path,
    corpus: Corpus,
    modalities: Mapping[str, ModalityVectors],
    part: Part | None = None,
) -> None:
    """Write a data set, or a part of one, whole or not at all; same input, same content.

    Raises:
        CammsrError: If the system does not let it be written, as when the disk is full.
    """
    with refusals_told(path, IN_CACHE), new_file(path) as file:
        _write_texts(file, "users/id", corpus.user_ids)
        _write_texts(file, "items/id", corpus.item_ids)
        file.create_group("items/fields")
        for name, values in sorted(corpus.fields.items()):
            _write_texts(file, f"items/fields/{_escaped(name)}", values)
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
    """An HDF5 file to write a data set to, or a part of one; it gets its checksums at the end."""
    with written_whole(path) as partial:
        with h5py.File(partial, "w") as file:
            yield file
        add_checksums(partial)


def write_modality(
    file: h5py.File, name: str, modality: ModalityVectors, rows_alone: bool = False
) -> None:
    """Write one modality into an open file; with `rows_alone`, only rows that are present."""
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
    """The decisions as an attribute, which holds 64 KiB: texts too long for it are cut."""
    longest = _ATTRIBUTE_BYTES // (8 * max(1, len(decisions)))  # a letter may be 6 bytes of JSON
    return json.dumps([(what[:longest], how[:longest]) for what, how in decisions])


def seal(file: h5py.File, sources: str, decisions: str) -> None:
    """Write what says that a file is a data set, after all else."""
    file.require_group("features")
    file.attrs["content"] = digest(file)
    file.attrs["schema"] = SCHEMA
    file.attrs["tool"] = f"cammsr {__version__}"
    file.attrs["sources"] = sources
    file.attrs["decisions"] = decisions
    file.attrs["checksums"] = "SHA-256 of each MiB, after the end"


def pieces(length: int, row_bytes: int) -> Iterator[slice]:
    """An array's rows in slices of about 16 MB."""
    step = max(1, _PIECE_BYTES // max(1, row_bytes))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _runs(indptr: NDArray[np.int64], users: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where the users' entries begin and end, [U + 1] by user; users in a row are one piece."""
    start_U, end_U = indptr[users], indptr[users + 1]
    apart = np.flatnonzero(start_U[1:] != end_U[:-1])
    first, past = start_U[np.append(0, apart + 1)], end_U[np.append(apart, -1)]
    return list(zip(first.tolist(), past.tolist(), strict=True))


def same_times(indptr: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an event's time is that of the user's event before, [E]; `indptr` is CSR by user."""
    same = np.zeros(len(time), dtype=np.bool_)
    same[1:] = time[1:] == time[:-1]
    same[indptr[:-1][np.diff(indptr) > 0]] = False
    return same


class DataSet:
    """A prepared data set, read as asked; what is read is checked, and all of it by `verify`.

    Args:
        path: The HDF5 file.

    Raises:
        CammsrError: The file is missing, damaged, not a data set, or of another schema. So does
            each reading, and also if the file has been replaced since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _reading(path) as (file, source):
            if "shard" in file.attrs:
                raise CammsrError(
                    f"{path} is part {file.attrs['shard']} of a data set, not a whole one",
                    "Join its parts: cammsr merge --help",
                )
            check_layout(file, path)
            self.checked = source.checked
            self.content = str(file.attrs["content"])
            self.tool = str(file.attrs["tool"])
            self.sources: dict[str, str] = json.loads(str(file.attrs["sources"]))
            # Files of a cammsr that did not write them are read all the same.
            self.decisions: list[list[str]] = json.loads(str(file.attrs.get("decisions", "[]")))
            self.category_names = _read_strings(file["items/categories/names"])
            self.modalities = {
                name: ModalityInfo.of(group) for name, group in file["features"].items()
            }
            self.dtypes = {
                name: str(group["values"].dtype) for name, group in file["features"].items()
            }
            self.field_names = [unquote(name) for name in file["items/fields"]]
            self._items, self._events = len(file["items/id"]), len(file["events/item"])
            self._by_time = file["events"].attrs.get("order") != "file"

    @property
    def remarks(self) -> list[str]:
        """What a user should know of the file, in words."""
        if self.checked:
            return []
        return [
            f"{self.path} was made by {self.tool}, without checksums: damage to it is noticed only "
            f"by: cammsr info {typed(self.path)} --verify"
        ]

    def verify(self) -> None:
        """Read every byte, and look at every value that can be wrong.

        Raises:
            DamagedDataError: Something is not as it was written, or cannot be so.
        """
        with self._open() as (file, source):
            source.check()
            if digest(file) != self.content:
                raise DamagedDataError(self.path, "its content is not that of its digest")
            for name in ("users/id", "items/id"):
                ids = _read_strings(file[name])
                if len(set(ids)) < len(ids):
                    raise DamagedDataError(self.path, f"{name} names one twice")
        _ = self.event_time, self.event_item, self.event_part, self.categories
        _ = self.event_weight, self.rejected(np.arange(len(self.event_indptr) - 1))

    @cached_property
    def user_ids(self) -> list[str]:
        """User ids, by user index."""
        return self._strings_at("users/id")

    @cached_property
    def item_ids(self) -> list[str]:
        """Item ids, by item index."""
        return self._strings_at("items/id")

    @cached_property
    def event_indptr(self) -> NDArray[np.int64]:
        """User u's events are `indptr[u]` to `indptr[u + 1]`; [U + 1]."""
        indptr: NDArray[np.int64] = self._array("events/indptr")
        check_indptr(indptr, self._events, "events/indptr", self.path)
        return indptr

    @cached_property
    def event_item(self) -> NDArray[np.int32]:
        """Item index of each event, [E]."""
        item: NDArray[np.int32] = self._array("events/item")
        check_index(item, self._items, "events/item", self.path)
        return item

    @cached_property
    def event_time(self) -> NDArray[np.int64]:
        """Time of each event in seconds, [E]."""
        time: NDArray[np.int64] = self._array("events/time")
        self._check_times(time, self.event_indptr)
        return time

    @cached_property
    def event_tied(self) -> NDArray[np.bool_]:
        """Whether nothing tells an event's order and that of the user's one before, [E]."""
        with self._open() as (file, _):
            if "events/tied" in file:
                tied: NDArray[np.bool_] = file["events/tied"][()]
                return tied
        return same_times(self.event_indptr, self.event_time)

    @cached_property
    def event_weight(self) -> NDArray[np.float32] | None:
        """What each event weighs in the loss, [E]; None where all weigh alike."""
        with self._open() as (file, _):
            if "events/weight" not in file:
                return None
            weight: NDArray[np.float32] = file["events/weight"][()]
        check_weights(weight, "events/weight", self.path)
        return weight

    @cached_property
    def event_part(self) -> NDArray[np.uint8]:
        """TRAIN, VALIDATION or TEST for each event, [E]."""
        part: NDArray[np.uint8] = self._array("splits/leave_one_out")
        check_parts(part, "splits/leave_one_out", self.path)
        return part

    @cached_property
    def categories(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """CSR of the items' categories: indptr [N + 1] and category index."""
        indptr: NDArray[np.int64] = self._array("items/categories/indptr")
        index: NDArray[np.int32] = self._array("items/categories/index")
        check_indptr(indptr, len(index), "items/categories/indptr", self.path)
        check_index(index, len(self.category_names), "items/categories/index", self.path)
        return indptr, index

    def field(self, name: str) -> list[str]:
        """One text field of all items, "" where missing."""
        if name not in self.field_names:
            return [""] * len(self.item_ids)
        return self._strings_at(f"items/fields/{_escaped(name)}")

    def fields_of(self, names: Sequence[str], items: Sequence[int]) -> dict[str, list[str]]:
        """Some text fields of some items, in their order, "" where missing; reads no others."""
        found = {name: [""] * len(items) for name in names}
        rising, place = np.unique(np.array(items, dtype=np.int64), return_inverse=True)
        with self._open() as (file, _):
            for name in set(names) & set(self.field_names):
                texts = file[f"items/fields/{_escaped(name)}"].asstr()
                found[name] = texts[rising][place].tolist()
        return found

    def histories(self, users: NDArray[np.int64]) -> Histories:
        """All events of some users, in their order; reads no others.

        Args:
            users: At least one user index. Users in a row are read in one piece.
        """
        pieces = _runs(self.event_indptr, users)
        indptr = np.append(0, np.cumsum(self.event_indptr[users + 1] - self.event_indptr[users]))
        with self._open() as (file, _):

            def read(name: str) -> NDArray[Any]:
                return np.concatenate([file[name][first:past] for first, past in pieces])

            item, time = read("events/item"), read("events/time")
            tied = read("events/tied") if "events/tied" in file else same_times(indptr, time)
        check_index(item, self._items, "events/item", self.path)
        self._check_times(time, indptr)
        return Histories(indptr, item, time, tied)

    def _check_times(self, time: NDArray[np.int64], indptr: NDArray[np.int64]) -> None:
        """Refuse falling times, but where the events are in the order of the raw file."""
        if self._by_time:
            check_times(time, indptr, "events/time", self.path)

    def rejected(
        self, users: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What some users said no to, as pairs of a user and an item.

        Returns:
            Place of the user among `users`, rising; item index; and how many of the user's events
            came before: all of them, where a file of an older cammsr does not say.
        """
        indptr = self._rejected_indptr
        if indptr is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        row = np.repeat(np.arange(len(users)), indptr[users + 1] - indptr[users])
        pieces = _runs(indptr, users)
        events = (self.event_indptr[users + 1] - self.event_indptr[users])[row]
        before = events
        with self._open() as (file, _):
            item = np.concatenate([file["events/rejected_item"][a:b] for a, b in pieces])
            if "events/rejected_place" in file:
                before = np.concatenate([file["events/rejected_place"][a:b] for a, b in pieces])
        check_index(item, self._items, "events/rejected_item", self.path)
        if bool(((before < 0) | (before > events)).any()):
            raise DamagedDataError(
                self.path, "events/rejected_place is beyond the events of its user"
            )
        return row, item.astype(np.int64), before.astype(np.int64)

    @cached_property
    def _rejected_indptr(self) -> NDArray[np.int64] | None:
        name = "events/rejected_indptr"
        with self._open() as (file, _):
            if name not in file:
                return None
            indptr: NDArray[np.int64] = file[name][()]
            check_indptr(indptr, len(file["events/rejected_item"]), name, self.path)
            return indptr

    def vectors(self, modality: str) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        """Values [N, dim] and present [N] of one modality; values are read from the file as used.

        They are mapped into memory, not held in it, and so may be larger than it.
        """
        with self._open() as (file, source):
            present: NDArray[np.bool_] = file[f"features/{modality}/present"][()]
            stored = file[f"features/{modality}/values"]
            if not stored.size:  # there is no place for it
                return stored[()], present
            start = stored.id.get_offset()
            source.check(start, start + stored.nbytes)
            return np.memmap(source, stored.dtype, "c", start, stored.shape), present

    def present(self, modality: str) -> NDArray[np.bool_]:
        """Whether each item has a modality, [N]."""
        present: NDArray[np.bool_] = self._array(f"features/{modality}/present")
        return present

    def inputs(self, modality: str) -> NDArray[np.uint8] | None:
        """SHA-256 of what was encoded of each item, [N, 32], zeros for nothing; None if unknown."""
        name = f"features/{modality}/inputs"
        with self._open() as (file, _):
            return file[name][()] if name in file else None

    def category_labels(self) -> NDArray[np.bool_]:
        """Whether an item has a category, [N, C]."""
        indptr, index = self.categories
        labels = np.zeros((len(indptr) - 1, len(self.category_names)), dtype=np.bool_)
        labels[np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), index] = True
        return labels

    def item_categories(self, item: int) -> list[str]:
        """Names of one item's categories."""
        indptr, index = self.categories
        return [self.category_names[c] for c in index[indptr[item] : indptr[item + 1]]]

    def _array(self, name: str) -> Any:
        with self._open() as (file, _):
            return file[name][()]

    def _strings_at(self, name: str) -> list[str]:
        with self._open() as (file, _):
            return _read_strings(file[name])

    @contextmanager
    def _open(self) -> Iterator[tuple[h5py.File, CheckedFile]]:
        with _reading(self.path) as (file, source):
            if file.attrs["content"] != self.content:
                raise CammsrError(
                    f"{self.path} has been replaced while it was being read",
                    "Run the command again",
                )
            yield file, source


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """A data set or a part of one, open for reading, and laid out as it should be.

    Raises:
        CammsrError: The file is missing, damaged, not a data set, or of another schema.
    """
    with _reading(path) as (file, _):
        check_layout(file, path)
        yield file


@contextmanager
def _reading(path: Path) -> Iterator[tuple[h5py.File, CheckedFile]]:
    """An HDF5 file that says it is a data set, and what it is read through.

    Whatever h5py raises in the block is told as damage to the file.
    """
    if path.is_dir():
        raise CammsrError(
            f"{path} is a folder, not a data set", "Name the .h5 file that cammsr prepare made"
        )
    if not path.is_file():
        raise CammsrError(f"no such data set: {path}", "Make one with: cammsr prepare --help")
    with closing(CheckedFile(path)) as source:
        try:
            file = h5py.File(source, "r")
        except _OF_H5PY as error:
            raise source.damage or CammsrError(
                f"{path} is not a readable HDF5 file: it is damaged, cut short or something "
                f"else ({_short(error)})",
                "Make it again with: cammsr prepare",
            ) from error
        with file:
            try:
                _require_ours(file, source)
                yield file, source
            except _OF_H5PY as error:
                if source.damage is None and not _by_h5py(error):
                    raise
                raise source.damage or DamagedDataError(path, first_line(error)) from error


def _require_ours(file: h5py.File, source: CheckedFile) -> None:
    """Refuse what does not say that it is a data set of our schema, or has lost its checksums."""
    path, found = source.path, file.attrs.get("schema")
    if "content" not in file.attrs or not isinstance(found, int | np.integer):
        raise CammsrError(
            f"{path} is an HDF5 file but not a cammsr data set",
            "Make one with: cammsr prepare --help",
        )
    if int(found) != SCHEMA:
        raise CammsrError(
            f"{path} has data set schema {int(found)}, written by "
            f"{file.attrs.get('tool', 'an unknown tool')}; this is cammsr {__version__}, "
            f"which reads schema {SCHEMA}",
            "Make it again with this version: cammsr prepare --force",
        )
    if "checksums" in file.attrs and not source.checked:
        raise DamagedDataError(
            path, "its checksums are missing: it is damaged, cut short or changed by another tool"
        )


def _by_h5py(error: BaseException) -> bool:
    """Whether h5py raised it, not what we do with what was read."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "h5py" in Path(frames[-1]).parts


def _escaped(name: str) -> str:
    """A column's name as a name in HDF5, where "/", "." and NUL have a meaning."""
    for character, escape in (("%", "%25"), ("/", "%2F"), (".", "%2E"), ("\0", "%00")):
        name = name.replace(character, escape)
    return name


def _write_texts(file: h5py.File, name: str, values: Sequence[str | None]) -> None:
    stored = file.create_dataset(name, len(values), _TEXT)
    for start in range(0, len(values), _PIECE_TEXTS):
        some = values[start : start + _PIECE_TEXTS]
        stored[start : start + len(some)] = np.array([one or "" for one in some], dtype=_TEXT)


def _read_strings(dataset: h5py.Dataset) -> list[str]:
    values: list[str] = dataset.asstr()[()].tolist()
    return values


def digest(file: h5py.File) -> str:
    """SHA-256 over the names and values of all that is in the file so far."""
    found = hashlib.sha256()

    def add(name: str, node: h5py.Group | h5py.Dataset) -> None:
        found.update(f"{name}\0{sorted(node.attrs.items())}\0".encode())
        if isinstance(node, h5py.Dataset):
            is_text = h5py.check_string_dtype(node.dtype) is not None
            found.update(f"{node.dtype}{node.shape}\0".encode())
            size = _PIECE_BYTES // _PIECE_TEXTS if is_text else node.nbytes // max(1, len(node))
            for piece in pieces(len(node), size):
                value = node[piece]
                between = b"\0" if is_text and piece.start else b""
                found.update(between + (b"\0".join(value.tolist()) if is_text else value.tobytes()))

    file.visititems(add)
    return found.hexdigest()


def _short(error: Exception) -> str:
    return str(error).split("(")[-1].rstrip(")") or "unreadable"
