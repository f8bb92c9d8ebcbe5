from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.locks import only_writer

HOLDS = """
import sys, time
from pathlib import Path
from cammsr_cli.locks import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_by_name_until_the_first_ends_however_it_ends(tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "shop.h5"
    arguments = [sys.executable, "-c", HOLDS, str(out)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(CammsrError, match=rf"process {process.pid} on ") as told,
            only_writer(out),
        ):
            pytest.fail("two writers")
        assert str(out) in told.value.message
        process.kill()
    assert list(out.parent.iterdir()) == [out.parent / ".shop.h5.lock"]  # and it blocks nobody:
    with only_writer(out), only_writer(out.with_name("other.h5")):
        pass
    assert list(out.parent.iterdir()) == []


def test_it_is_let_go_of_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), only_writer(tmp_path / "x"):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/out", "file/new folder/out"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path, name: str, folder: bool) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match=r"out cannot be made: .*file is a file, not a folder"),
        only_writer(tmp_path / name, folder=folder),
    ):
        pytest.fail("written into a file")
