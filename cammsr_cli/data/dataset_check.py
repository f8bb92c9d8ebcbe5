"""Checks of a data set's file, whoever made it.

`check_layout` checks names, types and shapes only, so it is quick even if the file is large. The
other functions check the values of an array when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from cammsr_encoders.protocol import MODALITY_NAME
from numpy.typing import NDArray

from cammsr_cli.data.checksums import DamagedDataError
from cammsr_cli.data.splits import TEST

_TEXT, _VECTORS = "texts", "float16 or float32"
_PLACE_OF_A_TEXT = 16  # bytes in HDF5 for the length and the address of a text
_DEEPEST = 3  # features/<modality>/values
_ATTRIBUTES = ("encoder", "fingerprint", "fields")

# Name to type and shape. A letter stands for a size, and is the same size in all shapes.
_ARRAYS = {
    "users/id": (_TEXT, "U"),
    "items/id": (_TEXT, "N"),
    "items/categories/names": (_TEXT, "C"),
    "items/categories/indptr": ("int64", "N+1"),
    "items/categories/index": ("int32", "L"),
    "events/indptr": ("int64", "U+1"),
    "events/item": ("int32", "E"),
    "events/time": ("int64", "E"),
    "splits/leave_one_out": ("uint8", "E"),
}
_WHERE_THERE_ARE_ANY = {
    "events/tied": ("bool", "E"),
    "events/weight": ("float32", "E"),
    "events/rejected_indptr": ("int64", "U+1"),
    "events/rejected_item": ("int32", "J"),
    "events/rejected_place": ("int32", "J"),
}
_OF_A_MODALITY = {
    "values": (_VECTORS, "N,D"),
    "present": ("bool", "N"),
}
_OF_A_PART = {
    "values": (_VECTORS, "P,D"),
    "present": ("bool", "N"),
    "rows": ("int64", "P"),
}
_INPUTS = ("uint8", "N,32")


def check_layout(file: h5py.File, path: Path) -> None:
    """Raise if the layout of a file is not the one that `prepare` and `merge` write.

    Raises:
        DamagedDataError: A name is missing or is a link to another place; an array has another
            type, shape or storage layout; an attribute is missing or invalid.
    """
    for name, node in _nodes(file, path):
        if isinstance(node, h5py.Dataset):
            _check_storage(node, name, path)
    part = "shard" in file.attrs
    for name in ("content", "tool", "sources", *(("shard", "corpus") if part else ())):
        text_attribute(file, name, path)
    sources = _json(text_attribute(file, "sources", path), "sources", path)
    if not isinstance(sources, dict) or not all(isinstance(one, str) for one in sources.values()):
        raise DamagedDataError(path, "the attribute sources is not a table of files and digests")
    if "decisions" in file.attrs:
        decisions = _json(text_attribute(file, "decisions", path), "decisions", path)
        pairs = isinstance(decisions, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, str) for one in pair)
            for pair in decisions
        )
        if not pairs:
            raise DamagedDataError(path, "the attribute decisions is not a table of texts")
    sizes: dict[str, int] = {}
    for name, (kind, shape) in _ARRAYS.items():
        _check_array(file, name, kind, shape, sizes, path)
    there = [name for name in _WHERE_THERE_ARE_ANY if name in file]
    if any(name.startswith("events/rejected_") for name in there):
        there = sorted({*there, "events/rejected_indptr", "events/rejected_item"})
    for name in there:
        _check_array(file, name, *_WHERE_THERE_ARE_ANY[name], sizes, path)
    if part:
        _check_array(file, "problems", _TEXT, "R", sizes, path)
    for name in _children(file, "items/fields", path):
        _check_array(file, f"items/fields/{name}", _TEXT, "N", sizes, path)
    for modality in _children(file, "features", path):
        _check_modality(file, modality, part, sizes, path)


def check_indptr(indptr: NDArray[np.int64], end: int, name: str, path: Path) -> None:
    """Raise if CSR offsets do not rise from 0 to `end`.

    Raises:
        DamagedDataError: They do not.
    """
    if indptr[0] != 0 or indptr[-1] != end or bool((indptr[1:] < indptr[:-1]).any()):
        raise DamagedDataError(path, f"{name} does not rise from 0 to {end:,}")


def check_index(index: NDArray[np.integer], count: int, name: str, path: Path) -> None:
    """Raise if an index is not from 0 to `count` - 1.

    Raises:
        DamagedDataError: One is negative or too large.
    """
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < count:
        at = int(np.flatnonzero((index < 0) | (index >= count))[0])
        raise DamagedDataError(
            path, f"{name} holds {int(index[at]):,} at {at:,}, where there are {count:,}"
        )


def falls(time: NDArray[np.int64], indptr: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an event is earlier than the previous one, [E - 1]; False for a user's first."""
    back: NDArray[np.bool_] = time[1:] < time[:-1]
    starts = indptr[1:-1]
    back[starts[(starts > 0) & (starts < len(time))] - 1] = False
    return back


def check_times(time: NDArray[np.int64], indptr: NDArray[np.int64], name: str, path: Path) -> None:
    """Raise if a user's events are not in time order.

    Raises:
        DamagedDataError: They are not.
    """
    back = falls(time, indptr)
    if bool(back.any()):
        raise DamagedDataError(path, f"{name} falls within a user at {int(np.argmax(back)) + 1:,}")


