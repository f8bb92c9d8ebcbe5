"""Runs an encoder over a catalogue: gather, hash, plan, encode what is missing, assemble.

The plan covers all distinct inputs, cached or not, in an order that depends on nothing else; each
of its chunks encodes only its own missing inputs. A killed run, started again, therefore forms the
same batches, and what it makes is bit for bit what an undisturbed run would have made.

Legend: N items, K distinct inputs, D the encoder's dim.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cammsr_encoders.protocol import MEDIA_FIELDS, Encoder, WeightsUnavailable
from numpy.typing import NDArray

from cammsr_cli.errors import CammsrError
from cammsr_cli.features.cache import FeatureCache, Key
from cammsr_cli.features.decoding import Failure, decoded, reason_of
from cammsr_cli.features.media import FindUrl, not_downloaded, resolve_media
from cammsr_cli.files import sha256_of

Progress = Callable[[int, int, int], None]
"""Called with distinct inputs done (cached ones too), distinct inputs in all, and failed ones."""

StoredType = Literal["float16", "float32"]

# Finished vectors wait at most so long (and until their chunk ends) before they are on the disk.
_FLUSH_SECONDS = 5.0


@dataclass(frozen=True)
class FeatureOptions:
    """How encoders are run.

    Attributes:
        batch_size: Items that pass through the model together.
        workers: Processes that decode media; 0 decodes in this one.
        dtype: What the features are stored as.
        cache_dir: Where finished vectors are kept between runs; None keeps none.
        decode_seconds: An item takes so long to decode at most, where workers decode.
        find_url: The file that a media URL gave, see `media.resolve_media`.
    """

    batch_size: int = 32
    workers: int = 0
    dtype: StoredType = "float16"
    cache_dir: Path | None = None
    decode_seconds: float = 120.0
    find_url: FindUrl = not_downloaded


@dataclass(frozen=True)
class Problem:
    """An item that should have had a vector and has none.

    Attributes:
        item_id: The item.
        modality: What is missing.
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
        values: float16 or float32 [N, D]; zeros where `present` is False.
        present: bool [N].
        problems: Items that should have had a vector.
        encoded: Distinct inputs encoded by this run.
        cached: Distinct inputs taken from the cache.
        fingerprint: What decided the values.
        encoder: Its name.
        fields: The item fields it reads.
        notes: Counts for people.
    """

    values: NDArray[Any]
    present: NDArray[np.bool_]
    problems: list[Problem]
    encoded: int
    cached: int
    fingerprint: str
    encoder: str
    fields: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What `encode_items` would do.

    Attributes:
        items: Items that have something to encode.
        unique: Distinct inputs among them.
        cached: Those that an earlier run has encoded.
        without: Items with none of the encoder's fields.
        problems: Files that are missing or refused; a file that cannot be decoded is not known yet.
    """

    items: int
    unique: int
    cached: int
    without: int
    problems: list[Problem]

    @property
    def to_encode(self) -> int:
        """Distinct inputs still to encode."""
        return self.unique - self.cached


@dataclass
class _Inputs:
    """The distinct inputs of a catalogue, in order of first appearance.

    Attributes:
        keys: [K].
        samples: [K] what `load` gets.
        rows: [K] the items, by row, that have this input.
        written: [K] the media path as written by each of those items, for messages.
        without: Items with none of the fields.
        problems: Missing and refused files.
    """

    keys: list[Key] = field(default_factory=list)
    samples: list[dict[str, str]] = field(default_factory=list)
    rows: list[list[int]] = field(default_factory=list)
    written: list[list[str | None]] = field(default_factory=list)
    without: int = 0
    problems: list[Problem] = field(default_factory=list)


def encode_items(
    encoder: Encoder,
    records: Sequence[Mapping[str, str]],
    item_ids: Sequence[str],
    media_root: Path | None,
    options: FeatureOptions | None = None,
    progress: Progress | None = None,
    name: str | None = None,
) -> Features:
    """Vectors of one modality for all items.

    An item with none of the encoder's fields is masked silently; one whose file is missing, refused
    or broken is masked with a `Problem`. Identical content is encoded once, cached content never.

    Args:
        encoder: The encoder.
        records: [N] each item's fields; media as written in the items file.
        item_ids: [N] for messages.
        media_root: The folder that media paths are relative to.
        options: How to run; the defaults if None.
        progress: Called after each batch with (done, total, failed) distinct inputs.
        name: The encoder's name, for messages and the result; its class if None.

    Raises:
        CammsrError: If the weights cannot be had, memory runs out, or the encoder misbehaves.
    """
    options = options or FeatureOptions()
    name = name or _name_of(encoder)
    with _told(name):
        fingerprint, dim = encoder.fingerprint, encoder.dim
    inputs = _gather(encoder, records, item_ids, media_root, options.find_url)
    cache = _cache(options.cache_dir, fingerprint, dim)
    values = np.zeros((len(records), dim), options.dtype)
    result = Features(
        values, np.zeros(len(records), bool), list(inputs.problems), 0, 0,
        fingerprint, name, encoder.fields,
    )  # fmt: skip
    sink = _Sink(encoder.modality, inputs, item_ids, result, progress)
    numbers = {key: number for number, key in enumerate(inputs.keys)}
    for key, vector in cache.read(key for key in inputs.keys if key in cache) if cache else ():
        sink.put(numbers[key], vector)
    cached = sink.done
    sink.tell()
    chunks = _missing_chunks(encoder, inputs, cache, options.batch_size)
    _encode_chunks(encoder, name, dim, chunks, inputs, cache, options, sink)
    notes = []
    if cache and cache.dropped:
        notes.append(f"{cache.dropped} unreadable shards of the cache dropped and encoded again")
    return Features(
        values, result.present, result.problems, sink.encoded, cached,
        fingerprint, name, encoder.fields, notes,
    )  # fmt: skip


