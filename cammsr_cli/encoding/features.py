"""Features: the vectors of one modality of a whole catalogue, and how they are asked for.

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
"""Called with distinct inputs done (cached ones too), distinct inputs in all, and failed ones."""

ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar for a modality of the given name."""

StoredType = Literal["float16", "float32"]


@dataclass(frozen=True)
class Shard:
    """Which part of the work is done here.

    Attributes:
        number: From 1.
        count: Parts in all.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "i/n", 1 <= i <= n.

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
        batch_size: Samples that pass through the model together: texts, pictures, frames.
        workers: Processes that decode media; 0 decodes in this one.
        dtype: What the features are stored as.
        cache_dir: Where finished vectors are kept between runs; None keeps none.
        decode_seconds: An item takes so long to decode at most, where workers decode.
        find_url: The file that a media URL gave, see `media.resolve_media`.
        scratch_dir: Where vectors are gathered in a file without a name; None does so in memory.
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
    """Something of an item that could not be encoded.

    The item has no vector of that modality; of an encoder that reads several fields it may have one
    of the others.

    Attributes:
        item_id: The item.
        modality: What is missing, or lacks a part.
        path: The media path as written in the items file; None if no file is to blame.
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
        present: bool [N].
        problems: What could not be encoded.
        encoded: Distinct inputs encoded by this run.
        cached: Distinct inputs taken from the cache.
        fingerprint: What decided the values.
        encoder: Its name.
        fields: The item fields it reads.
        notes: Counts for people.
        inputs: uint8 [N, 32], SHA-256 of what was encoded, zeros for nothing; None if not known.
        elsewhere: Items that other shards encode.
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
    """A vector as it is stored, or why it cannot be."""
    if not np.isfinite(vector).all():
        return "the vector is not finite"
    with np.errstate(over="ignore"):
        stored = vector.astype(dtype)
    if not np.isfinite(stored).all():
        return f"a value of {np.abs(vector).max():.3g} does not fit {dtype}; store as float32"
    return stored
