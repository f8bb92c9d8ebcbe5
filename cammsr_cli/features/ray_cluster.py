"""An encoder on the nodes of a Ray cluster: one actor a GPU, or a core, holds it.

Every node needs cammsr and the encoders' packages installed, and sees media under the same paths.
Needs the extra `ray`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from cammsr_encoders.protocol import Encoder

from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.features.decoding import Sample
from cammsr_cli.features.encoding import Encoded, Encoding, Engine

# Chunks go to an actor some at a time, and two such blocks are with it, so that none waits.
_CHUNKS_A_BLOCK = 8
_BLOCKS_AN_ACTOR = 2


def on_cluster(make: Callable[[str], Encoder], device: str, encoding: Encoding) -> Engine:
    """An engine of actors all over the cluster that `RAY_ADDRESS` names, or of one started here.

    Args:
        make: Makes the encoder on a device; it is sent to the actors.
        device: "cuda" takes a GPU an actor, "cpu" a core; decoding is done in the actor.
        encoding: How the encoder is used.

    Raises:
        UsageError: If Ray is not installed.
    """
    ray = _ray()

    def run(chunks: Iterator[list[Sample]]) -> Iterator[tuple[int, Encoded]]:
        started = not ray.is_initialized()
        if started:
            ray.init(log_to_driver=False, configure_logging=False)
        actors = []
        try:
            actors = _actors(ray, make, device, encoding)
            yield from _dealt(ray, actors, chunks)
        finally:
            for actor in actors:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.kill(actor)
            if started:
                ray.shutdown()

    return run


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UsageError(
            "--engine ray needs Ray, which is not installed", "pip install 'cammsr[ray]'"
        ) from None
    return ray


class _Holder:
    """On a node: holds an encoder, and encodes blocks of chunks."""

    def __init__(self, make: Callable[[str], Encoder], device: str, encoding: Encoding) -> None:
        self.encoder = make(device)
        self.encoding = encoding

    def encode(self, block: list[list[Sample]]) -> list[Encoded] | CammsrError:
        """A block's results, or what is wrong with the encoder."""
        try:
            return list(self.encoding.stream(self.encoder, iter(block)))
        except CammsrError as error:  # returned: Ray would wrap it in a traceback
            return error


def _actors(ray: Any, make: Callable[[str], Encoder], device: str, encoding: Encoding) -> list[Any]:
    """As many actors as the cluster has room for."""
    needs = {"num_gpus": 1, "num_cpus": 1} if device.startswith("cuda") else {"num_cpus": 1}
    resource = "GPU" if "num_gpus" in needs else "CPU"
    count = int(ray.cluster_resources().get(resource, 0))
    if count == 0:
        raise UsageError(f"the Ray cluster has no {resource}, which --device {device} needs")
    kind = ray.remote(**needs, scheduling_strategy="SPREAD")(_Holder)
    # Ray shows an actor its own GPU alone, as the first.
    where = "cuda" if resource == "GPU" else device
    return [kind.remote(make, where, replace(encoding, workers=0)) for _ in range(count)]


def _dealt(
    ray: Any, actors: list[Any], chunks: Iterator[list[Sample]]
) -> Iterator[tuple[int, Encoded]]:
    """Blocks to whichever actor has room; results as they come."""
    blocks = _blocks(chunks)
    under_way: dict[Any, tuple[Any, int]] = {}
    free = actors * _BLOCKS_AN_ACTOR
    more = True
    while more or under_way:
        while more and free:
            block = next(blocks, None)
            if block is None:
                more = False
                break
            actor = free.pop(0)
            under_way[actor.encode.remote(block[1])] = actor, block[0]
        if not under_way:
            break
        (done, *_), _ = ray.wait(list(under_way), num_returns=1)
        actor, first = under_way.pop(done)
        free.append(actor)
        try:
            answer = ray.get(done)
        except ray.exceptions.RayError as error:
            told = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CammsrError(
                f"the Ray cluster lost work: {told}",
                "what was finished is in the cache: run the same command again",
            ) from error
        if isinstance(answer, CammsrError):
            raise CammsrError(answer.message, answer.hint)
        yield from enumerate(answer, first)


def _blocks(chunks: Iterator[list[Sample]]) -> Iterator[tuple[int, list[list[Sample]]]]:
    """Blocks of chunks, each with the number of its first."""
    first = 0
    while block := list(islice(chunks, _CHUNKS_A_BLOCK)):
        yield first, block
        first += len(block)
