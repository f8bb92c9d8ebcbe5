"""Data sets that are changed as a test asks, by h5py alone or with checksums that hold again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from cammsr_cli.data.checksums import add_checksums
from cammsr_cli.files import write_checksums


@contextmanager
def altered(path: Path) -> Iterator[h5py.File]:
    """A data set open for changes; afterwards its checksums are those of what it holds then."""
    with h5py.File(path, "r+") as file:
        yield file
    add_checksums(path)


def without_checksums(path: Path) -> Path:
    """Make a data set one of a cammsr that wrote no checksums."""
    with h5py.File(path, "r+") as file:
        del file.attrs["checksums"]
        file.flush()
    return path


def with_settings(run: Path, text: str) -> None:
    """Give a run that is not finished other settings, as if it had been begun with them."""
    (run / "config.yaml").write_text(text)
    names = ("config.json", "config.yaml", "item_ids.json")
    write_checksums(run, {name: run / name for name in names})
