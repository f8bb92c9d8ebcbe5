"""From a media path as an items file writes it to a file that is safe to open."""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

from cammsr_cli.features.urls import is_web_address

FindUrl = Callable[[str], Path | str | None]
"""A URL to its file, to the reason why there is none, or to None if it is yet to be had."""

_URL = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.-]+://|data:|mailto:)")


def not_downloaded(_url: str) -> str:
    """For `resolve_media`, where nothing is downloaded."""
    return "not downloaded"


def resolve_media(
    written: str, media_root: Path | None, find_url: FindUrl = not_downloaded
) -> Path | str | None:
    """The file that an items file names, or why it is not used.

    Only regular files within `media_root` are used, symbolic links followed: an items file is
    data from elsewhere, and must not reach what its reader did not offer.

    Args:
        written: A path relative to `media_root`, or an http or https URL.
        media_root: The folder that media paths are relative to; None if there is none.
        find_url: What URLs gave.

    Returns:
        The real path, the reason as one line, or None for a URL that is yet to be downloaded.
    """
    written = written.strip()
    if is_web_address(written):
        return find_url(written)
    if _URL.match(written):
        return "only http and https URLs are downloaded"
    if media_root is None:
        return "no media folder is given"
    if not written or any(unicodedata.category(one) in ("Cc", "Cs") for one in written):
        return "not a file name"
    if refused := _refused(written):
        return refused
    try:
        real = _existing(media_root, written)
        root = media_root.resolve(strict=True)
        if not real.is_relative_to(root):
            return "a symbolic link leads out of the media folder"
        if not stat.S_ISREG(real.stat().st_mode):
            return "not a regular file"
    except FileNotFoundError:
        return "no such file"
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        return f"cannot be reached: {getattr(error, 'strerror', None) or 'a loop of links'}"
    return real


def _refused(written: str) -> str | None:
    """Why a path as written is refused, under the rules of both POSIX and Windows."""
    windows = PureWindowsPath(written)
    if written.startswith(("/", "\\")) or windows.drive or windows.root:
        return "an absolute path; write it relative to the media folder"
    if ".." in windows.parts:
        return "'..' leads out of the media folder"
    return None


def _existing(root: Path, written: str) -> Path:
    """The real path; a name with accents is also found where the disk spells it decomposed."""
    spellings = dict.fromkeys(
        [written, unicodedata.normalize("NFC", written), unicodedata.normalize("NFD", written)]
    )
    for spelling in spellings:
        if (root / spelling).exists():
            return (root / spelling).resolve(strict=True)
    return (root / written).resolve(strict=True)
