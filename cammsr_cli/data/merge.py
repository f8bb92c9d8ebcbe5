"""Joining the parts that `prepare --shard` wrote, into the data set that one process would make.

Legend: N items, D a modality's dim.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cammsr_cli.data.dataset import ModalityInfo
from cammsr_cli.data.dataset_file import opened
from cammsr_cli.data.dataset_write import ModalityVectors, new_file, seal, write_modality
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.files import refusals_named

ItemProblem = tuple[str, str, str | None, str]
"""An item that could not be encoded: item, modality, path, reason."""


@dataclass(frozen=True)
class Merged:
    """The result of joining parts.

    Attributes:
        items: N.
        present: Items that have each modality.
        problems: The items that could not be encoded, in the catalogue's order.
    """

    items: int
    present: dict[str, int]
    problems: list[ItemProblem]


def merge(paths: Sequence[Path], out: Path) -> Merged:
    """Write one data set from all its parts: the file is complete, or it is not there.

    Args:
        paths: The parts, in any order.
        out: The data set to write.

    Raises:
        UsageError: A part is missing or given twice, or a file is not a part.
        CammsrError: The parts are not from the same data set, or one cannot be read.
    """
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is given twice")
    with ExitStack() as stack:
        parts = {path: stack.enter_context(opened(path)) for path in paths}
        _require_complete(parts)
        _require_alike(parts)
        first, *_ = parts.values()
        present: dict[str, int] = {}
        with refusals_named(out), new_file(out) as file:
            for name in ("users", "items", "events", "splits"):
                first.copy(first[name], file, name)
            for name in first["features"]:
                modality = _joined([part[f"features/{name}"] for part in parts.values()])
                write_modality(file, name, modality)
                present[name] = int(modality.present.sum())
            seal(file, str(first.attrs["sources"]), str(first.attrs.get("decisions", "[]")))
        return Merged(len(first["items/id"]), present, _problems(list(parts.values())))


def _require_complete(parts: dict[Path, h5py.File]) -> None:
    """Raise unless the parts are 1/n to n/n, each once."""
    known: dict[str, Path] = {}
    for path, file in parts.items():
        if "shard" not in file.attrs:
            raise UsageError(
                f"{path} is a whole data set, not a part of one",
                "Parts are written by: cammsr prepare --shard i/n",
            )
        shard = str(file.attrs["shard"])
        if shard in known:
            raise UsageError(f"{known[shard]} and {path} are the same part, {shard}")
        known[shard] = path
    counts = {int(shard.partition("/")[2]) for shard in known}
    if len(counts) > 1:
        raise UsageError(
            f"the parts are of {' and of '.join(map(str, sorted(counts)))} parts in all",
            "Give those of one number: cammsr merge DATA.*-of-N.h5 --out DATA.h5",
        )
    for count in counts:
        missing = [f"{one}/{count}" for one in range(1, count + 1) if f"{one}/{count}" not in known]
        if missing:
            raise UsageError(
                f"of {count} parts {len(missing)} are missing: {', '.join(missing[:8])}",
                f"Make each with: cammsr prepare ... --shard {missing[0]}",
            )


def _require_alike(parts: dict[Path, h5py.File]) -> None:
    """Raise unless all parts have the same raw files, the same options and the same encoders."""
    (first_path, first), *others = parts.items()
    for path, file in others:
        for what, of_first, of_this in (
            ("users, items or events", first.attrs["corpus"], file.attrs["corpus"]),
            ("raw files", first.attrs["sources"], file.attrs["sources"]),
            ("version of the tool", first.attrs["tool"], file.attrs["tool"]),
            ("modalities", list(first["features"]), list(file["features"])),
        ):
            if of_first != of_this:
                raise _unlike(first_path, path, what)
        for name, group in first["features"].items():
            other = file[f"features/{name}"]
            if dict(group.attrs) != dict(other.attrs):
                raise _unlike(first_path, path, f"encoder of {name}, or its options")
            if group["values"].dtype != other["values"].dtype:
                raise _unlike(first_path, path, f"--dtype of {name}")
            if not _equal(_inputs(group), _inputs(other)):
                raise _unlike(
                    first_path, path, f"texts or media files for {name}",
                    "Where media are URLs, some may have failed for one part alone: share "
                    "CAMMSR_CACHE_DIR and, once a run has downloaded, add --no-download to all",
                )  # fmt: skip


def _equal(one: NDArray[np.uint8] | None, other: NDArray[np.uint8] | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _unlike(first: Path, other: Path, what: str, more: str = "") -> CammsrError:
    hint = "Make all parts from the same files with the same options, but for --shard"
    return CammsrError(
        f"{first} and {other} are not parts of one data set: they differ in {what}",
        f"{hint}. {more}" if more else hint,
    )


def _joined(groups: list[h5py.Group]) -> ModalityVectors:
    first = groups[0]
    values = _Joined(groups, len(first["present"]))
    present = np.logical_or.reduce([group["present"][()] for group in groups])
    return ModalityVectors(values, present, ModalityInfo.of(first), _inputs(first))


def _inputs(group: h5py.Group) -> NDArray[np.uint8] | None:
    inputs: NDArray[np.uint8] | None = group["inputs"][()] if "inputs" in group else None
    return inputs


class _Joined:
    """The values [N, D] of all parts of a modality, read in slices of rows."""

    def __init__(self, groups: list[h5py.Group], items: int) -> None:
        self.parts = [(group["rows"][()], group["values"]) for group in groups]
        self.shape = items, int(groups[0]["values"].shape[1])
        self.dtype: np.dtype[Any] = groups[0]["values"].dtype

    def __getitem__(self, piece: slice) -> NDArray[Any]:
        start, stop, _ = piece.indices(self.shape[0])
        found = np.zeros((stop - start, self.shape[1]), self.dtype)
        for rows, values in self.parts:
            low, high = np.searchsorted(rows, [start, stop])
            if low < high:
                found[rows[low:high] - start] = values[low:high]
        return found


def _problems(parts: list[h5py.File]) -> list[ItemProblem]:
    """The problems of all parts, in the catalogue's order, deduplicated.

    All parts report the missing files, perhaps with different reasons. One part also reports the
    later problems of the item, so its list of reasons is the longest and is the one that is kept.
    """
    reasons_of: dict[tuple[str, str, str | None], list[str]] = {}
    for part in parts:
        seen: dict[tuple[str, str, str | None], list[str]] = {}
        for one in part["problems"].asstr()[()]:
            item, modality, path, reason = json.loads(one)
            seen.setdefault((item, modality, path), []).append(reason)
        for what, reasons in seen.items():
            reasons_of[what] = max(reasons_of.get(what, []), reasons, key=len)
    named = {item for item, _, _ in reasons_of}
    ids = parts[0]["items/id"].asstr()[()] if named else []
    place = {item: row for row, item in enumerate(ids) if item in named}
    problems = [(*what, reason) for what, reasons in reasons_of.items() for reason in reasons]
    return sorted(problems, key=lambda problem: (place[problem[0]], problem[1]))
