"""Writes files atomically, and computes and verifies their checksums."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cammsr_cli.errors import CammsrError, UsageError, first_line


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


CHECKSUMS = "SHA256SUMS"
"""The file that lists a folder's files and their digests, in the format of `sha256sum --check`."""

_DIGEST_OF = re.compile(r"[0-9a-f]{64}  \S+")


def write_checksums(folder: Path, files: Mapping[str, Path]) -> None:
    """Write the digests of a folder's files.

    Args:
        folder: The folder.
        files: Name in the folder to the current location of the content.
    """
    lines = [f"{sha256_of(file)}  {name}\n" for name, file in sorted(files.items())]
    with written_whole(folder / CHECKSUMS) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def changed_since(folder: Path, names: Iterable[str]) -> str | None:
    """Verify files against their recorded digests; return what is wrong, or None.

    Args:
        folder: The folder.
        names: The files that must exist and be unchanged.
    """
    try:
        *lines, rest = (folder / CHECKSUMS).read_bytes().decode().split("\n")
        digests = {line[66:]: line[:64] for line in lines if _DIGEST_OF.fullmatch(line)}
        if rest or len(digests) < len(lines):
            return f"{CHECKSUMS} is not as it was written"
        for name in names:
            if name not in digests:
                return f"{CHECKSUMS} does not list {name}"
            if sha256_of(folder / name) != digests[name]:
                return f"{name} has changed since it was written"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    except ValueError as error:
        return f"{CHECKSUMS}: {first_line(error)}"
    return None


def make_folder(folder: Path, output: Path) -> None:
    """Create a folder that an output needs, and its parents, if they do not exist.

    Raises:
        UsageError: A file has the path of one of these folders.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        in_the_way = next(one for one in (folder, *folder.parents) if one.is_file())
        raise UsageError(
            f"{output} cannot be made: {in_the_way} is a file, not a folder",
            "Choose another place: --out NAME",
        ) from None


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; move it to `path` when the block succeeds.

    A file under its final name is therefore complete. After an exception the partial file is
    removed; after SIGKILL it stays under a hidden name (`.NAME.partial`) and the next run
    replaces it. This also works for folders, if the block creates one; an existing folder is
    replaced.
    """
    make_folder(path.parent, path)
    partial = path.with_name(f".{path.name}.partial")
    _remove(partial)
    try:
        yield partial
        _sync(partial)
        if partial.is_dir() and path.exists():
            _remove(path)
        partial.replace(path)
    finally:
        _remove(partial)


@contextmanager
def usual_permissions(path: Path) -> Iterator[None]:
    """Give a file that is written in the block the default permissions of new files.

    safetensors makes its files readable only by their owner.
    """
    path.touch()
    mode = path.stat().st_mode
    yield
    path.chmod(mode)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush the content to the disk (fsync) before the file is renamed."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


RESUMABLE = "the run goes on from its last checkpoint with --resume"
"""The hint about what is kept if a run cannot be written."""

IN_CACHE = "what was encoded is in the cache"
"""The hint about what is kept if a data set cannot be written."""


@contextmanager
def refusals_named(path: Path, kept: str | None = None) -> Iterator[None]:
    """Turn libraries' errors about a refused write into one with the system's message.

    Args:
        path: The output that is written.
        kept: What is not lost, for the hint.
    """
    try:
        yield
    except CammsrError:
        raise
    except Exception as error:
        # HDF5, polars and safetensors have their own errors, with the errno in the message.
        number = _number(error)
        if number is None:
            raise
        raise CammsrError(
            f"{path} cannot be written: {os.strerror(number)}",
            "make room or choose another place: --out NAME" + (f"; {kept}" if kept else ""),
        ) from error


def _number(error: BaseException) -> int | None:
    """Return the errno of an error, or of its context, because torch raises its own errors."""
    found = re.search(r"(?:errno =|os error) (\d+)", str(error))
    number = int(found[1]) if found else getattr(error, "errno", None)
    if number is None and error.__context__ is not None:
        return _number(error.__context__)
    return number


def require_table_output(
    option: str, file: Path, kinds: Iterable[str], what: str, best: str, force: bool
) -> None:
    """Check that an output file has a known format, and does not exist or may be replaced.

    Args:
        option: The command-line option for the file, such as "--out".
        file: The file.
        kinds: Supported file extensions.
        what: What is written, in the plural.
        best: The extension to suggest.
        force: Whether an existing file may be replaced.

    Raises:
        UsageError: If not, or if it is a folder.
    """
    kinds = tuple(kinds)
    if file.suffix not in kinds:
        raise UsageError(
            f"{option} {file}: {what} are written as {', '.join(kinds)}",
            f"Name it so: {option} {file.with_suffix(best)}",
        )
    if file.is_dir():
        raise UsageError(f"{option} {file} is a folder", "Name a file")
    if file.exists() and not force:
        raise UsageError(f"{file} is there already", "Choose another name, or replace it: --force")
