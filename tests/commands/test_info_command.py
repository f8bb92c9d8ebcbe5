"""`cammsr info`: what it says of a sound file, and that `--verify` reads every byte of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
from altered import without_checksums
from toy_data import write_toy_data


def test_verify_finds_what_info_alone_does_not_read(tmp_path: Path, cammsr: Callable) -> None:
    data = write_toy_data(tmp_path / "wide.h5", items=4, dim=2**18)
    with h5py.File(data) as file:
        stored = file["features/text/values"]
        middle = stored.id.get_offset() + stored.nbytes // 2
    with data.open("rb+") as stream:
        stream.seek(middle)
        stream.write(b"\7\7\7")
    assert cammsr("info", data).code == 0
    answer = cammsr("info", data, "--verify")
    assert answer.code == 1
    assert f"error: {data} is damaged: bytes 3," in answer.err
    assert "are not those that were written\n" in answer.err
    assert f"cammsr prepare ... --out {data} --force" in answer.err
    assert answer.out == ""


def test_a_process_that_meets_damage_ends_as_one_that_failed(tmp_path: Path) -> None:
    """And not by a signal, when HDF5 is taken down with what it had open."""
    data = write_toy_data(tmp_path / "toy.h5")
    for at in (100, data.stat().st_size // 2):
        content = bytearray(data.read_bytes())
        content[at] ^= 255
        damaged = tmp_path / f"at-{at}.h5"
        damaged.write_bytes(content)
        ended = subprocess.run(
            [sys.executable, "-m", "cammsr_cli", "info", damaged], capture_output=True, check=False
        )
        assert ended.returncode == 1, ended.stderr
        assert b"is damaged" in ended.stderr


def test_a_sound_file_is_verified(tmp_path: Path, cammsr: Callable) -> None:
    data = write_toy_data(tmp_path / "toy.h5")
    answer = cammsr("info", data, "--verify")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith("verified: every byte is as it was written\n")
    assert json.loads(cammsr("info", data, "--verify", "--json").out)["verified"]
    assert not json.loads(cammsr("info", data, "--json").out)["verified"]


def test_a_file_without_checksums_is_told_of(tmp_path: Path, cammsr: Callable) -> None:
    data = without_checksums(write_toy_data(tmp_path / "toy.h5"))
    answer = cammsr("info", data)
    assert answer.code == 0
    assert "without checksums" in answer.err
    (remark,) = json.loads(cammsr("info", data, "--json").out)["remarks"]
    assert remark in answer.err
