"""Turns samples into vectors: decodes ahead in worker processes while the model runs.

The same code runs in this process, in a process per device, and in a Ray actor.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from cammsr_encoders.device import Start
from cammsr_encoders.protocol import MEDIA_FIELDS, Encoder, WeightsUnavailable, class_name
from numpy.typing import NDArray

from cammsr_cli.encoding.decode import Decoder, Failure, Sample, reason_of
from cammsr_cli.errors import SEE_WHERE, CammsrError


@dataclass(frozen=True)
class Encoded:
    """The result of a chunk of n samples.

    Attributes:
        vectors: float32 [good, dim], vectors of the samples without a reason, in order.
        reasons: [n] why a sample has no vector; None for a sample with a vector.
    """

    vectors: NDArray[np.float32]
    reasons: list[str | None]


Engine = Callable[[Iterator[list[Sample]]], Iterator[tuple[int, Encoded]]]
"""Encodes chunks, and yields the number and the result of each chunk, in any order."""


@dataclass(frozen=True)
class Encoding:
    """How an encoder is used; can be sent to another process.

    Attributes:
        name: The encoder's name, for messages.
        dim: Length of its vectors.
        workers: Processes that decode media; 0 decodes in the process of the model.
        decode_seconds: Time limit for decoding one item; needs workers.
    """

    name: str
    dim: int
    workers: int = 0
    decode_seconds: float = 120.0

    def here(self, encoder: Encoder) -> Engine:
        """Return the engine that encodes in this process."""
        return lambda chunks: enumerate(self.stream(encoder, chunks))

    def stream(self, encoder: Encoder, chunks: Iterator[list[Sample]]) -> Iterator[Encoded]:
        """Encode chunk after chunk, in order.

        At most `ahead` chunks are read before the first result is yielded.

        Raises:
            CammsrError: If the encoder misbehaves, or decoding processes die repeatedly.
        """
        with closing(self.decoder(encoder)) as decoder:
            yield from self.decoded_by(decoder, encoder, chunks)

    def decoder(self, encoder: Encoder) -> Decoder:
        """Return the decoder for an encoder; the caller closes it."""
        media = any(one in MEDIA_FIELDS for one in encoder.fields)
        workers = min(self.workers, processors()) if media else 0
        return Decoder(encoder, workers, self.decode_seconds)

    def decoded_by(
        self, decoder: Decoder, encoder: Encoder, chunks: Iterator[list[Sample]]
    ) -> Iterator[Encoded]:
        """Encode as `stream` does, with a decoder that remains open afterwards."""
        decoded = self._decoded(decoder, chunks)
        start: Start | None = getattr(encoder, "start_encoding", None)
        if start is None:
            for samples in decoded:
                yield self._started(encoder.encode, samples)()
            return
        under_way: deque[Callable[[], Encoded]] = deque()
        for samples in decoded:
            under_way.append(self._started(start, samples))
            if len(under_way) == 2:
                yield under_way.popleft()()
        while under_way:
            yield under_way.popleft()()

    def _decoded(self, decoder: Decoder, chunks: Iterator[list[Sample]]) -> Iterator[list[Any]]:
        """Yield the decoded samples of each chunk; later chunks are decoded ahead."""
        lengths: deque[int] = deque()
        for chunk in chunks:
            decoder.give(chunk)
            lengths.append(len(chunk))
            if len(lengths) == (3 if self.workers else 1):  # decode two, run one
                yield decoder.take(lengths.popleft())
        while lengths:
            yield decoder.take(lengths.popleft())

    @property
    def ahead(self) -> int:
        """Maximum number of chunks read before the first result, with one in progress on a GPU."""
        return 4 if self.workers else 2

    def _started(
        self, encode: Callable[[list[Any]], Any], samples: list[Any]
    ) -> Callable[[], Encoded]:
        """Start to encode samples; return a function that returns the result."""
        good = [one for one in samples if not isinstance(one, Failure)]
        reasons = [one.reason if isinstance(one, Failure) else None for one in samples]
        if not good:
            return lambda: Encoded(np.zeros((0, self.dim), np.float32), reasons)
        doing = f"on a batch of {len(good)}"
        with encoder_faults(self.name, doing):
            answer = encode(good)

        def result() -> Encoded:
            with encoder_faults(self.name, doing):
                vectors = np.asarray(answer() if callable(answer) else answer)
            return Encoded(self._checked(vectors, len(good)), reasons)

        return result

    def _checked(self, vectors: NDArray[Any], number: int) -> NDArray[np.float32]:
        """Return the vectors as float32 [n, dim]; raise CammsrError if they break the contract."""
        if vectors.shape != (number, self.dim) or vectors.dtype.kind not in "fiu":
            raise CammsrError(
                f"encoder {self.name!r} returned {vectors.dtype} {list(vectors.shape)} for "
                f"{number} samples; its contract is float32 {[number, self.dim]}",
                "report it to the encoder's author; other vectors need another fingerprint",
            )
        return vectors.astype(np.float32)


def full_fingerprint(encoder: Encoder, name: str) -> str:
    """Return what identifies an encoder's vectors: its own fingerprint and its class.

    All comparisons use the full fingerprint. Two encoders whose authors both wrote "1.0" are
    therefore different. A fingerprint from `fingerprint_of` contains the class already and is not
    changed.

    Args:
        encoder: The encoder.
        name: Its name, for messages.

    Raises:
        CammsrError: If its own fingerprint is not a string, or is empty. Exceptions of the encoder
            are passed on.
    """
    own: object = encoder.fingerprint
    if not isinstance(own, str) or not own.strip():
        raise CammsrError(
            f"encoder {name!r}: its `fingerprint` is {_shown(own)}; it must be a string that is "
            "not empty",
            "report it to the encoder's author",
        )
    kind = class_name(type(encoder))
    try:
        facts = json.loads(own)
    except ValueError:
        facts = None
    if isinstance(facts, dict) and facts.get("encoder") == kind:
        return own
    return json.dumps({"encoder": kind, "fingerprint": own})


def vector_length(encoder: Encoder, name: str) -> int:
    """Return an encoder's `dim`; may load the model.

    Args:
        encoder: The encoder.
        name: Its name, for messages.

    Raises:
        CammsrError: If it is not an integer above 0. Exceptions of the encoder are passed on.
    """
    dim: object = encoder.dim
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise CammsrError(
            f"encoder {name!r}: its `dim` is {_shown(dim)}; it must be the length of the vectors, "
            "a whole number",
            "report it to the encoder's author",
        )
    return int(dim)


def _shown(value: object) -> str:
    return "a method (is @property missing?)" if callable(value) else repr(value)


def processors() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def encoder_faults(name: str, doing: str = "") -> Iterator[None]:
    """Turn an encoder's exceptions into errors that name the encoder."""
    try:
        yield
    except CammsrError:
        raise
    except WeightsUnavailable as error:
        raise CammsrError(f"encoder {name!r}: {error}") from error
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        hint = SEE_WHERE
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            hint = "use a smaller batch size"
        failed = " ".join(["failed", doing]).strip()
        raise CammsrError(f"encoder {name!r} {failed}: {reason_of(error)}", hint) from error
