"""Decoders that hang, crash and babble, in real processes."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cammsr_cli.encoding import decode
from cammsr_cli.encoding.decode import Decoder, Failure
from cammsr_cli.errors import CammsrError


class Toy:
    """Does what its samples say."""

    api, modality, fields, fingerprint, dim = 1, "toy", ("image",), "toy", 1

    def load(self, item: Mapping[str, str]) -> Any:
        word, _, number = item["image"].partition(" ")
        if word == "hang":  # in C, and no other thread of the process gets to run
            re.match(r"(a+)+$", "a" * 60 + "b")
        if word == "sleep":
            time.sleep(float(number))
        if word == "crash":
            faulthandler.disable()  # of pytest: its report is not wanted
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == "exit":
            os._exit(3)
        if word == "leave":
            sys.exit(3)
        if word == "bad":
            raise ValueError("bad\nsample")
        if word == "large":
            return np.full(300_000, int(number))
        if word == "closed":
            return lambda: None
        return item["image"]

    def encode(self, samples: list[Any]) -> Any:
        raise NotImplementedError


def _decoder(workers: int = 2, seconds: float = 60) -> closing[Decoder]:
    return closing(Decoder(Toy(), workers, seconds))


def _samples(words: list[str]) -> list[dict[str, str]]:
    return [{"image": word} for word in words]


def _decoded(words: list[str], workers: int = 2, seconds: float = 60) -> list[Any]:
    with _decoder(workers, seconds) as decoder:
        decoder.give(_samples(words))
        return decoder.take(len(words))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_samples_come_in_order_and_failures_in_their_places(workers: int) -> None:
    words = [f"{'bad' if number % 4 == 1 else 'x'} {number}" for number in range(30)]
    expected = [Failure("bad sample") if word.startswith("bad") else word for word in words]
    assert _decoded(words, workers) == expected
    assert _decoded([], workers) == []


def test_large_samples_are_taken_while_more_are_given() -> None:
    words = [f"large {number}" for number in range(40)]
    with _decoder() as decoder:
        for start in range(0, 40, 4):
            decoder.give(_samples(words[start : start + 4]))
            for number in range(max(0, start - 4), start):
                [sample] = decoder.take(1)
                assert sample.shape == (300_000,)
                assert sample[0] == number


@pytest.mark.parametrize("workers", [1, 2])
def test_a_decoder_that_hangs_is_killed_and_the_others_are_decoded(workers: int) -> None:
    words = ["a", "large 1", "hang", "b", "c", "hang", "d", "large 2"]
    began = time.monotonic()
    results = _decoded(words, workers, seconds=1)
    assert time.monotonic() - began < 8
    assert [one for one in results if isinstance(one, str)] == ["a", "b", "c", "d"]
    assert results[2] == results[5] == Failure("not decoded within 1 seconds")
    assert [results[place][0] for place in (1, 7)] == [1, 2]


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="a forked process has what is patched"
)
def test_a_process_that_hangs_at_its_start_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a forked one does that waits for a lock which a thread of its parent held."""
    first = tmp_path / "first"
    monkeypatch.setattr(decode, "_START_SECONDS", 0.5)

    def hang_once(_parent: int) -> None:
        if not first.exists():
            first.touch()
            time.sleep(600)

    monkeypatch.setattr(decode, "end_with", hang_once)
    assert _decoded(["a", "b", "c"], workers=1) == ["a", "b", "c"]
    assert first.exists()
    monkeypatch.setattr(decode, "end_with", lambda _parent: time.sleep(600))
    with pytest.raises(CammsrError, match="one after another, the last at its start"):
        _decoded(["a"], workers=1)


def test_the_limit_is_for_one_item_and_not_for_all_that_wait() -> None:
    words = ["sleep 0.4", "sleep 0.4", "sleep 0.4", "x"]
    assert _decoded(words, workers=1, seconds=1) == words


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_that_asks_to_exit_is_a_failure_like_another(workers: int) -> None:
    with _decoder(workers) as decoder:
        decoder.give(_samples(["a", "leave", "c"]))
        assert decoder.take(3) == ["a", Failure("SystemExit: 3"), "c"]


@pytest.mark.parametrize(
    ("word", "told"), [("crash", "SIGSEGV"), ("exit", "exit code 3")], ids=["crash", "exit"]
)
def test_a_decoder_that_dies_costs_one_item(word: str, told: str) -> None:
    results = _decoded(["a", word, "b", word, "c"])
    assert [results[place] for place in (0, 2, 4)] == ["a", "b", "c"]
    assert results[1] == results[3] == Failure(f"the decoding process died of it ({told})")


def test_decoders_that_do_nothing_but_die_end_the_run() -> None:
    with pytest.raises(CammsrError, match="8 decoding processes died one after another") as raised:
        _decoded(["crash"] * 20, workers=1)
    assert "SIGSEGV" in raised.value.message


def test_a_sample_that_cannot_be_sent_is_a_failure() -> None:
    results = _decoded(["closed", "a"])
    assert "cannot be sent between processes" in results[0].reason
    assert results[1] == "a"


def test_large_messages_to_a_worker_that_is_busy_hold_nobody_up() -> None:
    words = ["sleep 1", *("x" * 1_000_000 + f" {number}" for number in range(8))]
    with _decoder(workers=1) as decoder:
        began = time.monotonic()
        decoder.give(_samples(words))
        assert time.monotonic() - began < 1
        assert decoder.take(9) == words


def test_what_cannot_be_loaded_keeps_its_place() -> None:
    with _decoder() as decoder:
        decoder.give([{"image": "a"}, Failure("gone"), {"image": "b"}])
        assert decoder.take(3) == ["a", Failure("gone"), "b"]


def test_no_process_is_left() -> None:
    with _decoder() as decoder:
        decoder.give(_samples(["a", "sleep 60"]))
        assert decoder.take(1) == ["a"]
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


ORPHANS = """
import sys
sys.path.insert(0, sys.argv[1])
import multiprocessing
from test_decode import Toy
from cammsr_cli.encoding.decode import Decoder
decoder = Decoder(Toy(), 2, 60)
decoder.give({"image": word} for word in ("a", "sleep 60", "sleep 60"))
pids = [process.pid for process in multiprocessing.active_children()]
print(*decoder.take(1), *pids, flush=True)
decoder.take(1)
"""


def test_workers_of_a_killed_run_end_with_it() -> None:
    arguments = [sys.executable, "-c", ORPHANS, str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        word, *pids = process.stdout.readline().split()
        assert word == "a"
        assert len(pids) == 2
        process.kill()
        assert process.stdout.read() == ""  # returns once nobody holds the pipe any more