def check_weights(weight: NDArray[np.float32], name: str, path: Path) -> None:
    """Raise if a weight is not a finite number above 0.

    Raises:
        DamagedDataError: One is not.
    """
    wrong = ~(np.isfinite(weight) & (weight > 0))
    if bool(wrong.any()):
        at = int(np.argmax(wrong))
        raise DamagedDataError(path, f"{name} holds {weight[at]} at {at:,}, which is no weight")


def check_parts(part: NDArray[np.uint8], name: str, path: Path) -> None:
    """Raise if a part is none of training, validation and test.

    Raises:
        DamagedDataError: One is none of them.
    """
    check_index(part, TEST + 1, name, path)


def text_attribute(node: h5py.Group, name: str, path: Path) -> str:
    """Read an attribute that must be a text.

    Raises:
        DamagedDataError: It is missing or not a text.
    """
    value = node.attrs.get(name)
    if not isinstance(value, str):
        raise DamagedDataError(path, f"the attribute {name} of {node.name} is not a text")
    return value


def names_of_fields(group: h5py.Group, path: Path) -> tuple[str, ...]:
    """The item fields that a modality was made from.

    Raises:
        DamagedDataError: The attribute is not a list of names.
    """
    fields = _json(text_attribute(group, "fields", path), f"fields of {group.name}", path)
    if not isinstance(fields, list) or not all(isinstance(one, str) for one in fields):
        raise DamagedDataError(path, f"the attribute fields of {group.name} is not a list of names")
    return tuple(fields)


def _nodes(
    group: h5py.Group, path: Path, path_so_far: str = "", depth: int = 1
) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """All nodes in a group with their names; a link to another place raises an error."""
    for child in group:
        name = f"{path_so_far}{child}"
        if not isinstance(group.get(child, getlink=True), h5py.HardLink):
            raise DamagedDataError(
                path, f"{name} is a link to somewhere else, which is not followed"
            )
        node = group[child]
        if isinstance(node, h5py.Group):
            if depth == _DEEPEST:
                raise DamagedDataError(path, f"{name} is a group where none belongs")
            yield from _nodes(node, path, f"{name}/", depth + 1)
        elif not isinstance(node, h5py.Dataset):
            raise DamagedDataError(path, f"{name} is neither an array nor a group")
        yield name, node


def _check_storage(node: h5py.Dataset, name: str, path: Path) -> None:
    """Raise unless an array is complete, contiguous, without a filter, and in this file.

    Other storage is not safe to read from a file of unknown origin.
    """
    made = node.id.get_create_plist()
    if made.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or made.get_nfilters():
        raise DamagedDataError(
            path, f"{name} is not stored in one piece without a filter, as cammsr stores it"
        )
    if made.get_external_count():
        raise DamagedDataError(path, f"{name} is stored in another file, which is not read")
    if node.shape is None or not node.shape:
        raise DamagedDataError(path, f"{name} is not an array")
    size = _PLACE_OF_A_TEXT if _is_of(node.dtype, _TEXT) else node.dtype.itemsize
    if node.id.get_storage_size() != node.size * size:
        raise DamagedDataError(path, f"{name} is not as long as its shape says: {node.shape}")


def _check_array(
    file: h5py.Group, name: str, kind: str, shape: str, sizes: dict[str, int], path: Path
) -> None:
    """Check an array's type, and its shape against the sizes in `sizes`, which it extends."""
    node = file.get(name)
    if not isinstance(node, h5py.Dataset):
        raise DamagedDataError(path, f"the array {name} is missing")
    if not _is_of(node.dtype, kind):
        raise DamagedDataError(path, f"{name} holds {node.dtype.str}, not {kind}")
    letters = shape.split(",")
    if len(node.shape) != len(letters):
        raise DamagedDataError(path, f"{name} has the shape {node.shape}, not ({shape})")
    for letter, size in zip(letters, node.shape, strict=True):
        base, _, more = letter.partition("+")
        expected = int(base) if base.isdigit() else sizes.setdefault(base, size - int(more or 0))
        if size != expected + int(more or 0):
            raise DamagedDataError(
                path,
                f"{name} has the shape {node.shape}, where ({shape}) is to be, "
                f"and {base} is {expected:,}",
            )


def _check_modality(
    file: h5py.File, modality: str, part: bool, sizes: Mapping[str, int], path: Path
) -> None:
    group = file[f"features/{modality}"]
    if not MODALITY_NAME.fullmatch(modality) or modality == "id":
        raise DamagedDataError(path, f"features/{modality} is no name of a modality")
    for name in _ATTRIBUTES:
        text_attribute(group, name, path)
    names_of_fields(group, path)
    own = dict(sizes)
    for name, (kind, shape) in (_OF_A_PART if part else _OF_A_MODALITY).items():
        _check_array(file, f"features/{modality}/{name}", kind, shape, own, path)
    if "inputs" in group:
        _check_array(file, f"features/{modality}/inputs", *_INPUTS, own, path)


def _children(file: h5py.File, name: str, path: Path) -> list[str]:
    group = file.get(name)
    if not isinstance(group, h5py.Group):
        raise DamagedDataError(path, f"the group {name} is missing")
    return list(group)


def _is_of(dtype: np.dtype[Any], kind: str) -> bool:
    if kind == _TEXT:
        text = h5py.check_string_dtype(dtype)
        return text is not None and text.encoding == "utf-8" and text.length is None
    if kind == _VECTORS:
        return dtype in (np.dtype("<f2"), np.dtype("<f4"))
    return dtype == np.dtype(kind).newbyteorder("<")


def _json(text: str, name: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamagedDataError(path, f"the attribute {name} is not JSON") from error
