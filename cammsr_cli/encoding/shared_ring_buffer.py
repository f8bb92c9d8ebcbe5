"""A ring buffer in shared memory, through which one process sends large values to another.

A decoded sample has one or a few megabytes. A socket would copy it four times, in pieces; the ring
copies it once in and once out. If the ring is full or not available, values are sent through the
socket: no process ever waits for the ring.
"""

from __future__ import annotations

import mmap
import os
import pickle
from dataclasses import dataclass
from typing import Any

RING_BYTES = 16 * 2**20
"""Size per decoding process; the operating system allocates only the pages in use."""

_TAKEN_BYTES = 8
_ALIGNED = 64


@dataclass(frozen=True)
class Spilt:
    """A value with some of its parts in the ring.

    Attributes:
        rest: The pickle of everything else.
        parts: Start and length of each part, in bytes.
        end: Total bytes put into the ring since its creation, including this value.
    """

    rest: bytes
    parts: list[tuple[int, int]]
    end: int


class Ring:
    """A queue in shared memory: one process puts values in, another takes them out in order.

    Args:
        file: Descriptor of a memory file that both processes have open; None creates one.

    Raises:
        OSError: The memory is not available.
    """

    def __init__(self, file: int | None = None) -> None:
        if file is None:
            file = os.memfd_create("cammsr")
            os.ftruncate(file, _TAKEN_BYTES + RING_BYTES)
        self.file = file
        self._memory = mmap.mmap(file, _TAKEN_BYTES + RING_BYTES)
        self._taken = memoryview(self._memory)[:_TAKEN_BYTES].cast("q")
        self._content = memoryview(self._memory)[_TAKEN_BYTES:]
        self._filled = 0

    def put(self, value: Any) -> Spilt | None:
        """Put the large parts of a value in; return None if it has none or there is no room."""
        buffers: list[pickle.PickleBuffer] = []
        rest = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        if not buffers:
            return None
        parts: list[tuple[int, int]] = []
        end = self._filled
        for raw in (buffer.raw() for buffer in buffers):
            begin = end + -end % _ALIGNED
            if begin % RING_BYTES + raw.nbytes > RING_BYTES:  # must be contiguous: use the start
                begin += -begin % RING_BYTES
            end = begin + raw.nbytes
            if end - self._taken[0] > RING_BYTES:
                return None
            parts.append((begin % RING_BYTES, raw.nbytes))
            self._content[begin % RING_BYTES :][: raw.nbytes] = raw
        self._filled = end
        return Spilt(rest, parts, end)

    def take(self, spilt: Spilt) -> Any:
        """Return the value; copy its parts out of the ring, and free their space."""
        parts = [bytearray(self._content[begin:][:length]) for begin, length in spilt.parts]
        self._taken[0] = spilt.end
        return pickle.loads(spilt.rest, buffers=parts)  # noqa: S301 - from a process of our own

    def close(self) -> None:
        """Release the memory in this process."""
        self._taken.release()
        self._content.release()
        self._memory.close()
        os.close(self.file)
