"""Gathers the deduplicated inputs of a catalogue, identified by the hash of their content.

Legend: N items, K distinct inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import numpy as np
from cammsr_encoders.protocol import MEDIA_FIELDS, Encoder
from numpy.typing import NDArray

from cammsr_cli.encoding.cache import KEY_BYTES
from cammsr_cli.encoding.decode import Failure, Sample
from cammsr_cli.encoding.engine import encoder_faults
from cammsr_cli.encoding.features import FeatureOptions, Problem
from cammsr_cli.media.addresses import is_web_address
from cammsr_cli.media.cache import MediaCache
from cammsr_cli.media.hashes import MediaHashes
from cammsr_cli.media.paths import FindUrl, resolve_media


@dataclass(frozen=True)
class Inputs:
    """The distinct inputs of a catalogue, in order of first appearance.

    Attributes:
        records: [N] the fields of each item.
        fields: The fields that the encoder reads.
        media_root: The folder that media paths are relative to.
        find_url: Returns the downloaded file of a media URL.
        keys: uint8 [K, 32], SHA-256 of each input.
        first_row: int64 [K], the first item that has this input.
        number_of_row: int64 [N], the input of each item; -1 for an item without one.
        cost: float64 [K], in the encoder's own unit; None if the encoder defines no cost.
        without: Number of items with none of the fields.
        problems: Missing and refused files.
        refused: The same as (item, field); these fields are not part of a key.
    """

    records: Sequence[Mapping[str, str]]
    fields: tuple[str, ...]
    media_root: Path | None
    find_url: FindUrl
    keys: NDArray[np.uint8]
    first_row: NDArray[np.int64]
    number_of_row: NDArray[np.int64]
    cost: NDArray[np.float64] | None
    without: int
    problems: list[Problem]
    refused: set[tuple[int, str]]

    def sample(self, number: int) -> Sample:
        """Return the input of `load`; a `Failure` if a file has disappeared since it was hashed."""
        row = int(self.first_row[number])
        sample: dict[str, str] = {}
        for one, value in _given(self.records[row], self.fields).items():
            if (row, one) in self.refused:
                continue
            try:
                media = one in MEDIA_FIELDS
                sample[one] = _resolved(value, self.media_root, self.find_url) if media else value
            except ValueError as gone:
                return Failure(str(gone))
        return sample

    def rows(self, number: int) -> NDArray[np.int64]:
        """Return the items that have this input."""
        start, stop = self._starts[number : number + 2]
        return self._rows_by_number[start:stop]

    def written(self, row: int) -> str | None:
        """Return the media path of an item, as written in the items file; None if it has none."""
        given = _given(self.records[row], self.fields)
        return next((given[one] for one in given if one in MEDIA_FIELDS), None)

    def keys_by_row(self) -> NDArray[np.uint8]:
        """Return the key of each item, uint8 [N, 32]; zeros for an item without an input."""
        found = np.zeros((len(self.number_of_row), KEY_BYTES), np.uint8)
        has = self.number_of_row >= 0
        found[has] = self.keys[self.number_of_row[has]]
        return found

    @cached_property
    def _rows_by_number(self) -> NDArray[np.int64]:
        rows = np.argsort(self.number_of_row, kind="stable")
        return rows[np.count_nonzero(self.number_of_row < 0) :]

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        counts = np.bincount(self.number_of_row[self._rows_by_number], minlength=len(self.keys))
        return np.append(0, np.cumsum(counts))


def gather_inputs(
    encoder: Encoder,
    name: str,
    records: Sequence[Mapping[str, str]],
    item_ids: Sequence[str],
    media_root: Path | None,
    options: FeatureOptions,
) -> Inputs:
    """Gather the catalogue's distinct inputs: resolve all media, and hash each file once."""
    find_url = options.find_url
    problems: list[Problem] = []
    refused: set[tuple[int, str]] = set()
    without = 0
    keys = bytearray(KEY_BYTES * len(records))
    has = np.zeros(len(records), bool)
    cost_of: Callable[[Mapping[str, str]], float] | None = getattr(encoder, "cost", None)
    costs = np.zeros(len(records) if cost_of else 0)
    hashes = MediaHashes(options.cache_dir) if _reads_media(encoder) else None
    cache = None if options.cache_dir is None else MediaCache(options.cache_dir)
    # Items may share a file, and such items are mostly next to each other.
    resolve = lru_cache(maxsize=4096)(partial(_resolved, media_root=media_root, find_url=find_url))
    for row, record in enumerate(records):
        given = _given(record, encoder.fields)
        sample: dict[str, str] = {}
        digest = hashlib.sha256()
        for one, value in given.items():
            try:
                usable = resolve(value) if one in MEDIA_FIELDS else value
                content = _content(one, usable, hashes, cache)
            except ValueError as error:
                problems.append(Problem(item_ids[row], encoder.modality, value, str(error)))
                refused.add((row, one))
                continue
            sample[one] = usable
            digest.update(f"{one}\0{len(content)}\0".encode() + content)
        without += not given
        if not sample:
            continue
        keys[KEY_BYTES * row : KEY_BYTES * (row + 1)] = digest.digest()
        has[row] = True
        if cost_of is not None:
            with encoder_faults(name, "to tell an item's cost"):
                costs[row] = cost_of(sample)
    if hashes is not None:
        hashes.close()
    key_N = np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES)
    first_row, number_of_row = _distinct(key_N, has)
    return Inputs(
        records, encoder.fields, media_root, find_url, key_N[first_row], first_row, number_of_row,
        costs[first_row] if cost_of is not None else None, without, problems, refused,
    )  # fmt: skip


def _distinct(
    keys: NDArray[np.uint8], has: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row of each distinct key, and each row's index into these (-1: no key)."""
    rows = np.flatnonzero(has)
    _, first, inverse = np.unique(
        keys[rows].view(f"V{KEY_BYTES}").ravel(), return_index=True, return_inverse=True
    )
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    number_of_row = np.full(len(keys), -1, np.int64)
    number_of_row[rows] = rank[inverse]
    return rows[first[order]], number_of_row


def _reads_media(encoder: Encoder) -> bool:
    return any(one in MEDIA_FIELDS for one in encoder.fields)


def _given(record: Mapping[str, str], fields: tuple[str, ...]) -> dict[str, str]:
    return {one: value for one in fields if (value := record.get(one) or "").strip()}


def _resolved(value: str, media_root: Path | None, find_url: FindUrl) -> str:
    """Return the real path of a media file, or its URL if it is still to be downloaded.

    Raises:
        ValueError: With the reason, if the file cannot be used.
    """
    path = resolve_media(value, media_root, find_url)
    if isinstance(path, str):
        raise ValueError(path)
    return value if path is None else str(path)


def _content(one: str, usable: str, hashes: MediaHashes | None, cache: MediaCache | None) -> bytes:
    """Return bytes that identify a field's content; a URL itself until its file is downloaded.

    Raises:
        ValueError: With the reason, if a media file cannot be read.
    """
    if one not in MEDIA_FIELDS or hashes is None or is_web_address(usable):
        return usable.encode("utf-8", "surrogatepass")
    path = Path(usable)
    try:
        digest = hashes.sha256(path)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if cache is not None and cache.drop_if_damaged(path, digest):
        raise ValueError("its download was damaged and is removed; run again to download it anew")
    return digest
