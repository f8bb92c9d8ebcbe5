"""The HDF5 file of a data set: how it is opened and hashed, and how its texts are stored."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import h5py
import numpy as np

from cammsr_cli import __version__
from cammsr_cli.data.checksums import CheckedFile, DamagedDataError
from cammsr_cli.data.dataset_check import check_layout
from cammsr_cli.errors import CammsrError, first_line

SCHEMA = 1

TEXT = h5py.string_dtype("utf-8")
# Size of the pieces that are written, read and hashed: bytes of numbers, and number of texts.
PIECE_BYTES, PIECE_TEXTS = 2**24, 2**16
OF_H5PY = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a data set, or a part of one, for reading, and check its layout.

    Raises:
        CammsrError: The file is missing, damaged, not a data set, or of another schema.
    """
    with reading(path) as (file, _):
        check_layout(file, path)
        yield file


@contextmanager
def reading(path: Path) -> Iterator[tuple[h5py.File, CheckedFile]]:
    """Open an HDF5 file that is marked as a data set, and yield it with its `CheckedFile`.

    An error of h5py in the block is reported as damage to the file.
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
        except OF_H5PY as error:
            raise source.damage or CammsrError(
                f"{path} is not a readable HDF5 file: it is damaged, cut short or something "
                f"else ({_short(error)})",
                "Make it again with: cammsr prepare",
            ) from error
        with file:
            try:
                _require_ours(file, source)
                yield file, source
            except OF_H5PY as error:
                if source.damage is None and not _by_h5py(error):
                    raise
                raise source.damage or DamagedDataError(path, first_line(error)) from error


def _require_ours(file: h5py.File, source: CheckedFile) -> None:
    """Raise if a file is not marked as a data set of our schema, or has lost its checksums."""
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
    """Whether h5py raised the error, not our own code in the block."""
    frames = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return "h5py" in Path(frames[-1]).parts


def _short(error: Exception) -> str:
    return str(error).split("(")[-1].rstrip(")") or "unreadable"


def pieces(length: int, row_bytes: int) -> Iterator[slice]:
    """Split an array's rows into slices of about 16 MB."""
    step = max(1, PIECE_BYTES // max(1, row_bytes))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def escaped(name: str) -> str:
    """Escape a column's name for HDF5, where "/", "." and NUL have a meaning."""
    for character, escape in (("%", "%25"), ("/", "%2F"), (".", "%2E"), ("\0", "%00")):
        name = name.replace(character, escape)
    return name


def read_strings(dataset: h5py.Dataset) -> list[str]:
    """All texts of an array."""
    values: list[str] = dataset.asstr()[()].tolist()
    return values


def digest(file: h5py.File) -> str:
    """SHA-256 over the names and values of everything that the file holds so far."""
    found = hashlib.sha256()

    def add(name: str, node: h5py.Group | h5py.Dataset) -> None:
        found.update(f"{name}\0{sorted(node.attrs.items())}\0".encode())
        if isinstance(node, h5py.Dataset):
            is_text = h5py.check_string_dtype(node.dtype) is not None
            found.update(f"{node.dtype}{node.shape}\0".encode())
            size = PIECE_BYTES // PIECE_TEXTS if is_text else node.nbytes // max(1, len(node))
            for piece in pieces(len(node), size):
                value = node[piece]
                between = b"\0" if is_text and piece.start else b""
                found.update(between + (b"\0".join(value.tolist()) if is_text else value.tobytes()))

    file.visititems(add)
    return found.hexdigest()
