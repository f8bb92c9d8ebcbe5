"""Features: the vectors of one modality of a whole catalogue, and the options to compute them.

Legend: N items, D the encoder's dim.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.encoding.rows import RowFile
from cammsr_cli.errors import UsageError
from cammsr_cli.media.paths import FindUrl, not_downloaded

Progress = Callable[[int, int, int], None]
"""Called with the numbers of finished (or cached), of all, and of failed distinct inputs."""

ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar for a modality of the given name."""

StoredType = Literal["float16", "float32"]


@dataclass(frozen=True)
class Shard:
    """The part of the work that this run does.

    Attributes:
        number: Number of this part, from 1.
        count: Total number of parts.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse "i/n", 1 <= i <= n.

        Raises:
            UsageError: If the text has another form.
        """
        number, slash, count = text.partition("/")
        digits = number.isascii() and number.isdigit() and count.isascii() and count.isdigit()
        if not slash or not digits or not 1 <= int(number) <= int(count):
            raise UsageError(f"--shard {text}: write i/n, from 1/n to n/n, such as --shard 2/8")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class FeatureOptions:
    """How encoders are run.

    Attributes:
        batch_size: Samples per forward pass of the model: texts, images, frames.
        workers: Processes that decode media; 0 decodes in this process.
        dtype: The type in which the features are stored.
        cache_dir: The folder that keeps finished vectors between runs; None keeps none.
        decode_seconds: Time limit for decoding one item; needs workers.
        find_url: Returns the downloaded file of a media URL, see `media.resolve_media`.
        scratch_dir: The folder for an unnamed temporary file of vectors; None keeps the vectors in
            memory.
        shard: The part of the distinct inputs that is encoded.
    """

    batch_size: int = 32
    workers: int = 0
    dtype: StoredType = "float16"
    cache_dir: Path | None = None
    decode_seconds: float = 120.0
    find_url: FindUrl = not_downloaded
    scratch_dir: Path | None = None
    shard: Shard = Shard()


@dataclass(frozen=True)
class Problem:
    """A part of an item that could not be encoded.

    The item has no vector of that modality. If the encoder reads several fields, the item may still
    have a vector of the other fields.

    Attributes:
        item_id: The item.
        modality: The modality that is missing or incomplete.
        path: The media path as written in the items file; None if a file is not the cause.
        reason: Why, in one line.
    """

    item_id: str
    modality: str
    path: str | None
    reason: str


@dataclass(frozen=True)
class Features:
    """One modality of a whole catalogue.

    Attributes:
        values: float16 or float32 [N, D], in memory or in a file; zeros where `present` is False.
        present: bool [N], the mask of items with a vector.
        problems: What could not be encoded.
        encoded: Number of distinct inputs that this run encoded.
        cached: Number of distinct inputs taken from the cache.
        fingerprint: Identifies everything that determines the values.
        encoder: Name of the encoder.
        fields: The item fields that the encoder reads.
        notes: Counts and remarks for the user.
        inputs: uint8 [N, 32], SHA-256 of each item's input, zeros for an item without one; None if
            not known.
        elsewhere: Number of items that other shards encode.
    """

    values: NDArray[Any] | RowFile
    present: NDArray[np.bool_]
    problems: list[Problem]
    encoded: int
    cached: int
    fingerprint: str
    encoder: str
    fields: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    inputs: NDArray[np.uint8] | None = None
    elsewhere: int = 0


def fitting(vector: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | str:
    """Return a vector in the stored type, or the reason why it cannot be stored."""
    if not np.isfinite(vector).all():
        return "the vector is not finite"
    with np.errstate(over="ignore"):
        stored = vector.astype(dtype)
    if not np.isfinite(stored).all():
        return f"a value of {np.abs(vector).max():.3g} does not fit {dtype}; store as float32"
    return stored
