"""Decodes items in worker processes, in order, with a time limit per item.

A decoder may hang or crash on a malicious file, and nothing within its process can stop it. The
process is then killed and replaced. Its current item becomes a failure; all other items are
decoded. A process that hangs must not block the others. All communication between processes is
therefore non-blocking: messages are sent and answers are read in pieces, as far as possible. The
number of a worker's current item and the decoded pixels are in shared memory.
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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Protocol

from cammsr_cli.encoding.shared_ring_buffer import Ring, Spilt
from cammsr_cli.errors import CammsrError, first_line

# If so many processes die in a row, with nothing decoded in between, no single file is the cause.
_DEATHS_IN_A_ROW = 8
_LOOK_SECONDS = 0.25
_NUMBER_BYTES = 8
_NOTHING, _STARTING = -1.0, -2.0
# A process that is not started by fork must import what the encoder needs.
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Failure:
    """Takes the place of a sample that could not be decoded."""

    reason: str


Sample = Mapping[str, str] | Failure
"""The input of `load`, or the reason why there is nothing to load."""


class Loader(Protocol):
    """An encoder, or any object with its `load` method; it is sent to other processes."""

    def load(self, item: Mapping[str, str]) -> Any:
        """Read and decode one item; raise ValueError or OSError if it cannot be used."""


class Decoder:
    """Calls `encoder.load` on samples before they are needed.

    Args:
        encoder: The object whose `load` is called.
        workers: Number of worker processes, each started when there is work for it; 0 decodes in
            this process, without a time limit.
        seconds: Time limit per item.
    """

    def __init__(self, encoder: Loader, workers: int, seconds: float) -> None:
        self.encoder = encoder
        self._pool = _Pool(encoder, workers, seconds) if workers else None
        self._given: deque[Sample] = deque()  # used without worker processes

    def give(self, samples: Iterable[Sample]) -> None:
        """Queue samples for decoding."""
        if self._pool is None:
            self._given.extend(samples)
        else:
            self._pool.give(samples)

    def take(self, count: int) -> list[Any]:
        """Return the next `count` results of `load`; a `Failure` for a sample that failed.

        Raises:
            CammsrError: If processes die repeatedly, whatever they decode.
        """
        if self._pool is None:
            return [_load(self.encoder, self._given.popleft()) for _ in range(count)]
        return [self._pool.take() for _ in range(count)]

    def close(self) -> None:
        """End all processes."""
        if self._pool is not None:
            self._pool.close()


def reason_of(error: BaseException) -> str:
    """Return the message of an exception as one line."""
    described = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join(described.split())[:200]
    if isinstance(error, ValueError | OSError) and line:
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _load(encoder: Loader, sample: Sample) -> Any:
    if isinstance(sample, Failure):
        return sample
    try:
        return encoder.load(sample)
    except (Exception, SystemExit) as error:  # an error in one item must not end the run
        return Failure(reason_of(error))


class _Pool:
    """The worker processes, and the assignment of samples to them."""

    def __init__(self, encoder: Loader, workers: int, seconds: float) -> None:
        self.encoder, self.most, self.seconds = encoder, workers, seconds
        self.samples: dict[int, Sample] = {}  # queued, and their results not yet taken
        self.given = self.taken = self.deaths = 0
        self.ready: dict[int, Any] = {}
        self.workers: list[_Worker] = []

    def give(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            self.samples[self.given] = sample
            self._give(self.given)
            self.given += 1

    def take(self) -> Any:
        while self.taken not in self.ready:
            self._receive()
        sample = self.ready.pop(self.taken)
        del self.samples[self.taken]
        self.taken += 1
        return sample

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
            worker.close()
        self.workers = []

    def _give(self, number: int) -> None:
        """Assign a sample to the worker with the shortest queue."""
        if len(self.workers) < self.most and all(worker.given for worker in self.workers):
            self.workers.append(_Worker(self.encoder))
        worker = min(self.workers, key=lambda one: len(one.given))
        worker.give(number, self.samples[number])

    def _receive(self) -> None:
        """Receive decoded samples, and replace processes that hang or have died."""
        for worker in self.workers:
            worker.send()
        links: dict[Any, _Worker] = {worker.link: worker for worker in self.workers}
        patience = min(_LOOK_SECONDS, self.seconds / 4)
        for link in wait(list(links), patience):
            worker = links[link]
            alive = self._take(worker)
            if not alive:
                self._died(worker)
        for worker in self.workers:
            if worker.hangs_at_start:
                self._died(worker)
                continue
            at, seconds = worker.at
            if at is not None and seconds > self.seconds:
                self._end(worker)
                if worker.at[0] == at:  # otherwise it has finished this sample in the meantime
                    self._fail(worker, at, f"not decoded within {self.seconds:g} seconds")
                self._replace(worker)

    def _take(self, worker: _Worker) -> bool:
        """Receive a worker's answers so far; return False if the worker has ended."""
        alive = worker.read()
        for number, sample in worker.answers():
            self.ready[number] = sample
            self.deaths = 0
        return alive

    def _died(self, worker: _Worker) -> None:
        """Handle a worker that died: its current sample fails."""
        self._end(worker)
        self.deaths += 1
        at, _ = worker.at
        if self.deaths >= _DEATHS_IN_A_ROW:
            where = "its start" if at is None else _named(self.samples[at])
            raise CammsrError(
                f"{self.deaths} decoding processes died one after another, the last at {where} "
                f"({worker.how_it_ended})",
                "if memory ran out, use fewer workers or smaller batches",
            )
        if at is not None:
            self._fail(worker, at, f"the decoding process died of it ({worker.how_it_ended})")
        self._replace(worker)

    def _end(self, worker: _Worker) -> None:
        """Kill a worker, and receive the samples that it had finished."""
        worker.end()
        while self._take(worker):
            pass

    def _fail(self, worker: _Worker, number: int, reason: str) -> None:
        worker.given.remove(number)
        self.ready[number] = Failure(reason)

    def _replace(self, worker: _Worker) -> None:
        """Start a new worker in place of one that has ended, and reassign its open samples."""
        worker.close()
        self.workers[self.workers.index(worker)] = _Worker(self.encoder)
        for number in worker.given:
            self._give(number)


