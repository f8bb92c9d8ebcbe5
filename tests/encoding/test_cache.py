from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cammsr_cli.encoding.cache import FeatureCache
from cammsr_cli.errors import CammsrError


def _vectors(*names: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    keys = b"".join(hashlib.sha256(name.encode()).digest() for name in names)
    values = np.array([[len(name)] * 3 for name in names], np.float32)
    return np.frombuffer(keys, np.uint8).reshape(-1, 32), values


def test_what_is_written_is_read_by_the_next_run(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "print")
    cache.write(*_vectors("a", "bb"))
    cache.write(*_vectors("ccc", "a"))
    assert len(cache) == 0  # what this run writes is for later ones
    cache = FeatureCache(tmp_path, "print")
    assert len(cache) == 3
    keys, wanted = _vectors("dddd", "ccc", "bb", "a", "a")
    places = cache.find(keys)
    assert (places >= 0).tolist() == [False, True, True, True, True]
    read = {
        int(one): row
        for some, rows in cache.read(places)
        for one, row in zip(some, rows, strict=True)
    }
    assert sorted(read) == [1, 2, 3, 4]
    assert all(np.array_equal(read[one], wanted[one]) for one in read)
    assert len(FeatureCache(tmp_path, "another print")) == 0
    assert FeatureCache(tmp_path, "another print").find(keys).tolist() == [-1] * 5
    assert not [*tmp_path.rglob("*.partial")]


def test_keys_that_end_in_zeros_are_told_apart(tmp_path: Path) -> None:
    keys = np.zeros((3, 32), np.uint8)
    keys[1, 31], keys[2, 0] = 1, 1
    FeatureCache(tmp_path, "print").write(keys, np.array([[0], [1], [2]], np.float32))
    cache = FeatureCache(tmp_path, "print")
    ((some, values),) = cache.read(cache.find(keys))
    assert values[:, 0].tolist() == some.tolist() == [0, 1, 2]


def test_shards_lie_where_the_fingerprint_says(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "print").write(*_vectors("a"))
    folder = tmp_path / "features" / hashlib.sha256(b"print").hexdigest()
    assert len([*folder.glob("*.safetensors")]) == 1
    assert (folder / "fingerprint.txt").read_text() == "print\n"


@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_an_unreadable_shard_is_dropped_and_counted(tmp_path: Path, damage: str) -> None:
    FeatureCache(tmp_path, "print").write(*_vectors("a"))
    (shard,) = tmp_path.rglob("*.safetensors")
    whole = shard.read_bytes()
    damaged = {"empty": b"", "cut": whole[:-4], "noise": b"\xff" * 99}
    shard.write_bytes(damaged[damage])
    cache = FeatureCache(tmp_path, "print")
    assert (cache.dropped, len(cache)) == (1, 0)
    assert not shard.exists()
    assert FeatureCache(tmp_path, "print").dropped == 0


def test_vectors_of_another_length_are_dropped(tmp_path: Path) -> None:
    for name, dim in (("a", 3), ("b", 5)):
        FeatureCache(tmp_path, "print").write(_vectors(name)[0], np.zeros((1, dim), np.float32))
    cache = FeatureCache(tmp_path, "print")
    assert (cache.dropped, len(cache), cache.dim in (3, 5)) == (1, 1, True)


def test_a_shard_damaged_while_it_is_used_is_told(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "print").write(*_vectors("a"))
    cache = FeatureCache(tmp_path, "print")
    (shard,) = tmp_path.rglob("*.safetensors")
    for damage in (lambda: shard.write_bytes(b"\xff" * 99), shard.unlink):
        damage()
        with pytest.raises(CammsrError, match="cannot be read") as told:
            list(cache.read(cache.find(_vectors("a")[0])))
        assert "run the same command again" in (told.value.hint or "")


def test_a_shard_that_the_system_does_not_open_is_not_removed(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "print").write(*_vectors("a"))
    (shard,) = tmp_path.rglob("*.safetensors")
    kept = shard.rename(tmp_path / "kept")
    shard.symlink_to(shard)
    with pytest.raises(CammsrError, match=r"cannot be read: .*symbolic links"):
        FeatureCache(tmp_path, "print")
    assert shard.is_symlink()
    kept.replace(shard)
    assert len(FeatureCache(tmp_path, "print")) == 1


def test_what_killed_runs_left_is_removed(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "print").write(*_vectors("a"))
    (shard,) = tmp_path.rglob("*.safetensors")
    old, new = (shard.with_name(f".{name}.partial") for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert len(FeatureCache(tmp_path, "print")) == 1
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file where the folder belongs")
    with pytest.raises(CammsrError, match="cannot be written to"):
        FeatureCache(tmp_path, "print").write(*_vectors("a"))
