"""An array on disk whose rows are written in any order; memory use does not grow with its size.

A memory-mapped file is not suitable: each touched page counts as memory of this process.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.files import IN_CACHE, refusals_named


class RowFile:
    """An array [N, D], initially zeros, in an unnamed file that is freed with this object.

    Args:
        folder: A folder on the disk to use; the disk must have room for the whole array.
        shape: N and D.
        dtype: Type of the values.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], dtype: str) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._row_bytes = shape[1] * self.dtype.itemsize
        self._file, name = tempfile.mkstemp(dir=folder, prefix=".vectors.")
        weakref.finalize(self, os.close, self._file)
        Path(name).unlink()  # the content exists as long as the file is open
        self._folder = folder
        with refusals_named(folder, IN_CACHE):
            os.truncate(self._file, shape[0] * self._row_bytes)

    def __len__(self) -> int:
        return self.shape[0]

    def __setitem__(self, rows: NDArray[np.int64], vector: NDArray[Any]) -> None:
        """Write one vector [D] to some rows.

        Raises:
            CammsrError: If the system refuses the write, for example because the disk is full.
        """
        content = vector.tobytes()
        for row in rows.tolist():
            done = 0
            while done < len(content):  # a write that fills the disk is partial, the next fails
                with refusals_named(self._folder, IN_CACHE):
                    done += os.pwrite(self._file, content[done:], row * self._row_bytes + done)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Read consecutive rows from the file: [n, D]."""
        start, stop, _ = rows.indices(len(self))
        found = np.empty((max(0, stop - start), self.shape[1]), self.dtype)
        done = os.preadv(self._file, [found.data], start * self._row_bytes)
        if done != found.nbytes:
            raise OSError(f"a read of the temporary file ended after {done} bytes")
        return found
