"""From a media path as an items file writes it to a file that is safe to open."""

from __future__ import annotations

import re
import stat
import unicodedata
from pathlib import Path, PureWindowsPath

_URL = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.-]+://|data:|mailto:)")


def resolve_media(written: str, media_root: Path | None) -> Path | str:
    """The file that an items file names, or why it is not used.

    Only regular files within `media_root` are used, symbolic links followed: an items file is
    data from elsewhere, and must not reach what its reader did not offer.

    Args:
        written: The path as written, relative to `media_root`.
        media_root: The folder that media paths are relative to; None if there is none.

    Returns:
        The real path, or the reason as one line.
    """
    written = written.strip()
    if _URL.match(written):
        return "not downloaded yet; give a local file"
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
