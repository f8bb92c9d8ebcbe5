"""The prepared data set: one HDF5 file that `prepare` writes and everything else reads.

Layout (schema 1), U users, N items, E events, C categories:

    /                       schema, tool, content (SHA-256 of all below), sources (JSON), decisions
                            (JSON, how the raw files were read)
    /users/id               [U] str
    /items/id               [N] str
    /items/fields/<name>    [N] str, empty where missing: title, description, image, video, ...
    /items/categories       names [C] str, indptr [N+1] int64, index int32 (CSR, multi-label)
    /events                 indptr [U+1] int64 (CSR by user), item [E] int32, time [E] int64
                            (seconds). Events are in time order, and ties are in file order; if
                            the attribute `order` is "file", all are in the raw file's order.
                            tied [E] bool, whether the order of an event and the same user's
                            previous event is unknown; missing if equal seconds show it.
                            weight [E] float32, weight of an event in the loss; missing if all
                            weigh alike. rejected_indptr [U+1] int64, rejected_item and
                            rejected_place int32 (CSR by user): the items that users rejected
                            or rated too low, and how many of the user's events came before
                            that; missing if there are none
    /splits/leave_one_out   [E] uint8: 0 train, 1 validation, 2 test
    /features/<modality>    values [N, dim] float16 or float32, present [N] bool;
                            inputs [N, 32] uint8, SHA-256 of the encoded input, if it is known;
                            attributes encoder, fingerprint, fields

A part is a shard of a data set: `prepare --shard` writes it and `merge` joins the parts. It has
these differences: attributes shard ("2/8") and corpus (SHA-256 of everything except features);
/problems [P] str, JSON; in /features/<modality>, values [n, dim] hold only the items in rows [n]
int64.

All arrays are contiguous and without filters. Checksums follow the HDF5 content (`checksums.py`),
as the attribute `checksums` states. A file from an older cammsr without checksums is also read, and
`DataSet.remarks` reports it.

Each read opens the file, reads the requested values and closes the file. No handle outlives a call,
so a `DataSet` may be sent to other processes. Each read checks that the file was not replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
from numpy.typing import NDArray

from cammsr_cli.data.checksums import CheckedFile, DamagedDataError
from cammsr_cli.data.dataset_check import (
    check_index,
    check_indptr,
    check_layout,
    check_parts,
    check_times,
    check_weights,
)
from cammsr_cli.data.dataset_file import digest, escaped, read_strings, reading
from cammsr_cli.errors import CammsrError, typed


@dataclass(frozen=True)
class ModalityInfo:
    """The origin of a modality's vectors.

    Attributes:
        dim: Length of a vector.
        encoder: Name of the plugin or file that made them.
        fingerprint: Everything that determines the vectors' values.
        fields: The item fields that were read.
    """

    dim: int
    encoder: str
    fingerprint: str
    fields: tuple[str, ...]

    @classmethod
    def of(cls, group: h5py.Group) -> ModalityInfo:
        """Read it from a modality's group in a data set or in a part of one."""
        return cls(
            dim=int(group["values"].shape[1]),
            encoder=str(group.attrs["encoder"]),
            fingerprint=str(group.attrs["fingerprint"]),
            fields=tuple(json.loads(str(group.attrs["fields"]))),
        )


@dataclass(frozen=True)
class Histories:
    """The events of some users, concatenated; the events of each user are in sequence order.

    Attributes:
        indptr: int64 [U + 1]; the u-th of these users has events `indptr[u]` to `indptr[u + 1]`.
        item: int32 item index of each event.
        time: int64 time of each event in seconds.
        tied: bool, whether the order of an event and the same user's previous event is unknown.
    """

    indptr: NDArray[np.int64]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    tied: NDArray[np.bool_]


