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

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from cammsr_encoders.protocol import Encoder, class_name
from numpy.typing import NDArray

from cammsr_cli.encoding.batches import Batches, items_a_batch
from cammsr_cli.encoding.cache import FeatureCache
from cammsr_cli.encoding.engine import (
    Encoded,
    Encoding,
    Engine,
    encoder_faults,
    full_fingerprint,
    vector_length,
)
from cammsr_cli.encoding.features import FeatureOptions, Features, Problem, Progress, fitting
from cammsr_cli.encoding.inputs import Inputs, gather_inputs
from cammsr_cli.encoding.rows import RowFile

# Finished vectors wait in memory until a chunk ends after so many seconds, or a hundredth of the
# time since the start if that is more (a long run shall not leave thousands of shards), or bytes.
_FLUSH_SECONDS = 5.0
_FLUSH_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Plan:
    """One modality of a catalogue: what is to be encoded, and what earlier runs have encoded.

    Attributes:
        encoder: The encoder; its model is not loaded yet.
        name: Its name.
        fingerprint: What decides the values.
        item_ids: [N] for messages.
        options: How it is run.
        inputs: All distinct inputs.
        batches: In which order they are encoded, and which of them here.
        cache: Finished vectors of earlier runs; None without a cache.
    """

    encoder: Encoder
    name: str
    fingerprint: str
    item_ids: Sequence[str]
    options: FeatureOptions
    inputs: Inputs
    batches: Batches
    cache: FeatureCache | None

    @property
    def items(self) -> int:
        """Items that have something to encode here."""
        return int(np.count_nonzero(self.inputs.number_of_row >= 0)) - self.elsewhere

    @property
    def unique(self) -> int:
        """Distinct inputs among them."""
        return self.batches.total

    @property
    def cached(self) -> int:
        """Those that an earlier run has encoded."""
        return int(np.count_nonzero(self._places >= 0))

    @property
    def to_encode(self) -> int:
        """Distinct inputs still to encode."""
        return self.unique - self.cached

    @property
    def without(self) -> int:
        """Items with none of the encoder's fields."""
        return self.inputs.without

    @property
    def problems(self) -> list[Problem]:
        """Files that are missing or refused; one that cannot be decoded is not known yet."""
        return self.inputs.problems

    @property
    def elsewhere(self) -> int:
        """Items that other shards encode."""
        return self.batches.elsewhere

    @property
    def dim(self) -> int | None:
        """Length of a vector, as cached ones tell; None if there are none."""
        return self.cache.dim if self.cache else None

    @cached_property
    def input_keys(self) -> NDArray[np.uint8]:
        """uint8 [N, 32], SHA-256 of what is encoded, zeros for nothing."""
        return self.inputs.keys_by_row()

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Where the cache has each input of this shard; -1 for nowhere."""
        if self.cache is None:
            return np.full(len(self.inputs.keys), -1)
        return np.where(self.batches.mine, self.cache.find(self.inputs.keys), -1)

    def encode(
        self,
        progress: Progress | None = None,
        engine: Callable[[Encoding], Engine] | None = None,
    ) -> Features:
        """Encode what is missing, and put it together with what the cache has.

        Args:
            progress: Called after each batch with (done, total, failed) distinct inputs.
            engine: What encodes; this process if None.

        Raises:
            CammsrError: If memory runs out, or the encoder misbehaves.
        """
        options, inputs, cache, name = self.options, self.inputs, self.cache, self.name
        dim = self.dim
        if dim is None:  # else the model is loaded by the first batch, if there is one
            with encoder_faults(name):
                dim = vector_length(self.encoder, name)
        result = self._empty(dim)
        sink = _Sink(
            self.encoder.modality, inputs, self.item_ids, result, self.batches.total, progress
        )
        missing = self.batches.mine.copy()
        if cache is not None:
            for numbers, vectors in cache.read(self._places):
                missing[numbers] = False
                for number, vector in zip(numbers.tolist(), vectors, strict=True):
                    sink.put(number, vector)
        cached = sink.done
        sink.report()
        encoding = Encoding(name, dim, options.workers, options.decode_seconds)
        run = encoding.here(self.encoder) if engine is None else engine(encoding)
        _encode(run, list(self.batches.chunks(missing)), inputs, cache, sink)
        notes = []
        if cache is not None and cache.dropped:
            notes.append(
                f"{cache.dropped} unreadable shards of the cache dropped and encoded again"
            )
        if sink.failed and not result.present.any():
            failed = result.problems[len(inputs.problems) :]
            notes.append(
                f"encoder {name!r} failed on all {len(failed):,} items that it was given; the "
                f"first: item {failed[0].item_id}: {failed[0].reason}"
            )
        return replace(result, encoded=sink.encoded, cached=cached, notes=notes)

    def _empty(self, dim: int) -> Features:
        items, options = len(self.item_ids), self.options
        shape = items, dim
        return Features(
            values=np.zeros(shape, options.dtype)
            if options.scratch_dir is None
            else RowFile(options.scratch_dir, shape, options.dtype),
            present=np.zeros(items, bool),
            problems=list(self.problems),
            encoded=0,
            cached=0,
            fingerprint=self.fingerprint,
            encoder=self.name,
            fields=self.encoder.fields,
            inputs=self.input_keys,
            elsewhere=self.elsewhere,
        )


def plan_items(
    encoder: Encoder,
    records: Sequence[Mapping[str, str]],
    item_ids: Sequence[str],
    media_root: Path | None,
    options: FeatureOptions | None = None,
    name: str | None = None,
) -> Plan:
    """What there is to encode of a catalogue; nothing is decoded or encoded, no model loaded.

    Args:
        encoder: The encoder.
        records: [N] each item's fields; media as written in the items file.
        item_ids: [N] for messages.
        media_root: The folder that media paths are relative to.
        options: How to run; the defaults if None.
        name: The encoder's name, for messages and the result; its class if None.

    Raises:
        CammsrError: If the weights cannot be had.
    """
    options = options or FeatureOptions()
    name = name or class_name(type(encoder))
    with encoder_faults(name):
        fingerprint = full_fingerprint(encoder, name)
    inputs = gather_inputs(encoder, name, records, item_ids, media_root, options)
    folder = options.cache_dir
    return Plan(
        encoder=encoder,
        name=name,
        fingerprint=fingerprint,
        item_ids=item_ids,
        options=options,
        inputs=inputs,
        batches=Batches(inputs, options, items_a_batch(encoder, name, options)),
        cache=None if folder is None else FeatureCache(folder, fingerprint),
    )


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
    Arguments are those of `plan_items` and `Plan.encode`.

    Raises:
        CammsrError: If the weights cannot be had, memory runs out, or the encoder misbehaves.
    """
    plan = plan_items(encoder, records, item_ids, media_root, options, name)
    return plan.encode(progress, engine)


class _Sink:
    """Takes one vector or failure an input, in any order, and writes it to the items' rows."""

    def __init__(
        self,
        modality: str,
        inputs: Inputs,
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

    def report(self) -> None:
        """Report how far things are."""
        if self.progress is not None:
            self.progress(self.done, self.total, self.failed)


def _encode(
    engine: Engine,
    chunks: Sequence[NDArray[np.int64]],
    inputs: Inputs,
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
            sink.report()
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

    def __init__(self, cache: FeatureCache | None, inputs: Inputs) -> None:
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
