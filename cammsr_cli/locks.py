"""One writer an output: a lock that dies with the process that holds it."""

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
"""Name of the lock of a folder that is written to."""


@contextmanager
def only_writer(path: Path, folder: bool = False) -> Iterator[None]:
    """Hold an output for this process alone; `.NAME.lock` beside it says who has it.

    A `folder` that fills up over hours has its lock within: what is beside it is not ours.

    The operating system lets go of the lock when the process ends, however it ends: what a killed
    run leaves behind blocks nobody.

    Raises:
        CammsrError: If another process is writing it; the message names that process.
        UsageError: A file is where one of its folders should be.
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
        with suppress(PermissionError):  # Windows lets nobody write to a locked file
            file.write_text(f"process {os.getpid()} on {platform.node()}\n", encoding="utf-8")
        yield
    finally:
        # While it is still held: whoever opened it meanwhile sees that it is gone.
        with suppress(PermissionError):  # Windows does not remove an open file
            file.unlink(missing_ok=True)
        lock.release()


def in_use(folder: Path) -> bool:
    """Whether anything but perhaps a lock is where a folder is to be."""
    if not folder.is_dir():
        return folder.exists()
    return any(entry.name != IN_FOLDER for entry in folder.iterdir())


def _holder(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"