class DataSet:
    """A prepared data set, read on request.

    Each read checks the values that it returns. `verify` checks the whole file.

    Args:
        path: The HDF5 file.

    Raises:
        CammsrError: The file is missing, damaged, not a data set, or of another schema. Each later
            read raises it for the same reasons, and also if the file has been replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path) as (file, source):
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
            # Older versions of cammsr wrote no decisions; their files are read too.
            self.decisions: list[list[str]] = json.loads(str(file.attrs.get("decisions", "[]")))
            self.category_names = read_strings(file["items/categories/names"])
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
        """Warnings about the file, for the user."""
        if self.checked:
            return []
        return [
            f"{self.path} was made by {self.tool}, without checksums: damage to it is noticed only "
            f"by: cammsr info {typed(self.path)} --verify"
        ]

    def verify(self) -> None:
        """Read every byte, and check every value that can be wrong.

        Raises:
            DamagedDataError: The content differs from its checksum, or a value is invalid.
        """
        with self._open() as (file, source):
            source.check()
            if digest(file) != self.content:
                raise DamagedDataError(self.path, "its content is not that of its digest")
            for name in ("users/id", "items/id"):
                ids = read_strings(file[name])
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
        """Whether the order of an event and the same user's previous event is unknown, [E]."""
        with self._open() as (file, _):
            if "events/tied" in file:
                tied: NDArray[np.bool_] = file["events/tied"][()]
                return tied
        return same_times(self.event_indptr, self.event_time)

    @cached_property
    def event_weight(self) -> NDArray[np.float32] | None:
        """Weight of each event in the loss, [E]; None if all weigh alike."""
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
        """One text field of all items; "" where it is missing."""
        if name not in self.field_names:
            return [""] * len(self.item_ids)
        return self._strings_at(f"items/fields/{escaped(name)}")

    def fields_of(self, names: Sequence[str], items: Sequence[int]) -> dict[str, list[str]]:
        """Some text fields of some items, in the order of `items`; "" where a text is missing.

        Reads no other items or fields.
        """
        found = {name: [""] * len(items) for name in names}
        rising, place = np.unique(np.array(items, dtype=np.int64), return_inverse=True)
        with self._open() as (file, _):
            for name in set(names) & set(self.field_names):
                texts = file[f"items/fields/{escaped(name)}"].asstr()
                found[name] = texts[rising][place].tolist()
        return found

    def histories(self, users: NDArray[np.int64]) -> Histories:
        """All events of some users, in the order of `users`; reads no other events.

        Args:
            users: At least one user index. Consecutive users are read in one piece.
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
        """Raise if a time decreases within a user, unless events are in the raw file's order."""
        if self._by_time:
            check_times(time, indptr, "events/time", self.path)

    def rejected(
        self, users: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The items that some users rejected, as pairs of a user and an item.

        Returns:
            Position of the user in `users`, ascending; item index; and how many of the user's
            events came before the rejection. A file from an older cammsr does not record this
            number; then it is the number of all events of the user.
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
        """Values [N, dim] and present [N] of one modality.

        The values are memory-mapped: they are read from the file when they are used, and may be
        larger than the memory.
        """
        with self._open() as (file, source):
            present: NDArray[np.bool_] = file[f"features/{modality}/present"][()]
            stored = file[f"features/{modality}/values"]
            if not stored.size:  # an empty array has no offset in the file
                return stored[()], present
            start = stored.id.get_offset()
            source.check(start, start + stored.nbytes)
            return np.memmap(source, stored.dtype, "c", start, stored.shape), present

    def present(self, modality: str) -> NDArray[np.bool_]:
        """Whether each item has a modality, [N]."""
        present: NDArray[np.bool_] = self._array(f"features/{modality}/present")
        return present

    def inputs(self, modality: str) -> NDArray[np.uint8] | None:
        """SHA-256 of each item's encoded input, [N, 32], zeros if it has none; None if unknown."""
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
            return read_strings(file[name])

    @contextmanager
    def _open(self) -> Iterator[tuple[h5py.File, CheckedFile]]:
        with reading(self.path) as (file, source):
            if file.attrs["content"] != self.content:
                raise CammsrError(
                    f"{self.path} has been replaced while it was being read",
                    "Run the command again",
                )
            yield file, source


def same_times(indptr: NDArray[np.int64], time: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an event and the user's previous event have the same time, [E].

    `indptr` is CSR by user.
    """
    same = np.zeros(len(time), dtype=np.bool_)
    same[1:] = time[1:] == time[:-1]
    same[indptr[:-1][np.diff(indptr) > 0]] = False
    return same


def _runs(indptr: NDArray[np.int64], users: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Start and end of the entries of some users; consecutive users are joined into one range.

    `indptr` is CSR by user, [U + 1].
    """
    start_U, end_U = indptr[users], indptr[users + 1]
    jumps = np.flatnonzero(start_U[1:] != end_U[:-1])
    first, past = start_U[np.append(0, jumps + 1)], end_U[np.append(jumps, -1)]
    return list(zip(first.tolist(), past.tolist(), strict=True))
