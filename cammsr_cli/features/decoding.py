"""Decodes items in worker processes, in order, each item within a limit of time.

A decoder may hang or crash on a hostile file, and nothing within its process can stop it. The
process is then killed and replaced; the item it was at becomes a failure, all others are decoded.
So that a process that hangs can hold nothing up, what goes either way between the processes is
never waited for: a worker's answers are read as they arrive, piece by piece, and which item it is
at stands in shared memory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from cammsr_encoders.protocol import Encoder

from cammsr_cli.errors import CammsrError, first_line

# Processes that die one after another, with nothing decoded in between, mean no single file.
_DEATHS_IN_A_ROW = 8
_LOOK_SECONDS = 0.25
_NUMBER_BYTES = 8
_NOTHING = -1.0


@dataclass(frozen=True)
class Failure:
    """In place of a sample that could not be decoded."""

    reason: str


def decoded(
    encoder: Encoder,
    samples: Sequence[Mapping[str, str]],
    workers: int,
    ahead: int,
    seconds: float,
) -> Generator[Any]:
    """What `encoder.load` makes of each sample, in order; a `Failure` where it makes nothing.

    Args:
        encoder: Its `load` is called.
        samples: What `load` gets.
        workers: Processes that decode; 0 decodes in this one, where no time limit can hold.
        ahead: Samples decoded ahead of the one that is asked for, at most.
        seconds: An item takes so long at most.

    Raises:
        CammsrError: If processes die time and again, whatever they decode.
    """
    if workers == 0 or not samples:
        yield from (_load(encoder, sample) for sample in samples)
        return
    pool = _Pool(encoder, samples, min(workers, len(samples)), seconds)
    try:
        yield from pool.results(max(ahead, workers))
    finally:
        pool.close()


def reason_of(error: Exception) -> str:
    """What an exception says, in one line."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(told.split())[:200]
    if isinstance(error, ValueError | OSError) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _load(encoder: Encoder, sample: Mapping[str, str]) -> Any:
    try:
        return encoder.load(sample)
    except Exception as error:  # one item's fault, whatever it is, must not end the run
        return Failure(reason_of(error))


class _Pool:
    """Worker processes, and which of them is to decode what."""

    def __init__(
        self,
        encoder: Encoder,
        samples: Sequence[Mapping[str, str]],
        workers: int,
        seconds: float,
    ) -> None:
        self.encoder, self.samples, self.seconds = encoder, samples, seconds
        self.again: deque[int] = deque()  # given to a process that ended before it came to them
        self.given = self.deaths = 0
        self.ready: dict[int, Any] = {}
        self.workers = [_Worker(encoder, samples) for _ in range(workers)]

    def results(self, ahead: int) -> Iterator[Any]:
        for wanted in range(len(self.samples)):
            end = min(len(self.samples), wanted + ahead)
            self._give(end)
            while wanted not in self.ready:
                self._receive()
                self._give(end)
            yield self.ready.pop(wanted)

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
            worker.link.close()

    def _give(self, end: int) -> None:
        """Hand out what comes before `end`, to whoever has least to do."""
        while self.again or self.given < end:
            number = self.again.popleft() if self.again else self.given
            self.given = max(self.given, number + 1)
            worker = min(self.workers, key=lambda one: len(one.given))
            worker.give(number)

    def _receive(self) -> None:
        """Take what has been decoded, and replace processes that hang or have died."""
        links: dict[Any, _Worker] = {worker.link: worker for worker in self.workers}
        patience = min(_LOOK_SECONDS, self.seconds / 4)
        for link in wait(list(links), patience):
            worker = links[link]
            alive = self._take(worker)
            if not alive:
                self._died(worker)
        for worker in self.workers:
            at, seconds = worker.at
            if at is not None and seconds > self.seconds:
                self._end(worker)
                if worker.at[0] == at:  # else it went on just now
                    self._fail(worker, at, f"not decoded within {self.seconds:g} seconds")
                self._replace(worker)

    def _take(self, worker: _Worker) -> bool:
        """Take a worker's answers so far; False if it has ended."""
        alive = worker.read()
        for number, sample in worker.answers():
            self.ready[number] = sample
            self.deaths = 0
        return alive

    def _died(self, worker: _Worker) -> None:
        """A worker ended by itself: what it was at failed."""
        self._end(worker)
        self.deaths += 1
        at, _ = worker.at
        if self.deaths >= _DEATHS_IN_A_ROW:
            where = "its start" if at is None else _told(self.samples[at])
            raise CammsrError(
                f"{self.deaths} decoding processes died one after another, the last at {where} "
                f"({worker.end_told})",
                "if memory ran out, use fewer workers or smaller batches",
            )
        if at is not None:
            self._fail(worker, at, f"the decoding process died of it ({worker.end_told})")
        self._replace(worker)

    def _end(self, worker: _Worker) -> None:
        """End a worker, and take what it had finished."""
        worker.end()
        while self._take(worker):
            pass

    def _fail(self, worker: _Worker, number: int, reason: str) -> None:
        worker.given.remove(number)
        self.ready[number] = Failure(reason)

    def _replace(self, worker: _Worker) -> None:
        """A new worker in place of one that has ended; what that left is given again."""
        self.again.extend(worker.given)
        worker.link.close()
        self.workers[self.workers.index(worker)] = _Worker(self.encoder, self.samples)


