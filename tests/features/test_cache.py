from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cammsr_cli.errors import CammsrError
from cammsr_cli.features.cache import FeatureCache


def _vectors(*names: str) -> dict[bytes, NDArray[np.float32]]:
    return {
        hashlib.sha256(name.encode()).digest(): np.full(3, len(name), np.float32) for name in names
    }


def test_what_is_written_is_read_by_the_next_run(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "print", 3)
    wanted = _vectors("a", "bb")
    cache.write(wanted)
    cache.write(_vectors("ccc"))
    for run in (cache, FeatureCache(tmp_path, "print", 3)):
        assert len(run) == 3
        read = dict(run.read(wanted))
        assert read.keys() == wanted.keys()
        assert all(np.array_equal(read[key], wanted[key]) for key in wanted)
    assert len(FeatureCache(tmp_path, "another print", 3)) == 0
    assert not [*tmp_path.rglob("*.partial")]


def test_shards_lie_where_the_fingerprint_says(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "print", 3).write(_vectors("a"))
    folder = tmp_path / "features" / hashlib.sha256(b"print").hexdigest()
    assert len([*folder.glob("*.safetensors")]) == 1
    assert (folder / "fingerprint.txt").read_text() == "print\n"


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "dim"])
def test_an_unreadable_shard_is_dropped_and_counted(tmp_path: Path, damage: str) -> None:
    FeatureCache(tmp_path, "print", 3).write(_vectors("a"))
    (shard,) = tmp_path.rglob("*.safetensors")
    whole = shard.read_bytes()
    damaged = {"empty": b"", "cut": whole[:-4], "noise": b"\xff" * 99, "dim": whole}
    shard.write_bytes(damaged[damage])
    dim = 7 if damage == "dim" else 3
    cache = FeatureCache(tmp_path, "print", dim)
    assert (cache.dropped, len(cache)) == (1, 0)
    assert not shard.exists()
    assert FeatureCache(tmp_path, "print", dim).dropped == 0


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder belongs")
    with pytest.raises(CammsrError, match="cannot be written to"):
        FeatureCache(tmp_path, "print", 3).write(_vectors("a"))
