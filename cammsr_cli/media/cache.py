"""The cache of downloaded images and videos: files named by their content, and a record per URL.

`<cache>/media/content/<2 hex>/<SHA-256>.<extension>` holds the downloads, each content once.
`<cache>/media/urls/<2 hex>/<SHA-256 of the URL>.json` records the content of a URL. Both are
written to a temporary file and moved to their names when complete, the content first. If a URL has
a record, its content is therefore complete, even after a kill. Runs may share a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cammsr_cli.errors import CammsrError

_NAME = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{1,5}")
# Partial files older than this come from a killed run: no download takes that long.
_LEFT_BEHIND_SECONDS = 86_400


class MediaCache:
    """Downloaded files by URL.

    Args:
        folder: The cache folder, shared with all other caches.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "media"

    def find(self, url: str) -> Path | None:
        """Return the downloaded file of a URL; None if it is missing or incomplete."""
        try:
            record = json.loads(self._record(url).read_text(encoding="utf-8"))
            path = self._content(record["file"])
            whole = path.stat().st_size == record["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return path if whole else None

    def drop_if_damaged(self, path: Path, digest: bytes) -> bool:
        """Remove a download whose content has changed; return whether it was removed.

        Args:
            path: Any file; a file outside this cache is never removed.
            digest: SHA-256 of its current content.
        """
        of_ours = path.parent.parent == (self.folder / "content").resolve()
        if not of_ours or path.name.partition(".")[0] == digest.hex():
            return False
        path.unlink(missing_ok=True)
        return True

    @contextmanager
    def download(self) -> Iterator[Download]:
        """Yield a new file for a download; it is removed at the end unless `keep` was called.

        Raises:
            CammsrError: If the cache cannot be written to.
        """
        path = self.folder / "partial" / uuid.uuid4().hex
        with self._write_faults():
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("xb")
        try:
            yield Download(self, path, stream)
        finally:
            with suppress(OSError):
                stream.close()  # the failed write has already reported a full disk
            path.unlink(missing_ok=True)

    def remove_left_behind(self) -> None:
        """Remove partial files of killed runs."""
        oldest = time.time() - _LEFT_BEHIND_SECONDS
        for path in (self.folder / "partial").glob("*"):
            with suppress(FileNotFoundError):  # another run may remove it at the same time
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _record(self, url: str) -> Path:
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / "urls" / name[:2] / f"{name}.json"

    def _content(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"no name of a content: {name!r}")
        return self.folder / "content" / name[:2] / name

    @contextmanager
    def _write_faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CammsrError(
                f"the media cache {self.folder} cannot be written to: {error.strerror or error}",
                "make room, or choose another cache folder with CAMMSR_CACHE_DIR; "
                "what is already there stays good",
            ) from error


class Download:
    """A file that is being downloaded.

    Attributes:
        bytes: Number of bytes written so far.
    """

    def __init__(self, cache: MediaCache, path: Path, stream: BinaryIO) -> None:
        self._cache, self._path, self._stream = cache, path, stream
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append to the file.

        Raises:
            CammsrError: If the cache cannot be written to.
        """
        with self._cache._write_faults():
            self._stream.write(chunk)
        self._digest.update(chunk)
        self.bytes += len(chunk)

    def keep(self, url: str, extension: str) -> None:
        """Store the complete file in the cache as the content of `url`.

        Raises:
            CammsrError: If the cache cannot be written to.
        """
        name = f"{self._digest.hexdigest()}.{extension}"
        content, record = self._cache._content(name), self._cache._record(url)
        about = {"url": url, "file": name, "bytes": self.bytes}
        with self._cache._write_faults():
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            for path in (content, record):
                path.parent.mkdir(parents=True, exist_ok=True)
            self._path.replace(content)
            # The temporary name is free again, and no other download uses it.
            self._path.write_text(json.dumps(about) + "\n", encoding="utf-8")
            self._path.replace(record)
