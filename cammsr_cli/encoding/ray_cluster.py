"""Runs an encoder on the nodes of a Ray cluster: one actor per GPU, or per core.

On every node, cammsr and the encoders' packages must be installed, and media must have the same
paths. Needs the extra `ray`.
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

# Chunks are sent in blocks, and each actor has two blocks, so that it never waits for work.
_CHUNKS_A_BLOCK = 8
_BLOCKS_AN_ACTOR = 2
# A busy cluster has so many seconds to free a place for the first actor.
_START_SECONDS = 600


def on_cluster(make: Callable[[str], Encoder], device: str, encoding: Encoding) -> Engine:
    """Return an engine of Ray actors.

    The actors run on all nodes of the cluster that `RAY_ADDRESS` names. Without that variable a
    local cluster is started.

    Args:
        make: Creates the encoder on a device; it is sent to the actors.
        device: With "cuda" each actor takes one GPU, one core, and one core per decoding process;
            with "cpu" each actor takes one core.
        encoding: How the encoder is used. Its number of workers is per GPU, as far as the node has
            cores for them. An actor on a core has at most one worker.

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
    """Ray actor: holds an encoder and its decoder, and encodes blocks of chunks."""

    def __init__(self, make: Callable[[str], Encoder], device: str, encoding: Encoding) -> None:
        self.make, self.device, self.encoding = make, device, encoding

    def begin(self) -> CammsrError | None:
        """Create the encoder; return an error, because Ray would wrap it in a traceback."""
        try:
            self.encoder = self.make(self.device)
        except CammsrError as error:
            return error
        self.decoder = self.encoding.decoder(self.encoder)
        return None

    def encode(self, block: list[list[Sample]]) -> list[Encoded] | CammsrError:
        """Return the results of a block, or the error of the encoder."""
        try:
            return list(self.encoding.decoded_by(self.decoder, self.encoder, iter(block)))
        except CammsrError as error:
            return error


def _actors(ray: Any, make: Callable[[str], Encoder], device: str, encoding: Encoding) -> list[Any]:
    """Create as many actors as the cluster has room for if nothing else runs on it."""
    on_gpu = device.startswith("cuda")
    resource = "GPU" if on_gpu else "CPU"
    count = int(ray.cluster_resources().get(resource, 0))
    if count == 0:
        raise UsageError(f"the Ray cluster has no {resource}, which --device {device} needs")
    most = workers_a_gpu([node["Resources"] for node in ray.nodes()]) if on_gpu else 1
    encoding = replace(encoding, workers=min(most, encoding.workers))
    needs = {"num_gpus": 1, "num_cpus": 1 + encoding.workers} if on_gpu else {"num_cpus": 1}
    kind = ray.remote(**needs, scheduling_strategy="SPREAD")(_Holder)
    # Ray shows each actor only its own GPU, as device 0.
    where = "cuda" if on_gpu else device
    return [kind.remote(make, where, encoding) for _ in range(count)]


def workers_a_gpu(nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many decoding processes per GPU fit on every node, with one core for each.

    One core is reserved for the encoder. An actor that requests more cores than a node has per GPU
    would never start there.

    Args:
        nodes: The resources of each node: its "CPU" and "GPU", as Ray counts them.
    """
    shares = [node.get("CPU", 0) // node["GPU"] for node in nodes if node.get("GPU", 0) >= 1]
    return max(0, int(min(shares, default=1)) - 1)


def _distributed(
    ray: Any, actors: list[Any], chunks: Iterator[list[Sample]]
) -> Iterator[tuple[int, Encoded]]:
    """Send blocks to actors that have started and are free; yield results as they arrive."""
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
    """Return an actor's answer; raise CammsrError if it is an error or if the answer is lost."""
    try:
        answer = ray.get(pending)
    except ray.exceptions.RayError as error:
        raise CammsrError(
            f"the Ray cluster lost work: {first_line(error)}",
            "what was finished is in the cache: run the same command again",
        ) from error
    if isinstance(answer, CammsrError):
        # The cause stays on its node, so this process cannot show its traceback.
        raise type(answer)(answer.message, None if answer.hint == SEE_WHERE else answer.hint)
    return answer


def _blocks(chunks: Iterator[list[Sample]]) -> Iterator[tuple[int, list[list[Sample]]]]:
    """Yield blocks of chunks, each with the number of its first chunk."""
    first = 0
    while block := list(islice(chunks, _CHUNKS_A_BLOCK)):
        yield first, block
        first += len(block)