def plan_items(
    encoder: Encoder,
    records: Sequence[Mapping[str, str]],
    item_ids: Sequence[str],
    media_root: Path | None,
    options: FeatureOptions | None = None,
    name: str | None = None,
) -> Plan:
    """What `encode_items` would do, without decoding or encoding anything or loading a model.

    Raises:
        CammsrError: If the weights cannot be had.
    """
    options = options or FeatureOptions()
    with _told(name or _name_of(encoder)):
        fingerprint = encoder.fingerprint
    inputs = _gather(encoder, records, item_ids, media_root, options.find_url)
    cache = _cache(options.cache_dir, fingerprint, None)
    cached = sum(key in cache for key in inputs.keys) if cache else 0
    items = sum(len(rows) for rows in inputs.rows)
    return Plan(items, len(inputs.keys), cached, inputs.without, inputs.problems)


def _gather(
    encoder: Encoder,
    records: Sequence[Mapping[str, str]],
    item_ids: Sequence[str],
    media_root: Path | None,
    find_url: FindUrl,
) -> _Inputs:
    """The catalogue's distinct inputs, media resolved and read once to name their content."""
    inputs = _Inputs()
    number_of: dict[Key, int] = {}
    hashes: dict[Path, str] = {}
    for row, record in enumerate(records):
        given = {one: value for one in encoder.fields if (value := record.get(one) or "").strip()}
        sample: dict[str, str] = {}
        digest = hashlib.sha256()
        for one, value in given.items():
            try:
                usable, content = _content(one, value, media_root, find_url, hashes)
            except ValueError as refused:
                inputs.problems.append(
                    Problem(item_ids[row], encoder.modality, value, str(refused))
                )
                continue
            sample[one] = usable
            digest.update(f"{one}\0{len(content)}\0".encode() + content)
        inputs.without += not given
        if not sample:
            continue
        key = digest.digest()
        number = number_of.setdefault(key, len(inputs.keys))
        if number == len(inputs.keys):
            inputs.keys.append(key)
            inputs.samples.append(sample)
            inputs.rows.append([])
            inputs.written.append([])
        inputs.rows[number].append(row)
        path = next((given[one] for one in sample if one in MEDIA_FIELDS), None)
        inputs.written[number].append(path)
    return inputs


def _content(
    one: str,
    value: str,
    media_root: Path | None,
    find_url: FindUrl,
    hashes: dict[Path, str],
) -> tuple[str, bytes]:
    """What `load` gets for a field, and bytes that name its content.

    Raises:
        ValueError: With the reason, if a media file cannot be used.
    """
    if one not in MEDIA_FIELDS:
        return value, value.encode("utf-8", "surrogatepass")
    path = resolve_media(value, media_root, find_url)
    if path is None:  # in a plan: each URL counts as a content of its own until it is here
        return value, value.encode("utf-8", "surrogatepass")
    if isinstance(path, str):
        raise ValueError(path)
    if path not in hashes:
        try:
            hashes[path] = sha256_of(path)
        except OSError as error:
            raise ValueError(f"cannot be read: {error.strerror}") from error
    return str(path), bytes.fromhex(hashes[path])


def _cache(folder: Path | None, fingerprint: str, dim: int | None) -> FeatureCache | None:
    return FeatureCache(folder, fingerprint, dim) if folder is not None else None


def _missing_chunks(
    encoder: Encoder, inputs: _Inputs, cache: FeatureCache | None, batch_size: int
) -> list[list[int]]:
    """Chunks of the plan over all inputs, each left with only its missing ones."""
    order = list(range(len(inputs.keys)))
    cost: Callable[[Mapping[str, str]], float] | None = getattr(encoder, "cost", None)
    if cost is not None:
        # Dearest first: what does not fit the memory fails at once, not at the end.
        order.sort(key=lambda number: (-cost(inputs.samples[number]), inputs.keys[number]))
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if cache is not None:
        chunks = [[one for one in chunk if inputs.keys[one] not in cache] for chunk in chunks]
    return [chunk for chunk in chunks if chunk]


