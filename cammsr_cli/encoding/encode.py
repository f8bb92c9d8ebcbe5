"""Runs an encoder over a catalogue: gather, hash, plan, encode what is missing, assemble.

The plan covers all distinct inputs, cached or not. Their order depends on nothing else. Each chunk
encodes only its own missing inputs. A killed run that is started again therefore forms the same
batches, and its result is bit for bit that of an uninterrupted run. The same holds for several
runs that share the chunks.

Memory grows only by a few hundred bytes per item: samples are created when they are needed, and
vectors are written to a file.

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

# Finished vectors are buffered in memory. They are written at the end of a chunk, after so many
# bytes, or after so many seconds, or after a hundredth of the run time if that is longer, so that a
# long run does not leave thousands of shards.
_FLUSH_SECONDS = 5.0
_FLUSH_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Plan:
    """One modality of a catalogue: what is to be encoded, and what earlier runs have encoded.

    Attributes:
        encoder: The encoder; its model is not loaded yet.
        name: Its name.
        fingerprint: Identifies everything that determines the values.
        item_ids: [N] for messages.
        options: How the encoder is run.
        inputs: All distinct inputs.
        batches: The order of the inputs, and which of them this shard encodes.
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
        """Number of items with an input that this shard encodes."""
        return int(np.count_nonzero(self.inputs.number_of_row >= 0)) - self.elsewhere

    @property
    def unique(self) -> int:
        """Number of distinct inputs of this shard."""
        return self.batches.total

    @property
    def cached(self) -> int:
        """Number of distinct inputs that an earlier run has encoded (cache hits)."""
        return int(np.count_nonzero(self._places >= 0))

    @property
    def to_encode(self) -> int:
        """Number of distinct inputs that are still to be encoded."""
        return self.unique - self.cached

    @property
    def without(self) -> int:
        """Number of items with none of the encoder's fields."""
        return self.inputs.without

    @property
    def problems(self) -> list[Problem]:
        """Files that are missing or refused; files that cannot be decoded are not known yet."""
        return self.inputs.problems

    @property
    def elsewhere(self) -> int:
        """Number of items that other shards encode."""
        return self.batches.elsewhere

    @property
    def dim(self) -> int | None:
        """Length of the cached vectors; None if there are none."""
        return self.cache.dim if self.cache else None

    @cached_property
    def input_keys(self) -> NDArray[np.uint8]:
        """uint8 [N, 32], SHA-256 of each item's input; zeros for an item without one."""
        return self.inputs.keys_by_row()

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """Position of each of this shard's inputs in the cache; -1 for a miss or another shard."""
        if self.cache is None:
            return np.full(len(self.inputs.keys), -1)
        return np.where(self.batches.mine, self.cache.find(self.inputs.keys), -1)

    def encode(
        self,
        progress: Progress | None = None,
        engine: Callable[[Encoding], Engine] | None = None,
    ) -> Features:
        """Encode the missing inputs, and combine the result with the cached vectors.

        Args:
            progress: Called after each batch with (done, total, failed) distinct inputs.
            engine: Creates the engine that encodes; this process if None.

        Raises:
            CammsrError: If memory runs out, or the encoder misbehaves.
        """
        options, inputs, cache, name = self.options, self.inputs, self.cache, self.name
        dim = self.dim
        if dim is None:  # otherwise the first batch loads the model, if there is a batch
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
    """Plan what to encode of a catalogue; decode and encode nothing, and load no model.

    Args:
        encoder: The encoder.
        records: [N] the fields of each item; media as written in the items file.
        item_ids: [N] for messages.
        media_root: The folder that media paths are relative to.
        options: How to run; the defaults if None.
        name: The encoder's name, for messages and the result; its class if None.

    Raises:
        CammsrError: If the weights are not available.
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
    """Encode one modality of all items.

    An item with none of the encoder's fields is masked without a message. An item whose file is
    missing, refused or broken is masked and reported as a `Problem`. Identical content is encoded
    once; cached content is not encoded again. The arguments are those of `plan_items` and
    `Plan.encode`.

    Raises:
        CammsrError: If the weights are not available, memory runs out, or the encoder misbehaves.
    """
    plan = plan_items(encoder, records, item_ids, media_root, options, name)
    return plan.encode(progress, engine)


class _Sink:
    """Receives one vector or failure per input, in any order, and writes the items' rows."""

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
        """Store a vector for all items with this input; record a problem if it does not fit."""
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
        """Report the progress."""
        if self.progress is not None:
            self.progress(self.done, self.total, self.failed)


def _encode(
    engine: Engine,
    chunks: Sequence[NDArray[np.int64]],
    inputs: Inputs,
    cache: FeatureCache | None,
    sink: _Sink,
) -> None:
    """Encode chunk after chunk; finished chunks are cached even if an error ends the run."""
    if not chunks:  # do not start an engine
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
    """Buffer of finished vectors that are not in the cache yet."""

    def __init__(self, cache: FeatureCache | None, inputs: Inputs) -> None:
        self.cache, self.inputs = cache, inputs
        self.numbers: list[int] = []
        self.vectors: list[NDArray[np.float32]] = []
        self.bytes = 0
        self.began = self.written = time.monotonic()

    def add(self, number: int, vector: NDArray[np.float32]) -> None:
        """Add the vector of an input."""
        if self.cache is not None:
            self.numbers.append(number)
            self.vectors.append(vector)
            self.bytes += vector.nbytes

    def write_if_due(self) -> None:
        """Write the buffer if it is large enough or enough time has passed."""
        now = time.monotonic()
        seconds = max(_FLUSH_SECONDS, (now - self.began) / 100) if _FLUSH_SECONDS else 0.0
        if self.bytes >= _FLUSH_BYTES or now - self.written > seconds:
            self.write()

    def write(self) -> None:
        """Write the whole buffer."""
        if self.cache is not None and self.numbers:
            self.cache.write(self.inputs.keys[self.numbers], np.stack(self.vectors))
        self.numbers, self.vectors, self.bytes = [], [], 0
        self.written = time.monotonic()
