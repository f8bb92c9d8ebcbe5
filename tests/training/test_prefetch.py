"""What is made ahead by a thread: in order, no more of it than wanted, and no thread left over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch
from pretended_cuda import pretended_cuda
from toy_data import write_toy_data

from cammsr_cli.config import resolve
from cammsr_cli.distributed import World
from cammsr_cli.training.plan import Planner
from cammsr_cli.training.prefetch import made_ahead
from cammsr_cli.training.reports import StepReport
from cammsr_cli.training.train import Listener, train


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("most", [0, 1, 3, 99])
def test_results_come_in_order(most: int) -> None:
    calls = [partial(pow, at, 2) for at in range(10)]
    assert list(made_ahead(calls, most)) == [at * at for at in range(10)]
    assert list(made_ahead([], most)) == []


def test_no_more_is_made_than_so_many_ahead() -> None:
    made: list[int] = []
    with closing(made_ahead((partial(made.append, at) for at in range(100)), 3)) as results:
        for taken in range(1, 6):
            next(results)
            time.sleep(0.05)
            assert made == list(range(taken + 3))
    assert len(made) <= 9  # nothing after it is closed


def test_it_is_made_by_another_thread_only_where_something_is_ahead() -> None:
    here = threading.get_ident()
    assert list(made_ahead([threading.get_ident], 0)) == [here]
    assert list(made_ahead([threading.get_ident], 2)) != [here]


@pytest.mark.parametrize("most", [0, 2])
def test_what_fails_is_told_where_it_is_taken(most: int) -> None:
    calls: list[Callable[[], object]] = [partial(int, "1"), partial(int, "x"), partial(int, "2")]
    results = made_ahead(calls, most)
    assert next(results) == 1
    with pytest.raises(ValueError, match="'x'"):
        next(results)


def test_an_exception_where_results_are_taken_ends_the_thread() -> None:
    begun = threading.Event()

    def slow() -> None:
        begun.set()
        time.sleep(0.1)

    def interrupted() -> None:
        with closing(made_ahead([int, *[slow] * 50], 2)) as results:
            next(results)
            begun.wait()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


# --- in a training on a GPU ---------------------------------------------------------------------


def _train(data: Path, out: Path, on_step: Callable[[StepReport], None]) -> None:
    settings = ["model.width=8", "model.layers=1", "training.batch_size=8", "training.epochs=2"]

    def nothing(_: object) -> None:
        pass

    listener = Listener(nothing, nothing, on_step, nothing)
    with pretended_cuda():
        world = World(0, 1, torch.device("cuda"))
        config = resolve("sasrec", None, settings)
        train(data, out, config, preset="sasrec", world=world, listener=listener)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_data(tmp_path_factory.mktemp("data") / "toy.h5", users=40, items=24)


def test_steps_on_a_gpu_are_planned_by_one_thread_ahead_of_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, threads, planned, ahead = Planner.micro_batches, set(), [], []

    def watched(self: Planner, *given: object) -> object:
        threads.add(threading.get_ident())
        planned.append(given[2])
        return plain(self, *given)  # type: ignore[arg-type]

    def on_step(report: StepReport) -> None:
        time.sleep(0.02)
        ahead.append(len(planned) - report.step)

    monkeypatch.setattr(Planner, "micro_batches", watched)
    _train(data, tmp_path / "run", on_step)
    assert threading.get_ident() not in threads
    assert planned == list(range(len(planned)))
    assert 1 <= max(ahead) <= 4
    assert ahead[-1] == 0


def test_a_planner_that_fails_ends_the_training_with_its_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, steps = Planner.micro_batches, []

    def failing(self: Planner, *given: object) -> object:
        if given[2] == 3:
            raise ZeroDivisionError("in the fourth plan")
        return plain(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Planner, "micro_batches", failing)
    with pytest.raises(ZeroDivisionError, match="fourth plan"):
        _train(data, tmp_path / "run", steps.append)
    assert [report.step for report in steps] == [1, 2, 3]


def test_ctrl_c_between_steps_leaves_no_planner_behind(data: Path, tmp_path: Path) -> None:
    def stop(report: StepReport) -> None:
        if report.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(data, tmp_path / "run", stop)
