"""A file under its final name is complete, whatever happens while it is written."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cammsr_cli.errors import UsageError
from cammsr_cli.files import sha256_of, usual_permissions, written_whole


class _StopError(Exception):
    pass


def test_sha256_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_of(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "x.txt"
    with written_whole(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        assert partial.parent == path.parent  # one file system, so that the move is one step
        assert partial.name.startswith(".")
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", [_StopError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_half_written(tmp_path, kind) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def interrupted() -> None:
        with written_whole(path) as partial:
            partial.write_text("half")
            raise kind

    with pytest.raises(kind):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_without_an_old_file_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with written_whole(tmp_path / "x") as partial:
            partial.mkdir()
            (partial / "y").write_text("half")
            raise _StopError

    with pytest.raises(_StopError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    for text in ("old and longer", "new"):
        with written_whole(path) as partial:
            partial.write_text(text)
    assert path.read_text() == "new"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "step-3"
    for name in ("old", "new"):
        with written_whole(path) as partial:
            partial.mkdir()
            (partial / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from cammsr_cli.files import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)], env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    with written_whole(path) as partial:
        assert not partial.exists()
        partial.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), written_whole(path):
        pass
    assert path.read_text() == "old"


def test_what_safetensors_writes_is_read_by_those_who_read_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = tmp_path / "x.safetensors"
        with usual_permissions(path):
            save_file({"x": np.zeros(2)}, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match=r"x\.csv cannot be made: .*file is a file, not a folder"),
        written_whole(tmp_path / "file" / "new" / "x.csv"),
    ):
        pytest.fail("written into a file")
