"""The locations of a catalogue's media: a folder, and the cache of downloads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cammsr_cli.media.addresses import is_web_address
from cammsr_cli.media.cache import MediaCache
from cammsr_cli.media.paths import resolve_media


@dataclass(frozen=True)
class MediaSource:
    """Finds the media files that items name.

    Attributes:
        root: The folder that paths are relative to; None if it is not known.
        cache_dir: The cache folder, where `prepare` stores downloads; None if there is none.
    """

    root: Path | None
    cache_dir: Path | None

    def find(self, written: str) -> Path | str:
        """Return the file of a path or URL, or the reason why there is none; download nothing."""

        def downloaded(url: str) -> Path | str:
            found = None if self.cache_dir is None else MediaCache(self.cache_dir).find(url)
            return found or "not among what was downloaded"

        if self.root is None and not is_web_address(written.strip()):
            return "no media folder is given: --media-root FOLDER"
        return resolve_media(written, self.root, downloaded) or "not downloaded"
