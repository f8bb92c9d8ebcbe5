from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from cammsr_cli.errors import CammsrError
from cammsr_cli.media import hashes
from cammsr_cli.media.hashes import MediaHashes


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a clip.mp4"
    path.write_bytes(b"one")
    return path


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file counts as settled at once."""
    monkeypatch.setattr(hashes, "_SETTLED_NANOSECONDS", -1)


def _run(folder: Path | None, file: Path) -> tuple[bytes, int]:
    """A run that asks twice for the file's hash: what it gets, and how often it reads."""
    known = MediaHashes(folder)
    found = known.sha256(file)
    assert known.sha256(file) == found
    known.close()
    return found, known.read


@pytest.mark.usefixtures("_at_once")
def test_a_file_is_read_once_until_it_changes(tmp_path: Path, file: Path) -> None:
    assert _run(tmp_path, file) == (_sha256(b"one"), 1)
    assert _run(tmp_path, file) == (_sha256(b"one"), 0)
    file.write_bytes(b"three")
    assert _run(tmp_path, file) == (_sha256(b"three"), 1)
    assert _run(tmp_path, file) == (_sha256(b"three"), 0)


@pytest.mark.usefixtures("_at_once")
def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, file: Path) -> None:
    before = file.stat()
    _run(tmp_path, file)
    time.sleep(0.02)  # longer than the file system's tick
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert _run(tmp_path, file) == (_sha256(b"two"), 1)
    other = tmp_path / "other"
    other.write_bytes(b"new")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert _run(tmp_path, file) == (_sha256(b"new"), 1)


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path, file: Path) -> None:
    assert _run(tmp_path, file)[1] == 1
    assert _run(tmp_path, file)[1] == 1


def test_without_a_cache_nothing_is_remembered(file: Path) -> None:
    assert _run(None, file) == (_sha256(b"one"), 1)
    assert [one.name for one in file.parent.iterdir()] == [file.name]


@pytest.mark.usefixtures("_at_once")
def test_a_damaged_cache_is_made_anew(tmp_path: Path, file: Path) -> None:
    _run(tmp_path, file)
    (database,) = tmp_path.glob("*.sqlite")
    database.write_bytes(b"this is no database" * 100)
    assert _run(tmp_path, file) == (_sha256(b"one"), 1)
    assert _run(tmp_path, file) == (_sha256(b"one"), 0)


def test_a_cache_folder_that_cannot_be_is_told(tmp_path: Path, file: Path) -> None:
    with pytest.raises(CammsrError, match="cannot be used"):
        MediaHashes(file / "cache")


def test_a_cache_that_cannot_be_read_is_told(tmp_path: Path, file: Path) -> None:
    known = MediaHashes(tmp_path)
    (database,) = tmp_path.glob("*.sqlite")
    with closing(sqlite3.connect(database)) as other, other:
        other.execute("DROP TABLE files")
    with pytest.raises(CammsrError, match="cannot be used: no such table"):
        known.sha256(file)
    known.close()


def test_a_missing_file_is_the_callers_to_tell(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(FileNotFoundError):
            MediaHashes(folder).sha256(tmp_path / "nowhere")
