"""Runs an encoder over a catalogue: gather, hash, plan, encode what is missing, assemble.

The plan covers all distinct inputs, cached or not, in an order that depends on nothing else; each
of its chunks encodes only its own missing inputs. A killed run, started again, therefore forms the
same batches, and what it makes is bit for bit what an undisturbed run would have made; and so is
what several runs make that share the chunks.

Memory does not grow with the catalogue but for some hundred bytes an item: samples are made when
their turn comes, and vectors go to a file.

Legend: N items, K distinct inputs, D the encoder's dim.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cammsr_encoders.protocol import MEDIA_FIELDS, Encoder, class_name
from numpy.typing import NDArray

from cammsr_cli.encoding.cache import KEY_BYTES, FeatureCache
from cammsr_cli.encoding.decode import Failure, Sample
from cammsr_cli.encoding.engine import (
    Encoded,
    Encoding,
    Engine,
    full_fingerprint,
    told,
    vector_length,
)
from cammsr_cli.encoding.rows import RowFile
from cammsr_cli.errors import UsageError
from cammsr_cli.media.addresses import is_web_address
from cammsr_cli.media.hashes import MediaHashes
from cammsr_cli.media.paths import FindUrl, not_downloaded, resolve_media

Progress = Callable[[int, int, int], None]
"""Called with distinct inputs done (cached ones too), distinct inputs in all, and failed ones."""

ProgressBar = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar for a modality of the given name."""

StoredType = Literal["float16", "float32"]

# Finished vectors wait in memory until a chunk ends after so many seconds, or a hundredth of the
# time since the start if that is more (a long run shall not leave thousands of shards), or bytes.
_FLUSH_SECONDS = 5.0
_FLUSH_BYTES = 64 * 2**20


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


@dataclass(frozen=True)
class Plan:
    """What `encode_items` would do.

    Attributes:
        items: Items that have something to encode.
        unique: Distinct inputs among them.
        cached: Those that an earlier run has encoded.
        without: Items with none of the encoder's fields.
        problems: Files that are missing or refused; a file that cannot be decoded is not known yet.
        inputs: uint8 [N, 32], SHA-256 of what would be encoded, zeros for nothing.
        elsewhere: Items that other shards encode.
        dim: Length of a vector, as cached ones tell; None if there are none.
        fingerprint: What would decide the values.
    """

    items: int
    unique: int
    cached: int
    without: int
    problems: list[Problem]
    inputs: NDArray[np.uint8]
    elsewhere: int
    dim: int | None
    fingerprint: str

    @property
    def to_encode(self) -> int:
        """Distinct inputs still to encode."""
        return self.unique - self.cached


