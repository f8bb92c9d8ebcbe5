"""An encoder on several devices of this machine: one process each, fed from this one."""

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
    """An engine of one process a device; each gets the next chunk when it has done one.

    Args:
        make: Makes the encoder on a device; it is sent to the processes.
        devices: Their names; one may stand there twice.
        encoding: How the encoder is used; its workers are shared out.
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
    """A process's last word."""

    message: str
    hint: str | None


class _Pool:
    """Processes, what each was given and has not answered, and the one queue of answers."""

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
        """Deal out the chunks and yield their results as they come."""
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
        """End the processes, whatever they do."""
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
    """In a process of its own: encode what comes until None does."""
    sys.stdout = sys.stderr  # results go to stdout; what an encoder prints is none
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
        console.show_cause(error)  # it does not travel
        answers.put((number, -1, _Trouble(error.message, error.hint)))
    except KeyboardInterrupt:  # the parent has it too, and says so
        return
