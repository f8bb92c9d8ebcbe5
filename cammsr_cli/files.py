"""Writing files whole or not at all, and naming their content."""

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
    """SHA-256 of a file's content, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


CHECKSUMS = "SHA256SUMS"
"""A folder's files and their digests, as `sha256sum --check` reads them."""

_DIGEST_OF = re.compile(r"[0-9a-f]{64}  \S+")


def write_checksums(folder: Path, files: Mapping[str, Path]) -> None:
    """Write the digests of a folder's files.

    Args:
        folder: The folder.
        files: Name in the folder to where the content is now.
    """
    lines = [f"{sha256_of(file)}  {name}\n" for name, file in sorted(files.items())]
    with written_whole(folder / CHECKSUMS) as partial:
        partial.write_text("".join(lines), encoding="utf-8")


def changed_since(folder: Path, names: Iterable[str]) -> str | None:
    """What is wrong with files whose digests were written, if anything.

    Args:
        folder: The folder.
        names: The files that must be there, and as they were written.
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
    """Make a folder that an output needs, and those above it, where they are not there.

    Raises:
        UsageError: A file is where one of them should be.
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
    """Yield a path beside `path` to write to; move it to `path` when the block ends well.

    A file under its final name is therefore complete. After an exception the partial file is
    removed; after SIGKILL it stays under a hidden name (`.NAME.partial`) and the next run
    replaces it. Works for folders too, if the block makes one; an existing folder is replaced.
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
    """A file that is made in the block may be read by those who may read any other new file.

    safetensors leaves what it writes to its owner alone.
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
    """Ask the operating system to put the content on the disk before its name is changed."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


RESUMABLE = "the run goes on from its last checkpoint with --resume"
"""What is not lost where a run cannot be written."""

IN_CACHE = "what was encoded is in the cache"
"""What is not lost where a data set cannot be written."""


@contextmanager
def refusals_named(path: Path, kept: str | None = None) -> Iterator[None]:
    """Turn what libraries say when the system refuses a write into what the system said.

    Args:
        path: What is written.
        kept: What is not lost, for the hint.
    """
    try:
        yield
    except CammsrError:
        raise
    except Exception as error:
        # HDF5, polars and safetensors have errors of their own, with the number in their text.
        number = _number(error)
        if number is None:
            raise
        raise CammsrError(
            f"{path} cannot be written: {os.strerror(number)}",
            "make room or choose another place: --out NAME" + (f"; {kept}" if kept else ""),
        ) from error


def _number(error: BaseException) -> int | None:
    """The system's number of an error, or of that which it came of: torch tells its own alone."""
    found = re.search(r"(?:errno =|os error) (\d+)", str(error))
    number = int(found[1]) if found else getattr(error, "errno", None)
    if number is None and error.__context__ is not None:
        return _number(error.__context__)
    return number


def require_table_output(
    option: str, file: Path, kinds: Iterable[str], what: str, best: str, force: bool
) -> None:
    """Refuse a file of an unknown kind, a folder, and what is there unless it may be replaced.

    Args:
        option: What names the file on the command line, such as "--out".
        file: The file.
        kinds: Endings that can be written.
        what: What is written, in the plural.
        best: The ending to propose.
        force: Whether a file that is there may be replaced.

    Raises:
        UsageError: It is one of those.
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
