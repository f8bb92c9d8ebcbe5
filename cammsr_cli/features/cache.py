"""Vectors kept from earlier runs: immutable shards, named by what decided their content.

`<cache>/features/<SHA-256 of the encoder's fingerprint>/<shard>.safetensors` holds `keys`, uint8
[n, 32] (SHA-256 of an item's inputs), and `values`, float32 [n, dim]. A shard is written beside its
name and moved there whole, and never changed: runs may share a cache, and a killed run leaves all
it had finished.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cammsr_cli.errors import CammsrError

Key = bytes
"""SHA-256 of an item's inputs, 32 bytes."""


class FeatureCache:
    """The cached vectors of one encoder.

    Args:
        folder: The cache folder, shared by all encoders.
        fingerprint: The encoder's fingerprint.
        dim: Length of its vectors; shards of another length are unreadable.

    Attributes:
        dropped: Shards found unreadable, and removed.
    """

    def __init__(self, folder: Path, fingerprint: str, dim: int | None = None) -> None:
        name = hashlib.sha256(fingerprint.encode("utf-8")).hexdigest()
        self.folder = folder / "features" / name
        self.fingerprint = fingerprint
        self.dim = dim
        self.dropped = 0
        self._places = self._index()

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, keys: Iterable[Key]) -> Iterator[tuple[Key, NDArray[np.float32]]]:
        """Each key's vector, float32 [dim], shard by shard; every key must be in the cache."""
        wanted: dict[Path, list[tuple[Key, int]]] = {}
        for key in keys:
            shard, row = self._places[key]
            wanted.setdefault(shard, []).append((key, row))
        for shard, rows in wanted.items():
            with safe_open(shard, framework="numpy") as opened:
                values = opened.get_tensor("values")
            for key, row in rows:
                yield key, values[row]

    def write(self, vectors: Mapping[Key, NDArray[np.float32]]) -> None:
        """Add a shard; nothing is written for no vectors.

        Raises:
            CammsrError: If the cache folder cannot be written to.
        """
        if not vectors:
            return
        try:
            self._places |= self._written(vectors)
        except (OSError, SafetensorError) as error:
            raise CammsrError(
                f"the feature cache {self.folder.parent} cannot be written to: {error}",
                "make room or choose another cache folder; what is already there stays good",
            ) from error

    def _written(self, vectors: Mapping[Key, NDArray[np.float32]]) -> dict[Key, tuple[Path, int]]:
        """Write a shard whole; returns where each key's vector is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        told = self.folder / "fingerprint.txt"
        if not told.exists():
            told.write_text(self.fingerprint + "\n", encoding="utf-8")
        keys = np.frombuffer(b"".join(vectors), dtype=np.uint8).reshape(-1, 32)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        shard = self.folder / f"{name}.safetensors"
        # The partial name is this writer's own: another run may write the same shard just now.
        partial = self.folder / f".{name}.{uuid.uuid4().hex}.partial"
        try:
            save_file({"keys": keys, "values": np.stack(list(vectors.values()))}, partial)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(shard)
        finally:
            partial.unlink(missing_ok=True)
        return {key: (shard, row) for row, key in enumerate(vectors)}

    def _index(self) -> dict[Key, tuple[Path, int]]:
        """Where each key's vector is; unreadable shards are removed and counted."""
        places: dict[Key, tuple[Path, int]] = {}
        for shard in sorted(self.folder.glob("*.safetensors")):
            try:
                keys = self._keys(shard)
            except (SafetensorError, OSError, ValueError):
                self.dropped += 1
                shard.unlink(missing_ok=True)
                continue
            places |= {key.tobytes(): (shard, row) for row, key in enumerate(keys)}
        return places

    def _keys(self, shard: Path) -> NDArray[np.uint8]:
        """A shard's keys; raises ValueError if the shard is not as this class writes them."""
        with safe_open(shard, framework="numpy") as opened:
            if set(opened.keys()) != {"keys", "values"}:
                raise ValueError("other tensors")
            keys: NDArray[np.uint8] = opened.get_tensor("keys")
            values = opened.get_slice("values")
            shape, kind = values.get_shape(), values.get_dtype()
        if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != 32 or kind != "F32":
            raise ValueError("other types")
        if len(shape) != 2 or shape[0] != len(keys) or self.dim not in (None, shape[1]):
            raise ValueError("other shapes")
        return keys
