"""From a media path as an items file writes it to a file that is safe to open."""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from cammsr_cli.media.addresses import is_web_address

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
        if isinstance(real, str):
            return real
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


def _existing(root: Path, written: str) -> Path | str:
    """The real path, or why there is none.

    A name is also found where the disk spells its accents decomposed, where its folders are
    separated as Windows does it, and where it differs from one file in case alone.
    """
    forms = [written, unicodedata.normalize("NFC", written), unicodedata.normalize("NFD", written)]
    forms += [form.replace("\\", "/") for form in forms]
    for form in dict.fromkeys(forms):
        if (root / form).exists():
            return (root / form).resolve(strict=True)
    alike = _in_another_case(root, forms[-1])
    if len(alike) > 1:
        return f"no such file, and {len(alike)} that differ from it in case alone"
    return (alike[0] if alike else root / written).resolve(strict=True)


def _in_another_case(root: Path, written: str) -> list[Path]:
    """The files within a folder whose paths are as written but for their case."""
    found = [root]
    for part in PurePosixPath(written).parts:
        found = [
            folder / name
            for folder in found
            if folder.is_dir()
            for name in _names(folder, folder.stat().st_mtime_ns).get(_folded(part), ())
        ]
    return found


@lru_cache(maxsize=64)
def _names(folder: Path, _changed: int) -> dict[str, list[str]]:
    """What a folder holds, by name without case; read anew once it has changed."""
    names: dict[str, list[str]] = {}
    for path in folder.iterdir():
        names.setdefault(_folded(path.name), []).append(path.name)
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
