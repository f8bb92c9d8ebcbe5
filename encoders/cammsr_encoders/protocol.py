"""What an encoder is: the contract between cammsr and whatever turns media into vectors.

An encoder is found by its entry point in the group `cammsr.encoders`: a class, called as
`Class(model, device=..., precision=..., **options)`. `cammsr encoders new` starts one.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

API = 1
"""Version of this contract; an encoder says in its `api` for which one it was written."""

MEDIA_FIELDS = ("image", "video")
"""Item fields whose value is a file path, made absolute and checked before `load` sees it."""

ENTRY_POINTS = "cammsr.encoders"
"""The entry-point group in which encoders register."""

PRECISIONS = ("float32", "bfloat16")
"""What `precision` may be: bfloat16 means autocast, or weights of that type on a GPU; the result is
float32 either way."""


MODALITY_NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What a modality may be called, whole; "id" is taken by the items' own embeddings."""


class BadSample(ValueError):  # noqa: N818 - the contract's name, and plugins raise it
    """One item's text, picture or clip cannot be used; the others can."""


class WeightsUnavailable(RuntimeError):  # noqa: N818
    """A model's weights are neither here nor to be had; the message ends with what to do."""


class UnknownOption(TypeError):  # noqa: N818
    """An encoder was given an option that it does not have; the message lists those it has."""


@runtime_checkable
class Encoder(Protocol):
    """Turns the items of a catalogue into vectors of one modality.

    Building one and asking for its `fingerprint` must be cheap: the model is loaded by the first
    `encode` or `dim`. One that reads media is sent to worker processes for `load`, so it must be
    picklable; leave a loaded model out of `__getstate__`. Besides what is listed here it may offer:

    - `cost(item) -> float`: items of like cost are then batched together;
    - `counts_as: int`: how many samples an item counts as in a batch (a clip: its frames);
    - `start_encoding`: None, or as `encode`, but it gives a function that waits for the vectors, so
      that one batch is made ready while a GPU is at the one before; two are then under way;
    - `moments(item) -> list[tuple[float, Any]]`: of a clip, its frames, each with its second
      from the beginning and as a sample for `encode`, so that the one that fits can be found;
    - `weights`, a string: where its model's weights come from, for people;
    - `example_items(folder: Path) -> list[dict[str, str]]`: small items to check it with, if it
      needs others than any text, picture or clip; files go into the folder.

    Attributes:
        api: The contract it was written for, `API`; a class attribute.
        modality: What it yields: "text", "image", "video", "audio", ...
        fields: The item fields it reads; an item with none of them lacks the modality.
    """

    api: int
    modality: str
    fields: tuple[str, ...]

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    @property
    def fingerprint(self) -> str:
        """What decides the output: package, version, weights, each option. Cached work hangs on it.

        Raises:
            WeightsUnavailable: If the weights cannot be identified.
        """
        ...

    def load(self, item: Mapping[str, str]) -> Any:
        """Read and decode one item, on the CPU; in worker processes if it reads `MEDIA_FIELDS`.

        Args:
            item: Text, or an absolute path for media, by field; at least one of `fields`.

        Raises:
            BadSample: If the item cannot be used (ValueError and OSError count as such too).
        """
        ...

    def encode(self, samples: list[Any]) -> NDArray[np.float32]:
        """Vectors for what `load` returned; runs on the device.

        Returns:
            float32 [len(samples), dim], in the order of `samples`.

        Raises:
            WeightsUnavailable: If the weights cannot be had.
        """
        ...


def check_options(encoder: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse option names that an encoder does not have.

    Raises:
        UnknownOption: Naming the strange ones and listing the known ones.
    """
    known = sorted(known)
    strange = sorted(set(given) - set(known))
    if strange:
        names = ", ".join(repr(name) for name in strange)
        has = f"it has: {', '.join(known)}" if known else "it has none"
        raise UnknownOption(f"encoder {encoder!r} has no option {names}; {has}")


def check_precision(precision: str) -> str:
    """The precision, if it is one of `PRECISIONS`; raises ValueError otherwise."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    return precision


def whole_number(name: str, value: int | str, low: int, high: int) -> int:
    """An option's value as an integer between `low` and `high`, both allowed.

    Args:
        name: The option, for the message.
        value: As given; a string where it comes from a command line.
        low: Smallest value allowed.
        high: Largest value allowed.

    Raises:
        ValueError: If it is not a whole number, or out of range.
    """
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"option {name}={value!r} is not a whole number") from None
    if not low <= number <= high:
        raise ValueError(f"option {name}={number} is not between {low} and {high}")
    return number


def class_name(kind: type) -> str:
    """What names an encoder's class in its fingerprint."""
    return f"{kind.__module__}:{kind.__qualname__}"


def fingerprint_of(encoder: object, package: str, **facts: object) -> str:
    """A fingerprint: the encoder's class, its package's version and the facts, as one JSON line.

    Args:
        encoder: The encoder.
        package: Name of the distribution whose version counts.
        facts: Weights, options: all that changes the output.
    """
    kind = type(encoder)
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    content = {"encoder": class_name(kind), "version": version, **facts}
    return json.dumps(content, sort_keys=True)
