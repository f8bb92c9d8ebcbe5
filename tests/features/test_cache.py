from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cammsr_cli.errors import CammsrError
from cammsr_cli.features.cache import FeatureCache


def _vectors(*names: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    keys = b"".join(hashlib.sha256(name.encode()).digest() for name in names)
    values = np.array([[len(name)] * 3 for name in names], np.float32)
    return np.frombuffer(keys, np.uint8).reshape(-1, 32), values


def test_what_is_written_is_read_by_the_next_run(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "print", 3)
    cache.write(*_vectors("a", "bb"))
    cache.write(*_vectors("ccc", "a"))
    assert len(cache) == 0  # what this run writes is for later ones
    cache = FeatureCache(tmp_path, "print", 3)
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
    assert len(FeatureCache(tmp_path, "another print", 3)) == 0
    assert FeatureCache(tmp_path, "another print", 3).find(keys).tolist() == [-1] * 5
    assert not [*tmp_path.rglob("*.partial")]


def test_keys_that_end_in_zeros_are_told_apart(tmp_path: Path) -> None:
    keys = np.zeros((3, 32), np.uint8)
    keys[1, 31], keys[2, 0] = 1, 1
    FeatureCache(tmp_path, "print", 1).write(keys, np.array([[0], [1], [2]], np.float32))
    cache = FeatureCache(tmp_path, "print", 1)
    ((some, values),) = cache.read(cache.find(keys))
    assert values[:, 0].tolist() == some.tolist() == [0, 1, 2]


def test_shards_lie_where_the_fingerprint_says(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "print", 3).write(*_vectors("a"))
    folder = tmp_path / "features" / hashlib.sha256(b"print").hexdigest()
    assert len([*folder.glob("*.safetensors")]) == 1
    assert (folder / "fingerprint.txt").read_text() == "print\n"


@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "dim"])
def test_an_unreadable_shard_is_dropped_and_counted(tmp_path: Path, damage: str) -> None:
    FeatureCache(tmp_path, "print", 3).write(*_vectors("a"))
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
        FeatureCache(tmp_path, "print", 3).write(*_vectors("a"))


def test_a_shard_damaged_since_it_was_found_is_told(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "print", 3).write(*_vectors("a"))
    cache = FeatureCache(tmp_path, "print", 3)
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-4])
    keys, _ = _vectors("a")
    with pytest.raises(CammsrError, match="cannot be read any more") as told:
        list(cache.read(cache.find(keys)))
    assert str(shard) in told.value.message
    assert "again" in (told.value.hint or "")


def test_a_shard_that_the_system_withholds_is_told_and_kept(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "print", 3).write(*_vectors("a"))
    (shard,) = tmp_path.rglob("*.safetensors")
    withheld = shard.with_name("withheld.safetensors")
    withheld.symlink_to(withheld)  # no user, not even root, may open it
    with pytest.raises(CammsrError, match="Too many levels of symbolic links") as told:
        FeatureCache(tmp_path, "print", 3)
    assert str(withheld) in told.value.message
    assert withheld.is_symlink()
