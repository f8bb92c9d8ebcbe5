"""SHA-256 of media files, cached between runs: a large video is read again only if it changed.

A file counts as unchanged if its path, size, inode, mtime and ctime (both in nanoseconds) are the
same. Users cannot set ctime, so a restored mtime does not hide a change. The hash of a file that
changed in the last seconds is not cached, because the file could change again within one tick of
the clock.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sqlite3
import time
from functools import lru_cache
from pathlib import Path

from cammsr_cli.errors import CammsrError
from cammsr_cli.files import sha256_of

# Coarser than the timestamps of any file system in use.
_SETTLED_NANOSECONDS = 3_000_000_000

_TABLE = (
    "CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, state TEXT NOT NULL, "
    "sha256 BLOB NOT NULL) WITHOUT ROWID"
)
_PENDING = 10_000


class MediaHashes:
    """The SHA-256 of files, by path.

    Args:
        folder: The cache folder; None caches nothing beyond this run.

    Attributes:
        read: Number of files whose content was read.

    Raises:
        CammsrError: If the cache folder cannot be used.
    """

    def __init__(self, folder: Path | None) -> None:
        self.read = 0
        # One file per machine: inodes are local, and SQLite's locks work only on one machine.
        self._path = None if folder is None else folder / f"media-{_machine()}.sqlite"
        self._known = None if self._path is None else _opened(self._path)
        self._new: list[tuple[bytes, str, bytes]] = []
        # Items may share a file, and such items are mostly next to each other.
        self._digest = lru_cache(maxsize=65_536)(self._found)

    def sha256(self, path: Path) -> bytes:
        """Return the SHA-256 of a file's content.

        Raises:
            OSError: If it cannot be read.
            CammsrError: If the cache cannot be read.
        """
        return self._digest(path)

    def close(self) -> None:
        """Write new hashes to the cache, and close it.

        Raises:
            CammsrError: If the cache folder cannot be written to.
        """
        self._keep()
        if self._known is not None:
            self._known.close()

    def _found(self, path: Path) -> bytes:
        if self._known is None:
            self.read += 1
            return bytes.fromhex(sha256_of(path))
        name, state = os.fsencode(path), _state(path.stat())
        try:
            row = self._known.execute(
                "SELECT sha256 FROM files WHERE path = ? AND state = ?", (name, state)
            ).fetchone()
        except sqlite3.Error as error:
            raise _unusable(self._path, error) from error
        if row is not None:
            return bytes(row[0])
        digest = bytes.fromhex(sha256_of(path))
        self.read += 1
        after = path.stat()
        settled = time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns)
        if _state(after) == state and settled > _SETTLED_NANOSECONDS:
            self._new.append((name, state, digest))
            if len(self._new) >= _PENDING:
                self._keep()
        return digest

    def _keep(self) -> None:
        """Write new hashes in one short transaction, so that parallel runs do not wait."""
        if self._known is None or not self._new:
            return
        try:
            with self._known:
                self._known.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", self._new)
        except sqlite3.Error as error:
            raise _unusable(self._path, error) from error
        self._new = []


def _state(found: os.stat_result) -> str:
    return " ".join(
        map(str, (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_dev, found.st_ino))
    )


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


def _opened(path: Path) -> sqlite3.Connection:
    """Open the database; recreate a damaged one, because its content can be recomputed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _with_table(path)
        except sqlite3.OperationalError:  # locked, or the disk is full: not damaged
            raise
        except sqlite3.DatabaseError:
            path.unlink()
            return _with_table(path)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from error


def _with_table(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60)
    try:
        with connection:
            connection.execute(_TABLE)
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _unusable(path: Path | None, error: Exception) -> CammsrError:
    return CammsrError(
        f"the cache of media hashes {path} cannot be used: {error}",
        "make room, or choose another cache folder with CAMMSR_CACHE_DIR",
    )