class _Sink:
    """Takes one vector or failure an input, in any order, and writes it to the items' rows."""

    def __init__(
        self,
        modality: str,
        inputs: _Inputs,
        item_ids: Sequence[str],
        result: Features,
        progress: Progress | None,
    ) -> None:
        self.modality, self.inputs, self.item_ids = modality, inputs, item_ids
        self.result, self.progress = result, progress
        self.done = self.failed = self.encoded = 0

    def put(self, number: int, vector: NDArray[np.float32]) -> None:
        """Store a vector for all items with this input; one that does not fit is a problem."""
        stored = fitting(vector, self.result.values.dtype)
        if isinstance(stored, str):
            self.fail(number, stored)
            return
        rows = self.inputs.rows[number]
        self.result.values[rows] = stored
        self.result.present[rows] = True
        self.done += 1

    def fail(self, number: int, reason: str) -> None:
        """Record why the items with this input have no vector."""
        rows, paths = self.inputs.rows[number], self.inputs.written[number]
        self.result.problems.extend(
            Problem(self.item_ids[row], self.modality, path, reason)
            for row, path in zip(rows, paths, strict=True)
        )
        self.done += 1
        self.failed += 1

    def tell(self) -> None:
        """Report how far things are."""
        if self.progress is not None:
            self.progress(self.done, len(self.inputs.keys), self.failed)


def fitting(vector: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | str:
    """A vector as it is stored, or why it cannot be."""
    if not np.isfinite(vector).all():
        return "the vector is not finite"
    with np.errstate(over="ignore"):
        stored = vector.astype(dtype)
    if not np.isfinite(stored).all():
        return f"a value of {np.abs(vector).max():.3g} does not fit {dtype}; store as float32"
    return stored


def _encode_chunks(
    encoder: Encoder,
    name: str,
    dim: int,
    chunks: list[list[int]],
    inputs: _Inputs,
    cache: FeatureCache | None,
    options: FeatureOptions,
    sink: _Sink,
) -> None:
    """Encode chunk after chunk; whatever ends this early, finished chunks are in the cache."""
    waiting: dict[Key, NDArray[np.float32]] = {}
    flushed = time.monotonic()
    try:
        for chunk, samples in _loaded(encoder, chunks, inputs, options):
            good = [one for one, sample in enumerate(samples) if not isinstance(sample, Failure)]
            vectors = _encoded(encoder, name, dim, [samples[one] for one in good])
            for one, vector in zip(good, vectors, strict=True):
                sink.put(chunk[one], vector)
                if np.isfinite(vector).all():
                    waiting[inputs.keys[chunk[one]]] = vector
                    sink.encoded += 1
            for number, sample in zip(chunk, samples, strict=True):
                if isinstance(sample, Failure):
                    sink.fail(number, sample.reason)
            sink.tell()
            if cache is None:
                waiting = {}
            elif time.monotonic() - flushed > _FLUSH_SECONDS:
                cache.write(waiting)
                waiting, flushed = {}, time.monotonic()
    finally:
        if cache is not None:
            cache.write(waiting)


def _encoded(encoder: Encoder, name: str, dim: int, samples: list[Any]) -> NDArray[np.float32]:
    """The encoder's vectors, float32 [n, dim], its answer checked."""
    if not samples:
        return np.zeros((0, dim), np.float32)
    with _told(name, f"on a batch of {len(samples)}"):
        vectors = np.asarray(encoder.encode(samples))
    if vectors.shape != (len(samples), dim) or vectors.dtype.kind not in "fiu":
        raise CammsrError(
            f"encoder {name!r} returned {vectors.dtype} {list(vectors.shape)} for "
            f"{len(samples)} samples; its contract is float32 {[len(samples), dim]}",
            "report it to the encoder's author",
        )
    return vectors.astype(np.float32)


def _loaded(
    encoder: Encoder,
    chunks: list[list[int]],
    inputs: _Inputs,
    options: FeatureOptions,
) -> Iterator[tuple[list[int], list[Any]]]:
    """Each chunk with its samples, in order; decoded ahead by at most about two batches."""
    media = any(one in MEDIA_FIELDS for one in encoder.fields)
    workers = min(options.workers, _processors()) if media else 0
    samples = [inputs.samples[number] for chunk in chunks for number in chunk]
    ahead = 2 * options.batch_size
    with closing(decoded(encoder, samples, workers, ahead, options.decode_seconds)) as stream:
        for chunk in chunks:
            yield chunk, list(islice(stream, len(chunk)))


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _told(name: str, doing: str = "") -> Iterator[None]:
    """Turn what an encoder raises into an error that names the encoder."""
    try:
        yield
    except CammsrError:
        raise
    except WeightsUnavailable as error:
        raise CammsrError(f"encoder {name!r}: {error}") from error
    except Exception as error:  # an encoder may be a stranger's; its fault is told as its own
        hint = None
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            hint = "use a smaller batch size"
        failed = " ".join(["failed", doing]).strip()
        raise CammsrError(f"encoder {name!r} {failed}: {reason_of(error)}", hint) from error


def _name_of(encoder: Encoder) -> str:
    return f"{type(encoder).__module__}:{type(encoder).__qualname__}"
