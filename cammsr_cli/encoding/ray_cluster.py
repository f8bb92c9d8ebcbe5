"""An encoder on the nodes of a Ray cluster: one actor a GPU, or a core, holds it.

Every node needs cammsr and the encoders' packages installed, and sees media under the same paths.
Needs the extra `ray`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from cammsr_encoders.protocol import Encoder

from cammsr_cli.encoding.decode import Sample
from cammsr_cli.encoding.engine import Encoded, Encoding, Engine
from cammsr_cli.errors import SEE_WHERE, CammsrError, UsageError, first_line

# Chunks go to an actor some at a time, and two such blocks are with it, so that none waits.
_CHUNKS_A_BLOCK = 8
_BLOCKS_AN_ACTOR = 2
# A cluster busy with other work may free a place for the first actor within so many seconds.
_START_SECONDS = 600


def on_cluster(make: Callable[[str], Encoder], device: str, encoding: Encoding) -> Engine:
    """An engine of actors all over the cluster that `RAY_ADDRESS` names, or of one started here.

    Args:
        make: Makes the encoder on a device; it is sent to the actors.
        device: "cuda" takes a GPU an actor and a core for each process that decodes, "cpu" a core.
        encoding: How the encoder is used; its workers are each GPU's, as far as its node has cores
            for them. An actor on a core has one, or none if there are to be none.

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
            yield from _distributed(ray, actors, chunks)
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
    """On a node: holds an encoder and what decodes for it, and encodes blocks of chunks."""

    def __init__(self, make: Callable[[str], Encoder], device: str, encoding: Encoding) -> None:
        self.make, self.device, self.encoding = make, device, encoding

    def begin(self) -> CammsrError | None:
        """Make the encoder; what is wrong with it is returned: Ray would wrap it in a traceback."""
        try:
            self.encoder = self.make(self.device)
        except CammsrError as error:
            return error
        self.decoder = self.encoding.decoder(self.encoder)
        return None

    def encode(self, block: list[list[Sample]]) -> list[Encoded] | CammsrError:
        """A block's results, or what is wrong with the encoder."""
        try:
            return list(self.encoding.decoded_by(self.decoder, self.encoder, iter(block)))
        except CammsrError as error:
            return error


def _actors(ray: Any, make: Callable[[str], Encoder], device: str, encoding: Encoding) -> list[Any]:
    """As many actors as the cluster has room for when nothing else runs on it."""
    on_gpu = device.startswith("cuda")
    resource = "GPU" if on_gpu else "CPU"
    count = int(ray.cluster_resources().get(resource, 0))
    if count == 0:
        raise UsageError(f"the Ray cluster has no {resource}, which --device {device} needs")
    most = workers_a_gpu([node["Resources"] for node in ray.nodes()]) if on_gpu else 1
    encoding = replace(encoding, workers=min(most, encoding.workers))
    needs = {"num_gpus": 1, "num_cpus": 1 + encoding.workers} if on_gpu else {"num_cpus": 1}
    kind = ray.remote(**needs, scheduling_strategy="SPREAD")(_Holder)
    # Ray shows an actor its own GPU alone, as the first.
    where = "cuda" if on_gpu else device
    return [kind.remote(make, where, encoding) for _ in range(count)]


def workers_a_gpu(nodes: Sequence[Mapping[str, float]]) -> int:
    """How many processes can decode for each GPU, on whichever node, with a core for each.

    One core is the encoder's own. An actor that asked for more cores than a node has for each of
    its GPUs would never begin there.

    Args:
        nodes: What each node has: its "CPU" and "GPU", as Ray counts them.
    """
    shares = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
    return max(0, int(min(shares, default=1)) - 1)


def _distributed(
    ray: Any, actors: list[Any], chunks: Iterator[list[Sample]]
) -> Iterator[tuple[int, Encoded]]:
    """Blocks to whichever actor has begun and has room; results as they come."""
    blocks = _blocks(chunks)
    starting = {actor.begin.remote(): actor for actor in actors}
    under_way: dict[Any, tuple[Any, int]] = {}
    free: list[Any] = []
    more = True
    while more or under_way:
        while more and free:
            block = next(blocks, None)
            if block is None:
                more = False
                break
            actor = free.pop(0)
            under_way[actor.encode.remote(block[1])] = actor, block[0]
        if not more and not under_way:
            break
        pending = [*under_way, *starting] if more else list(under_way)
        answered, _ = ray.wait(pending, timeout=None if under_way else _START_SECONDS)
        if not answered:
            raise CammsrError(
                f"the Ray cluster had no place free within {_START_SECONDS // 60} minutes",
                "'ray status' shows what it does; run the same command again when it is free",
            )
        answer = _answer(ray, answered[0])
        if answered[0] in starting:
            free += [starting.pop(answered[0])] * _BLOCKS_AN_ACTOR
        else:
            actor, first = under_way.pop(answered[0])
            free.append(actor)
            yield from enumerate(answer, first)


def _answer(ray: Any, pending: Any) -> Any:
    """What an actor answered; raises CammsrError if that is one, or if there is no answer."""
    try:
        answer = ray.get(pending)
    except ray.exceptions.RayError as error:
        raise CammsrError(
            f"the Ray cluster lost work: {first_line(error)}",
            "what was finished is in the cache: run the same command again",
        ) from error
    if isinstance(answer, CammsrError):
        # The cause stays on its node, so there is no line of it to show.
        raise type(answer)(answer.message, None if answer.hint == SEE_WHERE else answer.hint)
    return answer


def _blocks(chunks: Iterator[list[Sample]]) -> Iterator[tuple[int, list[list[Sample]]]]:
    """Blocks of chunks, each with the number of its first."""
    first = 0
    while block := list(islice(chunks, _CHUNKS_A_BLOCK)):
        yield first, block
        first += len(block)
