"""Resolves media paths, as written in an items file, to files that are safe to open."""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from cammsr_cli.media.addresses import is_web_address

FindUrl = Callable[[str], Path | str | None]
"""Maps a URL to its file, to the reason why there is none, or to None if it is pending."""

_URL = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.-]+://|data:|mailto:)")


def not_downloaded(_url: str) -> str:
    """Return the reason for `resolve_media` if nothing is downloaded."""
    return "not downloaded"


def resolve_media(
    written: str, media_root: Path | None, find_url: FindUrl = not_downloaded
) -> Path | str | None:
    """Return the file that an items file names, or the reason why it is not used.

    Only regular files within `media_root` are used, after following symbolic links. An items file
    is untrusted input, and must not give access to other files.

    Args:
        written: A path relative to `media_root`, or an http or https URL.
        media_root: The folder that media paths are relative to; None if there is none.
        find_url: Returns the downloaded file of a URL.

    Returns:
        The real path, the reason as one line, or None for a URL that is still to be downloaded.
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
    """Return why a path is refused, by the rules of POSIX and of Windows; None if it is not."""
    windows = PureWindowsPath(written)
    if written.startswith(("/", "\\")) or windows.drive or windows.root:
        return "an absolute path; write it relative to the media folder"
    if ".." in windows.parts:
        return "'..' leads out of the media folder"
    return None


def _existing(root: Path, written: str) -> Path | str:
    """Return the real path, or the reason why there is none.

    A name also matches a file if its accents have another Unicode normal form (NFC or NFD), if it
    uses Windows separators, or if it differs from exactly one file in case only.
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
    """Return the files within a folder whose paths match in any case."""
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
    """Return the names in a folder by case-folded name; read again if the folder has changed."""
    names: dict[str, list[str]] = {}
    for path in folder.iterdir():
        names.setdefault(_folded(path.name), []).append(path.name)
    return names


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