def encode_items(
    encoder: Encoder,
    records: Sequence[Mapping[str, str]],
    item_ids: Sequence[str],
    media_root: Path | None,
    options: FeatureOptions | None = None,
    progress: Progress | None = None,
    name: str | None = None,
    engine: Callable[[Encoding], Engine] | None = None,
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
        engine: What encodes; this process if None.

    Raises:
        CammsrError: If the weights cannot be had, memory runs out, or the encoder misbehaves.
    """
    options = options or FeatureOptions()
    name = name or class_name(type(encoder))
    with told(name):
        fingerprint = full_fingerprint(encoder, name)
    inputs = _gather(encoder, name, records, item_ids, media_root, options)
    plan = _Batches(inputs, options, _batch_items(encoder, name, options))
    cache = _cache(options.cache_dir, fingerprint)
    dim = cache.dim if cache is not None else None
    if dim is None:  # else the model is loaded by the first batch, if there is one
        with told(name):
            dim = vector_length(encoder, name)
    shape = len(records), dim
    result = Features(
        np.zeros(shape, options.dtype)
        if options.scratch_dir is None
        else RowFile(options.scratch_dir, shape, options.dtype),
        np.zeros(len(records), bool),
        list(inputs.problems), 0, 0,
        fingerprint, name, encoder.fields, [], inputs.keys_by_row(), plan.elsewhere,
    )  # fmt: skip
    sink = _Sink(encoder.modality, inputs, item_ids, result, plan.total, progress)
    missing = plan.mine
    if cache is not None:
        places = np.where(plan.mine, cache.find(inputs.keys), -1)
        missing = plan.mine & (places < 0)
        for numbers, vectors in cache.read(places):
            for number, vector in zip(numbers.tolist(), vectors, strict=True):
                sink.put(number, vector)
    cached = sink.done
    sink.tell()
    encoding = Encoding(name, dim, options.workers, options.decode_seconds)
    run = encoding.here(encoder) if engine is None else engine(encoding)
    _encode(run, list(plan.chunks(missing)), inputs, cache, sink)
    notes = []
    if cache is not None and cache.dropped:
        notes.append(f"{cache.dropped} unreadable shards of the cache dropped and encoded again")
    if sink.failed and not result.present.any():
        failed = result.problems[len(inputs.problems) :]
        notes.append(
            f"encoder {name!r} failed on all {len(failed):,} items that it was given; the first: "
            f"item {failed[0].item_id}: {failed[0].reason}"
        )
    return replace(result, encoded=sink.encoded, cached=cached, notes=notes)


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
    name = name or class_name(type(encoder))
    with told(name):
        fingerprint = full_fingerprint(encoder, name)
    inputs = _gather(encoder, name, records, item_ids, media_root, options)
    cache = _cache(options.cache_dir, fingerprint)
    batches = _Batches(inputs, options, _batch_items(encoder, name, options))
    mine = batches.mine
    return Plan(
        items=int(np.count_nonzero(inputs.number_of_row >= 0)) - batches.elsewhere,
        unique=int(mine.sum()),
        cached=int((cache.find(inputs.keys[mine]) >= 0).sum()) if cache else 0,
        without=inputs.without,
        problems=inputs.problems,
        inputs=inputs.keys_by_row(),
        elsewhere=batches.elsewhere,
        dim=cache.dim if cache else None,
        fingerprint=fingerprint,
    )


# --- what there is to encode --------------------------------------------------------------------


@dataclass(frozen=True)
class _Inputs:
    """The distinct inputs of a catalogue, in order of first appearance.

    Attributes:
        records: [N] each item's fields.
        fields: Those that are read.
        media_root: The folder that media paths are relative to.
        find_url: The file that a media URL gave.
        keys: uint8 [K, 32].
        first_row: int64 [K], the first item that has this input.
        number_of_row: int64 [N], each item's input; -1 for an item with none.
        cost: float64 [K], by the encoder's own measure; None if it has none.
        without: Items with none of the fields.
        problems: Missing and refused files.
        refused: The same by item and field; they are no part of a key.
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
        """What `load` gets for an input; a failure if a file is gone since it was hashed."""
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
        """The items that have an input."""
        start, stop = self._starts[number : number + 2]
        return self._rows_by_number[start:stop]

    def written(self, row: int) -> str | None:
        """The media path of an item, as written in the items file; None if it has none."""
        given = _given(self.records[row], self.fields)
        return next((given[one] for one in given if one in MEDIA_FIELDS), None)

    def keys_by_row(self) -> NDArray[np.uint8]:
        """uint8 [N, 32], each item's key; zeros for an item with none."""
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


def _gather(
    encoder: Encoder,
    name: str,
    records: Sequence[Mapping[str, str]],
    item_ids: Sequence[str],
    media_root: Path | None,
    options: FeatureOptions,
) -> _Inputs:
    """The catalogue's distinct inputs, media resolved and read once to name their content."""
    find_url = options.find_url
    problems: list[Problem] = []
    refused: set[tuple[int, str]] = set()
    without = 0
    keys = bytearray(KEY_BYTES * len(records))
    has = np.zeros(len(records), bool)
    cost_of: Callable[[Mapping[str, str]], float] | None = getattr(encoder, "cost", None)
    costs = np.zeros(len(records) if cost_of else 0)
    hashes = MediaHashes(options.cache_dir) if _reads_media(encoder) else None
    # Items may share a file, and those that do mostly stand together.
    resolve = lru_cache(maxsize=4096)(partial(_resolved, media_root=media_root, find_url=find_url))
    for row, record in enumerate(records):
        given = _given(record, encoder.fields)
        sample: dict[str, str] = {}
        digest = hashlib.sha256()
        for one, value in given.items():
            try:
                usable = resolve(value) if one in MEDIA_FIELDS else value
                content = _content(one, usable, hashes)
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
            with told(name, "to tell an item's cost"):
                costs[row] = cost_of(sample)
    if hashes is not None:
        hashes.close()
    key_N = np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES)
    first_row, number_of_row = _distinct(key_N, has)
    return _Inputs(
        records, encoder.fields, media_root, find_url, key_N[first_row], first_row, number_of_row,
        costs[first_row] if cost_of is not None else None, without, problems, refused,
    )  # fmt: skip


