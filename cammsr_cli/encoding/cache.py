"""The feature cache: vectors of earlier runs in immutable shards, named by what determines them.

`<cache>/features/<SHA-256 of the encoder's full fingerprint>/<shard>.safetensors` holds `keys`,
uint8 [n, 32] (SHA-256 of an item's inputs), and `values`, float32 [n, dim]. Its header holds the
SHA-256 of both. A shard is written to a temporary file, moved to its name when complete, and never
changed. Several runs may therefore share a cache, and a killed run keeps all finished shards.

Legend: M vectors in the cache, K requested keys.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cammsr_cli.errors import CammsrError
from cammsr_cli.files import usual_permissions

KEY_BYTES = 32
"""A key is the SHA-256 of an item's inputs."""

_DIGEST = "sha256"

# Partial shards older than this come from a killed run: no write takes that long.
_LEFT_BEHIND_SECONDS = 86_400


class FeatureCache:
    """The vectors of one encoder that are in the cache when this object is created.

    Only the key and the position of each vector are held in memory, 44 bytes per vector.

    Args:
        folder: The cache folder, shared by all encoders.
        fingerprint: The encoder's full fingerprint, which includes its class:
            `encoding.full_fingerprint`.

    Attributes:
        dim: Length of the vectors in the first shard; None if there is no shard. Shards with
            another length count as unreadable.
        dropped: Number of shards that were unreadable or damaged, and are removed.

    Raises:
        CammsrError: If the operating system refuses to read the cache.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        name = hashlib.sha256(fingerprint.encode("utf-8")).hexdigest()
        self.folder = folder / "features" / name
        self.fingerprint = fingerprint
        self.dim: int | None = None
        self.dropped = 0
        self._shards: list[Path] = []
        self._index()

    def __len__(self) -> int:
        return len(self._key_M)

    def find(self, keys: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the position of each key's vector for `read`: int64 [K], -1 for a cache miss.

        Args:
            keys: uint8 [K, 32].
        """
        if not len(self):
            return np.full(len(keys), -1, np.int64)
        wanted = _as_one(keys)
        place = np.searchsorted(self._key_M, wanted).clip(max=len(self) - 1)
        return np.where(self._key_M[place] == wanted, place, -1)

    def read(
        self, places: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Read the vectors at the given positions, shard by shard.

        A damaged shard is removed and yields no vectors.

        Args:
            places: int64 [K] from `find`; -1 is skipped.

        Yields:
            Indices into `places`, and their vectors, float32 [n, dim].

        Raises:
            CammsrError: If the operating system refuses to read a shard, or if the shard has been
                removed in the meantime.
        """
        known = np.flatnonzero(places >= 0)
        shard = self._shard_M[places[known]]
        known = known[np.argsort(shard, kind="stable")]
        shard = self._shard_M[places[known]]
        starts = np.flatnonzero(np.diff(shard, prepend=-1))
        for some in np.split(known, starts[1:]) if len(known) else ():
            path = self._shards[int(self._shard_M[places[some[0]]])]
            try:
                with safe_open(path, framework="numpy") as opened:
                    keys: NDArray[np.uint8] = opened.get_tensor("keys")
                    values: NDArray[np.float32] = opened.get_tensor("values")
                    digest = (opened.metadata() or {}).get(_DIGEST)
            except (OSError, SafetensorError) as error:
                raise self._unreadable(error) from error
            if digest != _digest(keys, values):
                self._drop(path)
                continue
            yield some, values[self._row_M[places[some]]]

    def write(self, keys: NDArray[np.uint8], values: NDArray[np.float32]) -> None:
        """Add a shard for later runs; do nothing if there are no vectors.

        Args:
            keys: uint8 [n, 32].
            values: float32 [n, dim].

        Raises:
            CammsrError: If the cache folder cannot be written to.
        """
        if not len(keys):
            return
        try:
            self._write(keys, values)
        except (OSError, SafetensorError) as error:
            raise CammsrError(
                f"the feature cache {self.folder.parent} cannot be written to: {error}",
                "make room or choose another cache folder; what is already there stays good",
            ) from error

    def _write(self, keys: NDArray[np.uint8], values: NDArray[np.float32]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "fingerprint.txt"
        if not about.exists():
            about.write_text(self.fingerprint + "\n", encoding="utf-8")
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:32]
        # The temporary name is unique: another run may write the same shard at the same time.
        partial = self.folder / f".{name}.{uuid.uuid4().hex}.partial"
        try:
            with usual_permissions(partial):
                save_file(
                    {"keys": keys, "values": values}, partial, {_DIGEST: _digest(keys, values)}
                )
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(self.folder / f"{name}.safetensors")
        finally:
            partial.unlink(missing_ok=True)

    def _index(self) -> None:
        """Record the position of each key's vector; remove and count unreadable shards."""
        self._remove_left_behind()
        keys, rows, shards = [], [], []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                found = self._keys(path)
            except (SafetensorError, ValueError):
                self._drop(path)
                continue
            except FileNotFoundError:  # another run has removed it in the meantime
                continue
            except OSError as error:  # an error of the system; the shard may be intact
                raise self._unreadable(error) from error
            keys.append(found)
            rows.append(np.arange(len(found), dtype=np.int32))
            shards.append(np.full(len(found), len(self._shards), np.int32))
            self._shards.append(path)
        none = np.zeros(0, np.int32)
        every = _as_one(np.concatenate([np.zeros((0, KEY_BYTES), np.uint8), *keys]))
        self._key_M, first = np.unique(every, return_index=True)
        self._row_M = np.concatenate([none, *rows])[first]
        self._shard_M = np.concatenate([none, *shards])[first]

    def _drop(self, shard: Path) -> None:
        self.dropped += 1
        shard.unlink(missing_ok=True)

    def _remove_left_behind(self) -> None:
        """Remove partial shards of killed runs."""
        oldest = time.time() - _LEFT_BEHIND_SECONDS
        for path in self.folder.glob(".*.partial"):
            with suppress(FileNotFoundError):  # another run may remove it at the same time
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _unreadable(self, error: Exception) -> CammsrError:
        return CammsrError(
            f"the feature cache {self.folder} cannot be read: {error}",
            "run the same command again; if that does not help, choose another cache folder with "
            "CAMMSR_CACHE_DIR",
        )

    def _keys(self, shard: Path) -> NDArray[np.uint8]:
        """Return a shard's keys; raise ValueError if this class does not write such shards."""
        shard.open("rb").close()  # `safe_open` reports every system error as "no such file"
        with safe_open(shard, framework="numpy") as opened:
            if set(opened.keys()) != {"keys", "values"}:
                raise ValueError("other tensors")
            keys: NDArray[np.uint8] = opened.get_tensor("keys")
            values = opened.get_slice("values")
            shape, kind = values.get_shape(), values.get_dtype()
        if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES or kind != "F32":
            raise ValueError("other types")
        if len(shape) != 2 or shape[0] != len(keys) or self.dim not in (None, shape[1]):
            raise ValueError("other shapes")
        self.dim = int(shape[1])
        return keys


def _digest(keys: NDArray[np.uint8], values: NDArray[np.float32]) -> str:
    """Return the SHA-256 of a shard's content."""
    digest = hashlib.sha256(np.ascontiguousarray(keys).data)
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _as_one(keys: NDArray[np.uint8]) -> NDArray[Any]:
    """Convert uint8 [K, 32] to [K], where each key is one comparable value."""
    return np.ascontiguousarray(keys).view(f"V{KEY_BYTES}").ravel()