class _Worker:
    """One worker process, seen from the parent process.

    Attributes:
        given: Numbers of the samples that are assigned to it and not answered yet, in order.
        link: The socket for its messages and answers.
    """

    def __init__(self, encoder: Loader) -> None:
        self.given: deque[int] = deque()
        self._unsent = bytearray()
        self.link, theirs = socket.socketpair()
        self._ring = _ring()
        # The number of its current sample, and its start time on the clock shared by all processes.
        self._now = multiprocessing.RawArray("d", [_STARTING, time.monotonic()])
        self._unread = bytearray()
        # A forked process has this process as parent; others may be started by a server process.
        parent = os.getpid() if multiprocessing.get_start_method() == "fork" else None
        self._process = multiprocessing.Process(
            target=_work, args=(encoder, theirs, self._now, parent), daemon=True
        )
        self._process.start()
        theirs.close()  # otherwise this process would not notice the end of the worker
        with contextlib.suppress(OSError):  # it has died; this is handled where answers are read
            socket.send_fds(self.link, [b"\0"], [self._ring.file] if self._ring else [])

    def give(self, number: int, sample: Sample) -> None:
        self.given.append(number)
        self._unsent += _message((number, sample))
        self.send()

    def send(self) -> None:
        """Send as much of the unsent messages as possible without blocking."""
        with contextlib.suppress(OSError):  # it has died; this is handled where answers are read
            while self._unsent:
                del self._unsent[: self.link.send(self._unsent, socket.MSG_DONTWAIT)]

    @property
    def hangs_at_start(self) -> bool:
        """Whether it has not started within the time limit.

        A forked process may wait for a lock for ever: a thread of the parent held the lock, and the
        forked copy does not have this thread.
        """
        state, since = self._now
        return bool(state == _STARTING and time.monotonic() - since > _START_SECONDS)

    @property
    def at(self) -> tuple[int | None, float]:
        """The number of its current, unanswered sample (None if there is none), and the seconds."""
        number, since = int(self._now[0]), float(self._now[1])
        if number not in self.given or number != int(self._now[0]):
            return None, 0.0
        return number, time.monotonic() - since

    def read(self) -> bool:
        """Read what has arrived, without waiting for more; return False at the end of stream."""
        try:
            arrived = self.link.recv(1 << 20)
        except OSError:
            return False
        self._unread += arrived
        return bool(arrived)

    def answers(self) -> Iterator[tuple[int, Any]]:
        """Yield the answers that have arrived completely."""
        while len(self._unread) >= _NUMBER_BYTES:
            end = _NUMBER_BYTES + int.from_bytes(self._unread[:_NUMBER_BYTES], "little")
            if len(self._unread) < end:
                return
            answer = bytes(self._unread[_NUMBER_BYTES:end])
            del self._unread[:end]
            number, sample = pickle.loads(answer)  # noqa: S301 - from a process of our own
            if isinstance(sample, Spilt):
                assert self._ring is not None
                sample = self._ring.take(sample)
            self.given.remove(number)
            yield number, sample

    def end(self) -> None:
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        self.link.close()
        if self._ring is not None:
            self._ring.close()

    @property
    def how_it_ended(self) -> str:
        """The exit code or the signal that ended it."""
        code = self._process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


