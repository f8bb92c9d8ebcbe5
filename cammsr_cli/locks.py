"""Locks that allow one writer per output; a lock ends with the process that holds it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from cammsr_cli.errors import CammsrError
from cammsr_cli.files import make_folder

IN_FOLDER = ".lock"
"""Name of the lock file in a folder that is being written."""


@contextmanager
def only_writer(path: Path, folder: bool = False) -> Iterator[None]:
    """Lock an output for this process; `.NAME.lock` next to it names the process.

    For a `folder` that is filled over hours, the lock file is inside the folder, because files next
    to it may belong to others.

    The operating system releases the lock when the process ends for any reason. The lock file of a
    killed run therefore blocks no other run.

    Raises:
        CammsrError: If another process is writing it; the message names that process.
        UsageError: A file has the path of one of its folders.
    """
    file = path / IN_FOLDER if folder else path.with_name(f".{path.name}.lock")
    make_folder(file.parent, path)
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise CammsrError(
            f"{path} is being written by {_holder(file)}",
            "wait for it to end, or choose another name: --out NAME",
        ) from None
    try:
        with suppress(PermissionError):  # Windows forbids writing to a locked file
            file.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        yield
    finally:
        # Before the release: a process that has opened it meanwhile notices that it is removed.
        with suppress(PermissionError):  # Windows does not remove an open file
            file.unlink(missing_ok=True)
        lock.release()


def in_use(folder: Path) -> bool:
    """Return whether a path is a file, or a folder that contains more than a lock file."""
    if not folder.is_dir():
        return folder.exists()
    return any(entry.name != IN_FOLDER for entry in folder.iterdir())


def _holder(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"