def _distinct(
    keys: NDArray[np.uint8], has: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that are the first with their key, and each row's number among these, -1 for none."""
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
    """The real path of a media file; its URL where it is yet to be downloaded.

    Raises:
        ValueError: With the reason, if it cannot be used.
    """
    path = resolve_media(value, media_root, find_url)
    if isinstance(path, str):
        raise ValueError(path)
    return value if path is None else str(path)


def _content(one: str, usable: str, hashes: MediaHashes | None) -> bytes:
    """Bytes that name a field's content; each URL counts as one of its own until it is here.

    Raises:
        ValueError: With the reason, if a media file cannot be read.
    """
    if one not in MEDIA_FIELDS or hashes is None or is_web_address(usable):
        return usable.encode("utf-8", "surrogatepass")
    try:
        return hashes.sha256(Path(usable))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def _cache(folder: Path | None, fingerprint: str) -> FeatureCache | None:
    return FeatureCache(folder, fingerprint) if folder is not None else None


# --- who encodes it, in which order -------------------------------------------------------------


def _batch_items(encoder: Encoder, name: str, options: FeatureOptions) -> int:
    """Items a batch: fewer where one counts as several samples."""
    with told(name, "to tell what an item counts as"):
        counts_as = int(getattr(encoder, "counts_as", 1))
    return max(1, options.batch_size // max(1, counts_as))


class _Batches:
    """The plan: all distinct inputs in chunks, those of like cost together; some are this shard's.

    Chunks are of one number of items. Up to four times as many of cheap ones, so that a batch is of
    one size with its padding, were no faster on a CPU: 28.4 texts a second against 28.8 (512 plots
    of MovieLens 1M through all-MiniLM-L6-v2, one thread), 326 against 333 (titles alone). It has
    not been tried on a GPU; `--batch-size` is there.

    Attributes:
        mine: bool [K], whether an input is this shard's.
        total: How many are.
        elsewhere: Items whose input is another shard's.
    """

    def __init__(self, inputs: _Inputs, options: FeatureOptions, size: int) -> None:
        if inputs.cost is None:
            self._order_K = np.arange(len(inputs.keys))
        else:
            # Dearest first: what does not fit the memory fails at once, not at the end.
            words = inputs.keys.view(">u8")
            self._order_K = np.lexsort((*words.T[::-1], -inputs.cost))
        self._size, self._shard = size, options.shard
        self.mine = np.zeros(len(inputs.keys), bool)
        for chunk in self._own():
            self.mine[chunk] = True
        self.total = int(self.mine.sum())
        number_of_row = inputs.number_of_row[inputs.number_of_row >= 0]
        self.elsewhere = int(np.count_nonzero(~self.mine[number_of_row]))

    def chunks(self, missing: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
        """This shard's chunks, each left with only its missing inputs."""
        for chunk in self._own():
            left = chunk[missing[chunk]]
            if len(left):
                yield left

    def _own(self) -> Iterator[NDArray[np.int64]]:
        step = self._size * self._shard.count
        for start in range(self._size * (self._shard.number - 1), len(self._order_K), step):
            yield self._order_K[start : start + self._size]


class _Sink:
    """Takes one vector or failure an input, in any order, and writes it to the items' rows."""

    def __init__(
        self,
        modality: str,
        inputs: _Inputs,
        item_ids: Sequence[str],
        result: Features,
        total: int,
        progress: Progress | None,
    ) -> None:
        self.modality, self.inputs, self.item_ids = modality, inputs, item_ids
        self.result, self.total, self.progress = result, total, progress
        self.done = self.failed = self.encoded = 0

    def put(self, number: int, vector: NDArray[np.float32]) -> None:
        """Store a vector for all items with this input; one that does not fit is a problem."""
        stored = fitting(vector, self.result.values.dtype)
        if isinstance(stored, str):
            self.fail(number, stored)
            return
        rows = self.inputs.rows(number)
        self.result.values[rows] = stored
        self.result.present[rows] = True
        self.done += 1

    def fail(self, number: int, reason: str) -> None:
        """Record why the items with this input have no vector."""
        self.result.problems.extend(
            Problem(self.item_ids[row], self.modality, self.inputs.written(row), reason)
            for row in self.inputs.rows(number).tolist()
        )
        self.done += 1
        self.failed += 1

    def tell(self) -> None:
        """Report how far things are."""
        if self.progress is not None:
            self.progress(self.done, self.total, self.failed)


def fitting(vector: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | str:
    """A vector as it is stored, or why it cannot be."""
    if not np.isfinite(vector).all():
        return "the vector is not finite"
    with np.errstate(over="ignore"):
        stored = vector.astype(dtype)
    if not np.isfinite(stored).all():
        return f"a value of {np.abs(vector).max():.3g} does not fit {dtype}; store as float32"
    return stored


def _encode(
    engine: Engine,
    chunks: Sequence[NDArray[np.int64]],
    inputs: _Inputs,
    cache: FeatureCache | None,
    sink: _Sink,
) -> None:
    """Encode chunk after chunk; whatever ends this early, finished chunks are in the cache."""
    if not chunks:  # no engine is started for nothing
        return
    waiting = _Waiting(cache, inputs)
    try:
        for index, encoded in engine([inputs.sample(one) for one in chunk] for chunk in chunks):
            _take(encoded, chunks[index], sink, waiting)
            sink.tell()
            waiting.write_if_due()
    finally:
        waiting.write()


def _take(encoded: Encoded, chunk: NDArray[np.int64], sink: _Sink, waiting: _Waiting) -> None:
    vectors = iter(encoded.vectors)
    for number, reason in zip(chunk.tolist(), encoded.reasons, strict=True):
        if reason is not None:
            sink.fail(number, reason)
            continue
        vector = next(vectors)
        sink.put(number, vector)
        if np.isfinite(vector).all():
            waiting.add(number, vector)
            sink.encoded += 1


class _Waiting:
    """Finished vectors on their way to the cache."""

    def __init__(self, cache: FeatureCache | None, inputs: _Inputs) -> None:
        self.cache, self.inputs = cache, inputs
        self.numbers: list[int] = []
        self.vectors: list[NDArray[np.float32]] = []
        self.bytes = 0
        self.began = self.written = time.monotonic()

    def add(self, number: int, vector: NDArray[np.float32]) -> None:
        """Take an input's vector."""
        if self.cache is not None:
            self.numbers.append(number)
            self.vectors.append(vector)
            self.bytes += vector.nbytes

    def write_if_due(self) -> None:
        """Write if enough has gathered or enough time has passed."""
        now = time.monotonic()
        seconds = max(_FLUSH_SECONDS, (now - self.began) / 100) if _FLUSH_SECONDS else 0.0
        if self.bytes >= _FLUSH_BYTES or now - self.written > seconds:
            self.write()

    def write(self) -> None:
        """Write all there is."""
        if self.cache is not None and self.numbers:
            self.cache.write(self.inputs.keys[self.numbers], np.stack(self.vectors))
        self.numbers, self.vectors, self.bytes = [], [], 0
        self.written = time.monotonic()