def _ring() -> Ring | None:
    """Return memory to share with a worker; None on systems without `memfd_create`, as macOS."""
    return Ring() if hasattr(os, "memfd_create") else None


def _named(sample: Sample) -> str:
    if isinstance(sample, Failure):
        return sample.reason
    return ", ".join(os.path.basename(value[:200]) for value in sample.values())  # noqa: PTH119


# --- in a worker process ------------------------------------------------------------------------


def _work(
    encoder: Loader,
    link: socket.socket,
    now: Any,
    parent: int | None,
) -> None:
    """Decode the requested samples until the parent closes the connection."""
    sys.stdout = sys.stderr  # stdout is for results; an encoder's prints are none
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    end_with(parent or os.getppid())
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # several decoders run in parallel already
    _, files, _, _ = socket.recv_fds(link, 1, 1)
    ring = Ring(files[0]) if files else None
    answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_send, args=(link, answers), daemon=True).start()
    now[0] = _NOTHING
    while length := link.recv(_NUMBER_BYTES, socket.MSG_WAITALL):
        message = link.recv(int.from_bytes(length, "little"), socket.MSG_WAITALL)
        number, sample = pickle.loads(message)  # noqa: S301 - from a process of our own
        now[1] = time.monotonic()
        now[0] = number
        loaded = _load(encoder, sample)
        now[0] = _NOTHING
        try:
            spilt = None if ring is None else ring.put(loaded)
            answer = _message((number, loaded if spilt is None else spilt))
        except Exception as error:  # third-party classes may raise anything
            described = Failure(f"its sample cannot be sent between processes: {first_line(error)}")
            answer = _message((number, described))
        answers.put(answer)


def _message(content: tuple[int, Any]) -> bytes:
    """Return the pickled content, preceded by its length."""
    message = pickle.dumps(content, protocol=5)
    return len(message).to_bytes(_NUMBER_BYTES, "little") + message


def _send(link: socket.socket, answers: queue.SimpleQueue[bytes]) -> None:
    """Send answers while the next samples are decoded."""
    with contextlib.suppress(OSError):  # the parent reads no more: this process is about to end
        while True:
            link.sendall(answers.get())


def end_with(parent: int) -> None:
    """End this process when its parent is gone: a killed parent cannot end its children."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
