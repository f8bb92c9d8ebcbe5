"""Checksums of a data set's file, and a reader that checks every byte before it returns it.

The header of the HDF5 content gives its end. After it follow the SHA-256 digests of its pieces of
1 MiB each, and then a trailer that marks the checksums:

    length   uint64, little-endian: bytes of the HDF5 content
    root     SHA-256 of that number and all digests
    MARK     16 bytes

HDF5 reads through `CheckedFile`, which hashes only the requested pieces. To read a few users'
events it hashes a few pieces. A damaged byte is reported before HDF5 processes it.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from cammsr_cli.errors import CammsrError, typed

PIECE = 1 << 20
MARK = b"cammsr sums 1.0\n"
_DIGEST = hashlib.sha256().digest_size
_TAIL = 8 + _DIGEST + len(MARK)


class DamagedDataError(CammsrError):
    """A data set, or a part of one, is damaged or holds invalid values.

    Args:
        path: The file.
        what: The damage or the invalid value, and its place.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"{path} is damaged: {what}",
            "Make it again as it was made: cammsr prepare ... "
            f"--out {typed(path)} --force; what was encoded is in the cache",
        )


def add_checksums(path: Path) -> None:
    """Append the checksums of an HDF5 file to its content."""
    with path.open("rb+") as stream:
        digests = b"".join(hashlib.sha256(piece).digest() for piece in _pieces(stream))
        length = stream.tell().to_bytes(8, "little")
        stream.write(digests + length + _root(digests, length) + MARK)


def has_mark(path: Path) -> bool:
    """Whether a file ends with the mark of checksums."""
    with path.open("rb") as stream:
        return _tail(stream).endswith(MARK)


class CheckedFile(io.RawIOBase):
    """A file for HDF5 to read; each piece is checked before any of its bytes is returned.

    Attributes:
        checked: Whether the file has checksums; a file from an older cammsr has none.

    Raises:
        DamagedDataError: The checksums themselves are damaged. Reading raises it if a piece is
            damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)  # numpy reads this attribute
        self._damage = ""
        self._stream = path.open("rb", buffering=0)
        try:
            self._length, self._digests = self._checksums()
        except BaseException:
            self._stream.close()
            raise
        self.checked = self._digests is not None
        self._held: tuple[int, bytes] = -1, b""
        self._place = 0

    def _checksums(self) -> tuple[int, bytes | None]:
        """Length of the content in bytes, and the digests of its pieces; None without checksums."""
        size = self._stream.seek(0, os.SEEK_END)
        tail = _tail(self._stream)
        if not tail.endswith(MARK):
            return size, None
        length, root = tail[:8], tail[8 : 8 + _DIGEST]
        content = int.from_bytes(length, "little")
        count = -(-content // PIECE)
        if content + count * _DIGEST + _TAIL != size:
            raise DamagedDataError(self.path, "its checksums are not as long as they were written")
        self._stream.seek(content)
        digests = _read(self._stream, count * _DIGEST)
        if _root(digests, length) != root:
            raise DamagedDataError(self.path, "its checksums are not those that were written")
        return content, digests

    @property
    def damage(self) -> DamagedDataError | None:
        """The damage found while reading, if any: HDF5 may not pass errors on.

        Each call makes a new error. A stored error would keep HDF5's objects alive through its
        traceback. If these outlive HDF5, the process ends with a segmentation fault.
        """
        return DamagedDataError(self.path, self._damage) if self._damage else None

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte of the content; `SEEK_END` is the end of the content, not of the file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._length}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        """The position of the next byte to read."""
        return self._place

    def fileno(self) -> int:
        """The file descriptor, for memory mapping."""
        return self._stream.fileno()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Read checked bytes."""
        view = memoryview(buffer).cast("B")
        stop = min(self._place + len(view), self._length)
        done = 0
        while self._place < stop:
            number, start = divmod(self._place, PIECE)
            some = self._piece(number)[start : start + stop - self._place]
            if not some:
                break  # the file was shortened while it was open
            view[done : done + len(some)] = some
            done += len(some)
            self._place += len(some)
        return done

    def check(self, start: int = 0, stop: int | None = None) -> None:
        """Compare the pieces from byte `start` to byte `stop`, or to the end, with their digests.

        Raises:
            DamagedDataError: A piece differs from its digest.
        """
        stop = self._length if stop is None else stop
        for number in range(start // PIECE, -(-stop // PIECE)):
            self._piece(number)

    def _piece(self, number: int) -> bytes:
        """Read and check one piece; the last one is kept, as HDF5 reads a few bytes at a time."""
        if self._held[0] == number:
            return self._held[1]
        first = number * PIECE
        self._stream.seek(first)
        piece = _read(self._stream, min(PIECE, self._length - first))
        if self._digests is not None:
            expected = self._digests[number * _DIGEST : (number + 1) * _DIGEST]
            if hashlib.sha256(piece).digest() != expected:
                last = min(first + PIECE, self._length) - 1
                self._damage = f"bytes {first:,} to {last:,} are not those that were written"
                raise DamagedDataError(self.path, self._damage)
        self._held = number, piece
        return piece


def _root(digests: bytes, length: bytes) -> bytes:
    return hashlib.sha256(length + digests).digest()


def _tail(stream: io.RawIOBase | io.BufferedReader) -> bytes:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _TAIL))
    return _read(stream, _TAIL)


def _pieces(stream: io.BufferedRandom) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        yield piece


def _read(stream: io.RawIOBase | io.BufferedReader, count: int) -> bytes:
    """Read `count` bytes, or all that are left: one system call may return fewer."""
    read = bytearray()
    while some := stream.read(count - len(read)):
        read += some
    return bytes(read)
