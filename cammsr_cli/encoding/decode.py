"""Decodes items in worker processes, in order, each item within a limit of time.

A decoder may hang or crash on a hostile file, and nothing within its process can stop it. The
process is then killed and replaced; the item it was at becomes a failure, all others are decoded.
So that a process that hangs can hold nothing up, what goes either way between the processes is
never waited for: messages are sent and answers read as far as they go, piece by piece, and which
item a process is at stands in shared memory, as do the pixels of what it decoded.
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

from cammsr_cli.encoding.ring import Ring, Spilt
from cammsr_cli.errors import CammsrError, first_line

# Processes that die one after another, with nothing decoded in between, mean no single file.
_DEATHS_IN_A_ROW = 8
_LOOK_SECONDS = 0.25
_NUMBER_BYTES = 8
_NOTHING, _STARTING = -1.0, -2.0
# A process that starts another way than by fork imports what the encoder needs.
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Failure:
    """In place of a sample that could not be decoded."""

    reason: str


Sample = Mapping[str, str] | Failure
"""What `load` gets, or why there is nothing to load."""


class Loader(Protocol):
    """What decodes: an encoder, or anything with its `load`; it is sent to other processes."""

    def load(self, item: Mapping[str, str]) -> Any:
        """Read and decode one item; a ValueError or an OSError says why it cannot be used."""


class Decoder:
    """Calls `encoder.load` on samples, ahead of who takes them.

    Args:
        encoder: Its `load` is called.
        workers: Processes that decode, each started when there is work for it; 0 decodes in this
            one, where no time limit can hold.
        seconds: An item takes so long at most.
    """

    def __init__(self, encoder: Loader, workers: int, seconds: float) -> None:
        self.encoder = encoder
        self._pool = _Pool(encoder, workers, seconds) if workers else None
        self._given: deque[Sample] = deque()  # where no process decodes

    def give(self, samples: Iterable[Sample]) -> None:
        """Have samples decoded."""
        if self._pool is None:
            self._given.extend(samples)
        else:
            self._pool.give(samples)

    def take(self, count: int) -> list[Any]:
        """What `load` made of the next of the given samples; a `Failure` where it made nothing.

        Raises:
            CammsrError: If processes die time and again, whatever they decode.
        """
        if self._pool is None:
            return [_load(self.encoder, self._given.popleft()) for _ in range(count)]
        return [self._pool.take() for _ in range(count)]

    def close(self) -> None:
        """End all processes."""
        if self._pool is not None:
            self._pool.close()


def reason_of(error: BaseException) -> str:
    """What an exception says, in one line."""
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
    except (Exception, SystemExit) as error:  # one item's fault must not end the run
        return Failure(reason_of(error))


class _Pool:
    """Worker processes, and which of them is to decode what."""

    def __init__(self, encoder: Loader, workers: int, seconds: float) -> None:
        self.encoder, self.most, self.seconds = encoder, workers, seconds
        self.samples: dict[int, Sample] = {}  # given and not taken
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
        """To whoever has least to do."""
        if len(self.workers) < self.most and all(worker.given for worker in self.workers):
            self.workers.append(_Worker(self.encoder))
        worker = min(self.workers, key=lambda one: len(one.given))
        worker.give(number, self.samples[number])

    def _receive(self) -> None:
        """Take what has been decoded, and replace processes that hang or have died."""
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
        """End a worker, and take what it had finished."""
        worker.end()
        while self._take(worker):
            pass

    def _fail(self, worker: _Worker, number: int, reason: str) -> None:
        worker.given.remove(number)
        self.ready[number] = Failure(reason)

    def _replace(self, worker: _Worker) -> None:
        """A new worker in place of one that has ended; what that left is given again."""
        worker.close()
        self.workers[self.workers.index(worker)] = _Worker(self.encoder)
        for number in worker.given:
            self._give(number)


class _Worker:
    """One worker process, seen from the process that asks.

    Attributes:
        given: Numbers of the samples it is to decode and has not answered, in order.
        link: What it answers through.
    """

    def __init__(self, encoder: Loader) -> None:
        self.given: deque[int] = deque()
        self._unsent = bytearray()
        self.link, theirs = socket.socketpair()
        self._ring = _ring()
        # The number of the sample it is at, and since when, by the clock all processes share.
        self._now = multiprocessing.RawArray("d", [_STARTING, time.monotonic()])
        self._unread = bytearray()
        # A forked process knows its parent by number; others are started by a server of theirs.
        parent = os.getpid() if multiprocessing.get_start_method() == "fork" else None
        self._process = multiprocessing.Process(
            target=_work, args=(encoder, theirs, self._now, parent), daemon=True
        )
        self._process.start()
        theirs.close()  # else its end would not be seen here
        with contextlib.suppress(OSError):  # it has died, which is seen where answers are read
            socket.send_fds(self.link, [b"\0"], [self._ring.file] if self._ring else [])

    def give(self, number: int, sample: Sample) -> None:
        self.given.append(number)
        self._unsent += _message((number, sample))
        self.send()

    def send(self) -> None:
        """Send what it has not been sent, as far as that goes."""
        with contextlib.suppress(OSError):  # it has died, which is seen where answers are read
            while self._unsent:
                del self._unsent[: self.link.send(self._unsent, socket.MSG_DONTWAIT)]

    @property
    def hangs_at_start(self) -> bool:
        """Whether it has not begun in all its time: a forked process may wait for a lock for ever.

        Such a lock was held by a thread of the parent, which the copy does not have.
        """
        state, since = self._now
        return bool(state == _STARTING and time.monotonic() - since > _START_SECONDS)

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
        """How it ended."""
        code = self._process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


def _ring() -> Ring | None:
    """Memory to share with a worker; None where a system has none of that kind, as Apple's."""
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
    """Decode what is asked for, for ever."""
    sys.stdout = sys.stderr  # results go to stdout; what an encoder prints is none
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends this one
    end_with(parent or os.getppid())
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # decoders work side by side already
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
        except Exception as error:  # whatever a stranger's class raises
            described = Failure(f"its sample cannot be sent between processes: {first_line(error)}")
            answer = _message((number, described))
        answers.put(answer)


def _message(content: tuple[int, Any]) -> bytes:
    """Its length and it."""
    message = pickle.dumps(content, protocol=5)
    return len(message).to_bytes(_NUMBER_BYTES, "little") + message


def _send(link: socket.socket, answers: queue.SimpleQueue[bytes]) -> None:
    """Hand over answers while the next ones are decoded."""
    with contextlib.suppress(OSError):  # nobody reads any more: this process is about to end
        while True:
            link.sendall(answers.get())


def end_with(parent: int) -> None:
    """End this process when its parent is gone: a killed parent ends nothing itself."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
