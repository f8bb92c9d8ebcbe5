"""A piece of memory that two processes share, in which one hands large values to the other.

What is decoded is a megabyte or few; through a socket it would be copied four times, piece by
piece, and here it is once in and once out. Where it is full, or cannot be had, values go another
way: nobody ever waits for it.
"""

from __future__ import annotations

import mmap
import os
import pickle
from dataclasses import dataclass
from typing import Any

RING_BYTES = 16 * 2**20
"""Of each process that decodes; a system gives what is used of it."""

_TAKEN_BYTES = 8
_ALIGNED = 64


@dataclass(frozen=True)
class Spilt:
    """A value of which some parts lie in the ring.

    Attributes:
        rest: The pickle of all else.
        parts: Begin and length of each part, in bytes.
        end: How far the ring is filled after it, counted from when it was made.
    """

    rest: bytes
    parts: list[tuple[int, int]]
    end: int


class Ring:
    """One process puts values in, another takes them out in the same order.

    Args:
        file: A file of memory, which both have open; None to make one.

    Raises:
        OSError: There is no such memory.
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
        """Put in what of a value is large; None if it has no such parts, or there is no room."""
        buffers: list[pickle.PickleBuffer] = []
        rest = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        if not buffers:
            return None
        parts: list[tuple[int, int]] = []
        end = self._filled
        for raw in (buffer.raw() for buffer in buffers):
            begin = end + -end % _ALIGNED
            if begin % RING_BYTES + raw.nbytes > RING_BYTES:  # not in one piece: from the start
                begin += -begin % RING_BYTES
            end = begin + raw.nbytes
            if end - self._taken[0] > RING_BYTES:
                return None
            parts.append((begin % RING_BYTES, raw.nbytes))
            self._content[begin % RING_BYTES :][: raw.nbytes] = raw
        self._filled = end
        return Spilt(rest, parts, end)

    def take(self, spilt: Spilt) -> Any:
        """The value, its parts copied out of the ring, where there is room for others then."""
        parts = [bytearray(self._content[begin:][:length]) for begin, length in spilt.parts]
        self._taken[0] = spilt.end
        return pickle.loads(spilt.rest, buffers=parts)  # noqa: S301 - from a process of our own

    def close(self) -> None:
        """Let go of it, in this process."""
        self._taken.release()
        self._content.release()
        self._memory.close()
        os.close(self.file)
