"""A prepared data set with something taken away or made wrong, to ask what that costs.

Each variant is a copy: the file it is made of stays as it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cammsr_cli.data.checksums import add_checksums
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.dataset_write import seal
from cammsr_cli.data.splits import TRAIN
from cammsr_cli.files import written_whole


def variant(source: Path, out: Path, change: Callable[[h5py.File], None]) -> Path:
    """Write a changed copy of a data set to `out`, unless it is there."""
    if not out.is_file():
        with written_whole(out) as partial:
            shutil.copyfile(source, partial)
            with h5py.File(partial, "r+") as file:
                sources = str(file.attrs["sources"])
                for name in ("content", "schema", "tool", "sources"):
                    del file.attrs[name]
                change(file)
                seal(file, sources, str(file.attrs.get("decisions", "[]")))
            add_checksums(partial)
    return out


def wrong_labels(share: float, seed: int) -> Callable[[h5py.File], None]:
    """Gives a random share of the labelled items the categories of an item that has others."""

    def change(file: h5py.File) -> None:
        indptr, index = file["items/categories/indptr"][:], file["items/categories/index"][:]
        own = [frozenset(index[a:b].tolist()) for a, b in pairwise(indptr)]
        labelled = np.flatnonzero(np.diff(indptr))
        generator = np.random.default_rng(seed)
        given = list(own)
        for item in generator.choice(labelled, round(share * len(labelled)), replace=False):
            while given[item] == own[item]:
                given[item] = own[generator.choice(labelled)]
        _relabel(file, given)

    return change


def no_labels(file: h5py.File) -> None:
    """Takes all categories away."""
    _relabel(file, [frozenset()] * len(file["items/id"]))


def missing(modality: str, share: float, seed: int) -> Callable[[h5py.File], None]:
    """Takes a modality from a random share of the items that have it."""

    def change(file: h5py.File) -> None:
        group = file[f"features/{modality}"]
        there = np.flatnonzero(group["present"][:])
        drawn = np.random.default_rng(seed).choice(there, round(share * len(there)), replace=False)
        drawn.sort()
        present, values = group["present"][:], group["values"][:]
        present[drawn], values[drawn] = False, 0
        group["present"][:], group["values"][:] = present, values

    return change


def without_training_events(items: NDArray[np.int64]) -> Callable[[h5py.File], None]:
    """Takes some items out of the training part; as validation and test targets they stay."""

    def change(file: h5py.File) -> None:
        part = file["splits/leave_one_out"][:]
        kept = ~(np.isin(file["events/item"][:], items) & (part == TRAIN))
        before = np.concatenate([[0], np.cumsum(kept)])
        indptr = before[file["events/indptr"][:]]
        _replace(file, "events/indptr", indptr.astype(np.int64))
        for name in ("events/item", "events/time", "splits/leave_one_out"):
            _replace(file, name, file[name][:][kept])

    return change


def drawn_items(data: DataSet, share: float, seed: int) -> NDArray[np.int64]:
    """A random share of the items that have training events, rising."""
    trained = np.unique(data.event_item[data.event_part == TRAIN])
    chosen = np.random.default_rng(seed).choice(trained, round(share * len(trained)), replace=False)
    return np.sort(chosen).astype(np.int64)


def _relabel(file: h5py.File, given: list[frozenset[int]]) -> None:
    counts = [len(one) for one in given]
    _replace(file, "items/categories/indptr", np.concatenate([[0], np.cumsum(counts)]))
    index = np.array([c for one in given for c in sorted(one)], dtype=np.int32)
    _replace(file, "items/categories/index", index)


def _replace(file: h5py.File, name: str, values: NDArray[Any]) -> None:
    dtype = file[name].dtype
    del file[name]
    file[name] = values.astype(dtype)


def record(file: Path, figures: dict[str, Any]) -> None:
    """Keep figures as JSON, whole or not at all."""
    with written_whole(file) as partial:
        partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
