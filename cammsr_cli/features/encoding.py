"""Turns samples into vectors: decodes ahead in worker processes while the model runs.

This is what runs wherever an encoder is: in this process, in one a device, in a Ray actor.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from cammsr_encoders.protocol import MEDIA_FIELDS, Encoder, WeightsUnavailable
from numpy.typing import NDArray

from cammsr_cli.errors import CammsrError


@dataclass(frozen=True)
class Failure:
    """In place of a sample that could not be loaded."""

    reason: str


Sample = Mapping[str, str] | Failure
"""What `load` gets, or why there is nothing to load."""


@dataclass(frozen=True)
class Encoded:
    """What became of a chunk of n samples.

    Attributes:
        vectors: float32 [good, dim], of the samples without a reason, in order.
        reasons: [n] why a sample has no vector; None for one that has.
    """

    vectors: NDArray[np.float32]
    reasons: list[str | None]


Engine = Callable[[Iterator[list[Sample]]], Iterator[tuple[int, Encoded]]]
"""Encodes chunks, and yields each one's number and result, in any order."""


@dataclass(frozen=True)
class Encoding:
    """How an encoder is used; may be sent to another process.

    Attributes:
        name: The encoder's, for messages.
        dim: Length of its vectors.
        workers: Processes that decode media; 0 decodes in the model's.
    """

    name: str
    dim: int
    workers: int = 0

    def here(self, encoder: Encoder) -> Engine:
        """The engine that is this process."""
        return lambda chunks: enumerate(self.stream(encoder, chunks))

    def stream(self, encoder: Encoder, chunks: Iterator[list[Sample]]) -> Iterator[Encoded]:
        """Encode chunk after chunk, in order.

        At most `ahead` chunks are taken before the first is answered.

        Raises:
            CammsrError: If the encoder misbehaves, or a decoding process dies.
        """
        for samples in self._loaded(encoder, chunks):
            good = [one for one in samples if not isinstance(one, Failure)]
            reasons = [one.reason if isinstance(one, Failure) else None for one in samples]
            yield Encoded(self._vectors(encoder, good), reasons)

    @property
    def ahead(self) -> int:
        """Chunks taken at most before the first is answered."""
        return 2 * self.workers + 1

    def _vectors(self, encoder: Encoder, samples: list[Any]) -> NDArray[np.float32]:
        """The encoder's vectors, float32 [n, dim], its answer checked."""
        if not samples:
            return np.zeros((0, self.dim), np.float32)
        with told(self.name, f"on a batch of {len(samples)}"):
            vectors = np.asarray(encoder.encode(samples))
        if vectors.shape != (len(samples), self.dim) or vectors.dtype.kind not in "fiu":
            raise CammsrError(
                f"encoder {self.name!r} returned {vectors.dtype} {list(vectors.shape)} for "
                f"{len(samples)} samples; its contract is float32 {[len(samples), self.dim]}",
                "report it to the encoder's author",
            )
        return vectors.astype(np.float32)

    def _loaded(self, encoder: Encoder, chunks: Iterator[list[Sample]]) -> Iterator[list[Any]]:
        """Each chunk's samples, decoded; a chunk is shared out among the workers."""
        media = any(one in MEDIA_FIELDS for one in encoder.fields)
        workers = min(self.workers, processors()) if media else 0
        parts = _parts(chunks, max(workers, 1))
        first = list(islice(parts, workers))  # no more workers than there is to do
        workers = len(first)
        loader = _Loader(encoder)
        decoded = (
            _decoded_ahead(loader, chain(first, parts), self.name, workers)
            if workers
            else map(loader.__getitem__, parts)
        )
        samples: list[Any] = []
        for ends, loaded in decoded:
            samples.extend(loaded)
            if ends:
                yield samples
                samples = []


_Part = tuple[bool, list[Sample]]
"""Samples, and whether they are the last of their chunk."""


def _parts(chunks: Iterable[list[Sample]], count: int) -> Iterator[_Part]:
    """Each chunk in `count` parts, or fewer if it is small."""
    for chunk in chunks:
        length = max(1, -(-len(chunk) // count))
        for start in range(0, len(chunk), length):
            yield start + length >= len(chunk), chunk[start : start + length]


class _Loader:
    """Decodes: a map-style data set whose "index" is what to decode, sent when its turn comes."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __getitem__(self, part: _Part) -> tuple[bool, list[Any]]:
        ends, samples = part
        return ends, [self._load(one) for one in samples]

    def _load(self, sample: Sample) -> Any:
        if isinstance(sample, Failure):
            return sample
        try:
            return self.encoder.load(sample)
        except Exception as error:  # one item's fault, whatever it is, must not end the run
            return Failure(_reason(error))


def _decoded_ahead(
    loader: _Loader, parts: Iterator[_Part], name: str, workers: int
) -> Iterator[tuple[bool, list[Any]]]:
    """Parts in order, decoded in worker processes, two a worker ahead of the model."""
    from torch.utils.data import DataLoader

    under_way: deque[list[Sample]] = deque()

    def noted() -> Iterator[_Part]:
        for part in parts:
            under_way.append(part[1])
            yield part

    data: DataLoader[Any] = DataLoader(
        loader,  # type: ignore[arg-type]  # a map-style data set is anything with items
        batch_size=None,
        sampler=noted(),  # any iterable of indices will do
        num_workers=workers,
        prefetch_factor=2,
        collate_fn=_as_is,
        worker_init_fn=partial(_end_with_parent, os.getpid()),
    )
    try:
        for part in data:
            under_way.popleft()
            yield part
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        ahead = [one for part in under_way for one in part if not isinstance(one, Failure)]
        files = sorted({Path(one[key]).name for one in ahead for key in one if key in MEDIA_FIELDS})
        raise CammsrError(
            f"encoder {name!r}: a decoding process died on one of {', '.join(files[:8])}"
            + (f" and {len(files) - 8} more" if len(files) > 8 else ""),
            "it ran out of memory, or a file crashes the decoder: use fewer workers or smaller "
            "batches, or take the file out of the items file",
        ) from error


def _end_with_parent(parent: int, _worker: int) -> None:
    """In a worker process: end when the parent is gone.

    A worker whose parent was killed may wait for ever to hand over its last samples, through a
    pipe that it holds open itself; torch's own watchdog does not see that.
    """
    end_with(parent)


def end_with(parent: int) -> None:
    """End this process when its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _as_is(samples: Any) -> Any:
    return samples


def processors() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def told(name: str, doing: str = "") -> Iterator[None]:
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
        raise CammsrError(f"encoder {name!r} {failed}: {_reason(error)}", hint) from error


def _reason(error: Exception) -> str:
    """What an exception says, in one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(said.split())[:200]
    if isinstance(error, ValueError | OSError) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