class _Worker:
    """One worker process, seen from the process that asks.

    Attributes:
        given: Numbers of the samples it is to decode and has not answered, in order.
        link: What it answers through.
    """

    def __init__(self, encoder: Encoder, samples: Sequence[Mapping[str, str]]) -> None:
        self.given: deque[int] = deque()
        self.link, theirs = socket.socketpair()
        # The number of the sample it is at, and since when, by the clock all processes share.
        self._now = multiprocessing.RawArray("d", [_NOTHING, 0.0])
        self._unread = bytearray()
        # A forked process knows its parent by number; others are started by a server of theirs.
        parent = os.getpid() if multiprocessing.get_start_method() == "fork" else None
        self._process = multiprocessing.Process(
            target=_work, args=(encoder, samples, theirs, self._now, parent), daemon=True
        )
        self._process.start()
        theirs.close()  # else its end would not be seen here

    def give(self, number: int) -> None:
        self.given.append(number)
        with contextlib.suppress(OSError):  # it has died, which is seen where answers are read
            self.link.sendall(number.to_bytes(_NUMBER_BYTES, "little"))

    @property
    def at(self) -> tuple[int | None, float]:
        """The sample it is at, if it is at one and has not answered it; and for how long."""
        number, since = int(self._now[0]), float(self._now[1])
        if number not in self.given or number != int(self._now[0]):
            return None, 0.0
        return number, time.monotonic() - since

    def read(self) -> bool:
        """Read what has arrived, waiting for no more than there is; False at the end."""
        try:
            arrived = self.link.recv(1 << 20)
        except OSError:
            return False
        self._unread += arrived
        return bool(arrived)

    def answers(self) -> Iterator[tuple[int, Any]]:
        """The answers that have arrived whole."""
        while len(self._unread) >= _NUMBER_BYTES:
            end = _NUMBER_BYTES + int.from_bytes(self._unread[:_NUMBER_BYTES], "little")
            if len(self._unread) < end:
                return
            answer = bytes(self._unread[_NUMBER_BYTES:end])
            del self._unread[:end]
            number, sample = pickle.loads(answer)  # noqa: S301 - from a process of our own
            self.given.remove(number)
            yield number, sample

    def end(self) -> None:
        self._process.kill()
        self._process.join()

    @property
    def end_told(self) -> str:
        """How it ended."""
        code = self._process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


def _told(sample: Mapping[str, str]) -> str:
    return ", ".join(os.path.basename(value[:200]) for value in sample.values())  # noqa: PTH119


# --- in a worker process ------------------------------------------------------------------------


def _work(
    encoder: Encoder,
    samples: Sequence[Mapping[str, str]],
    link: socket.socket,
    now: Any,
    parent: int | None,
) -> None:
    """Decode what is asked for, for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends this one
    parent = parent or os.getppid()
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # decoders work side by side already
    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_send, args=(link, answers), daemon=True).start()
    while message := link.recv(_NUMBER_BYTES, socket.MSG_WAITALL):
        number = int.from_bytes(message, "little")
        now[1] = time.monotonic()
        now[0] = number
        sample = _load(encoder, samples[number])
        now[0] = _NOTHING
        try:
            answer = pickle.dumps((number, sample), protocol=5)
        except Exception as error:  # whatever a stranger's class raises
            told = Failure(f"its sample cannot be sent between processes: {first_line(error)}")
            answer = pickle.dumps((number, told))
        answers.put(len(answer).to_bytes(_NUMBER_BYTES, "little") + answer)


def _send(link: socket.socket, answers: queue.SimpleQueue[bytes]) -> None:
    """Hand over answers while the next ones are decoded."""
    with contextlib.suppress(OSError):  # nobody reads any more: this process is about to end
        while True:
            link.sendall(answers.get())


def _end_with_parent(parent: int) -> None:
    """End when the parent is gone: a killed parent ends nothing itself."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
