"""Runs an encoder on several devices of this machine: one process per device."""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from typing import Any

from cammsr_encoders.protocol import Encoder

from cammsr_cli import console
from cammsr_cli.encoding.decode import Sample, end_with
from cammsr_cli.encoding.engine import Encoded, Encoding, Engine
from cammsr_cli.errors import CammsrError

_SECONDS_BETWEEN_LOOKS = 1.0


def on_devices(
    make: Callable[[str], Encoder], devices: Sequence[str], encoding: Encoding
) -> Engine:
    """Return an engine with one process per device; each gets a new chunk when it finishes one.

    Args:
        make: Creates the encoder on a device; it is sent to the processes.
        devices: Names of the devices; a device may be listed twice.
        encoding: How the encoder is used; its workers are divided among the devices.
    """
    shared = replace(encoding, workers=-(-encoding.workers // len(devices)))

    def run(chunks: Iterator[list[Sample]]) -> Iterator[tuple[int, Encoded]]:
        with ExitStack() as stack:
            pool = _Pool(make, devices, shared)
            stack.callback(pool.end)
            yield from pool.run(chunks)

    return run


@dataclass(frozen=True)
class _Trouble:
    """The error that ended a process."""

    message: str
    hint: str | None


class _Pool:
    """The processes, the number of open chunks of each, and the common queue of answers."""

    def __init__(
        self, make: Callable[[str], Encoder], devices: Sequence[str], encoding: Encoding
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.devices = devices
        self.limit = encoding.ahead + 1
        self.answers: Any = context.Queue()
        self.tasks: list[Any] = [context.Queue() for _ in devices]
        self.given = [0] * len(devices)
        self.processes: list[BaseProcess] = []
        for number, device in enumerate(devices):
            given = (make, device, encoding, self.tasks[number], self.answers, number, os.getpid())
            process = context.Process(target=_work, args=given)
            process.start()
            self.processes.append(process)

    def run(self, chunks: Iterator[list[Sample]]) -> Iterator[tuple[int, Encoded]]:
        """Distribute the chunks, and yield their results as they arrive."""
        left = enumerate(chunks)
        under_way = 0
        more = True
        while more or under_way:
            while more and min(self.given) < self.limit:
                task = next(left, None)
                more = task is not None
                least = self.given.index(min(self.given))
                if task is None:
                    for tasks in self.tasks:
                        tasks.put(None)
                else:
                    self.tasks[least].put(task)
                    self.given[least] += 1
                    under_way += 1
            if under_way:
                who, index, encoded = self._answer()
                self.given[who] -= 1
                under_way -= 1
                yield index, encoded

    def _answer(self) -> tuple[int, int, Encoded]:
        while True:
            try:
                who, index, answer = self.answers.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                self._require_all_alive()
                continue
            if isinstance(answer, _Trouble):
                raise CammsrError(f"on {self.devices[who]}: {answer.message}", answer.hint)
            return who, index, answer

    def _require_all_alive(self) -> None:
        for device, process in zip(self.devices, self.processes, strict=True):
            if process.exitcode:
                raise CammsrError(
                    f"the process that encodes on {device} died with exit code {process.exitcode}",
                    "it probably ran out of memory: use a smaller batch size or fewer workers",
                )

    def end(self) -> None:
        """Terminate all processes at once."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()


def _work(
    make: Callable[[str], Encoder],
    device: str,
    encoding: Encoding,
    tasks: Any,
    answers: Any,
    number: int,
    parent: int,
) -> None:
    """Encode tasks from the queue until None arrives; runs in the process of a device."""
    sys.stdout = sys.stderr  # stdout is for results; an encoder's prints are none
    end_with(parent)
    indices: list[int] = []

    def chunks() -> Iterator[list[Sample]]:
        while (task := tasks.get()) is not None:
            index, chunk = task
            indices.append(index)
            yield chunk

    try:
        for encoded in encoding.stream(make(device), chunks()):
            answers.put((number, indices.pop(0), encoded))
    except CammsrError as error:
        console.show_cause(error)  # the cause is not sent to the parent
        answers.put((number, -1, _Trouble(error.message, error.hint)))
    except KeyboardInterrupt:  # the parent receives it too, and reports it
        return
