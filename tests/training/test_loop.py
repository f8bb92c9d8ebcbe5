"""The training loop: stopped at any step and gone on with, it ends as if it had never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from altered import with_settings

from cammsr_cli.config import validated
from cammsr_cli.data.corpus import SourceOptions, read_corpus
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.dataset_write import write_dataset
from cammsr_cli.data.event_filters import Order
from cammsr_cli.data.splits import VALIDATION
from cammsr_cli.distributed import World
from cammsr_cli.errors import CammsrError, Terminated
from cammsr_cli.files import CHECKSUMS
from cammsr_cli.model.cammsr import Cammsr, ItemTables
from cammsr_cli.model.history_windows import Window
from cammsr_cli.ranking.full_ranking import evaluation_cases, model_ranks
from cammsr_cli.ranking.metrics import per_user
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run, read_events
from cammsr_cli.training import loop
from cammsr_cli.training.checkpoints import Progress
from cammsr_cli.training.loop import Trainer
from cammsr_cli.training.reports import EpochReport, MetricsLog, Outcome, StepReport
from cammsr_cli.training.stopping import noticed_signals
from cammsr_cli.training.train import Listener, Started, has_ties, resume, train

ALONE = World(0, 1, torch.device("cpu"))
EPOCHS = 3
EACH_STEP = 1e-9
"""Minutes between checkpoints so short that one is due after each step."""


@dataclass
class Heard:
    """What a training told its listener."""

    started: list[Started] = field(default_factory=list)
    epochs: list[EpochReport] = field(default_factory=list)
    steps: list[StepReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def listener(self, on_step: Callable[[StepReport], None]) -> Listener:
        def step(report: StepReport) -> None:
            self.steps.append(report)
            on_step(report)

        return Listener(self.started.append, self.epochs.append, step, self.notes.append)

    def losses(self) -> dict[int, dict[str, float]]:
        """The parts of the loss, step by step."""
        return {s.step: {n: float(v) for n, v in s.losses.items()} for s in self.steps}


def _nothing(_: StepReport) -> None:
    pass


def _train(
    data: Path, out: Path, on_step: Callable[[StepReport], None] = _nothing, **training: Any
) -> tuple[Outcome, Heard]:
    sizes = {"width": 16, "layers": 1, "length": 8, "dropout": 0.4, "experts": 2}
    given = {
        "epochs": EPOCHS,
        "precision": "float32",
        "batch_size": 8,
        "swap_weight": 0.05,
        "seed": 4,
        **training,
    }
    config = validated({"model": sizes, "training": given})
    heard = Heard()
    listener = heard.listener(on_step)
    return train(data, out, config, preset="cammsr", world=ALONE, listener=listener), heard


def _resume(
    data: Path, out: Path, on_step: Callable[[StepReport], None] = _nothing
) -> tuple[Outcome, Heard]:
    torch.manual_seed(99)  # what is drawn must not hang on what was drawn before
    heard = Heard()
    return resume(data, out, world=ALONE, listener=heard.listener(on_step)), heard


def _metrics(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["events_per_second"]
    return lines


def _require_same_end(run: Path, undisturbed: Path) -> None:
    assert _metrics(run) == _metrics(undisturbed)
    weights = (run / "model.safetensors").read_bytes()
    assert weights == (undisturbed / "model.safetensors").read_bytes()


def _steps_saved(run: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").iterdir())


SAMPLED = {"sampled_softmax_above": 0, "sparse_adam_above": 0, "negatives": 10}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, toy_data: Path) -> dict[str, Path]:
    """Two trainings that nothing disturbs: by the full softmax, and by a sampled one."""
    root = tmp_path_factory.mktemp("undisturbed")
    _train(toy_data, root / "full")
    _train(toy_data, root / "sampled", **SAMPLED)
    return {"full": root / "full", "sampled": root / "sampled"}


@pytest.fixture(scope="module")
def ends(undisturbed: dict[str, Path]) -> list[int]:
    """The last step of each epoch: 0 before the first."""
    steps = [0, *(line["step"] for line in _metrics(undisturbed["full"]))]
    assert len(steps) == EPOCHS + 1
    assert all(last - first > 7 for first, last in pairwise(steps))
    return steps


# --- undisturbed --------------------------------------------------------------------------------


def test_a_training_tells_where_it_is(toy_data: Path, tmp_path: Path, ends: list[int]) -> None:
    outcome, heard = _train(toy_data, tmp_path / "run")
    (started,) = heard.started
    assert (started.epochs, started.resumed_epoch, started.resumed_step) == (EPOCHS, 0, 0)
    assert not started.sampled
    assert started.parameters == outcome.parameters
    assert [epoch.epoch for epoch in heard.epochs] == [1, 2, 3]
    assert [epoch.step for epoch in heard.epochs] == ends[1:]
    assert [step.step for step in heard.steps] == list(range(1, ends[-1] + 1))
    for epoch, (first, last) in enumerate(pairwise(ends), 1):
        own = heard.steps[first:last]
        assert {step.epoch for step in own} == {epoch}
        expected = [(step + 1) / (last - first) for step in range(last - first)]
        assert [step.share for step in own] == pytest.approx(expected)
    assert all(step.events_per_second > 0 for step in heard.steps)
    for report in heard.epochs:  # an epoch's losses are the mean of its steps'
        each_step = [step.losses for step in heard.steps if step.epoch == report.epoch]
        assert set(report.losses) == {"recommendation", "category", "swap"}
        for name, mean in report.losses.items():
            each = [float(losses[name]) for losses in each_step]
            assert mean == pytest.approx(sum(each) / len(each), rel=1e-5)
    # The branches are weighed at the end, which makes it no worse.
    assert outcome.best_ndcg >= max(epoch.ndcg for epoch in heard.epochs)
    assert set(outcome.branch_weights) == {"id", "all"}
    assert outcome.epochs == EPOCHS
    assert heard.notes == []


def test_what_is_kept_is_the_best_epoch_as_validation_found_it(
    toy_data: Path, undisturbed: dict[str, Path]
) -> None:
    run = load_run(RunFolder(undisturbed["full"]), toy_data, torch.device("cpu"))
    assert run.spec.repeats  # so that validation keeps what users have seen
    asked = evaluation_cases(run.data, VALIDATION)
    kept, hidden = (
        per_user(model_ranks(run.model, run.catalogue, run.events, asked, exclude), "NDCG", 10)
        for exclude in (False, True)
    )
    best = max(line["ndcg"] for line in _metrics(undisturbed["full"]))
    assert kept.mean() >= best
    assert hidden.mean() != pytest.approx(kept.mean())
    run.model.branch_weight_T.fill_(1)  # as in each epoch's validation
    alike = model_ranks(run.model, run.catalogue, run.events, asked, exclude_seen=False)
    assert per_user(alike, "NDCG", 10).mean() == pytest.approx(best)


@pytest.mark.parametrize("kind", ["full", "sampled"])
def test_a_training_can_be_repeated_to_the_bit(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path], kind: str
) -> None:
    torch.manual_seed(123)
    _, heard = _train(toy_data, tmp_path / "run", **(SAMPLED if kind == "sampled" else {}))
    assert heard.started[0].sampled == (kind == "sampled")
    _require_same_end(tmp_path / "run", undisturbed[kind])


def test_out_of_memory_in_validation_its_parts_are_smaller_and_it_finds_the_same(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, refused = Cammsr.last_queries, []

    def tight(model: Cammsr, tables: ItemTables, window: Window) -> torch.Tensor:
        if len(window.item_BL) > 4:
            refused.append(len(window.item_BL))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return plain(model, tables, window)

    monkeypatch.setattr(Cammsr, "last_queries", tight)
    _train(toy_data, tmp_path / "run")
    assert len(refused) > EPOCHS
    ours, theirs = _metrics(tmp_path / "run"), _metrics(undisturbed["full"])
    for one, other in zip(ours, theirs, strict=True):
        assert one["losses"] == other["losses"]
        assert one["ndcg"] == pytest.approx(other["ndcg"], abs=0.01)


def test_the_two_kinds_of_softmax_are_two(undisturbed: dict[str, Path]) -> None:
    assert _metrics(undisturbed["full"]) != _metrics(undisturbed["sampled"])


def test_many_checkpoints_change_nothing(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path], ends: list[int]
) -> None:
    seen: list[list[int]] = []

    def look(report: StepReport) -> None:
        if report.step > 1:
            seen.append(_steps_saved(tmp_path / "run"))

    _train(toy_data, tmp_path / "run", look, checkpoint_minutes=EACH_STEP, keep_checkpoints=1)
    _require_same_end(tmp_path / "run", undisturbed["full"])
    # At step n the checkpoint of step n - 1 is there, also within an epoch.
    assert [saved[-1] for saved in seen] == list(range(1, ends[-1]))


def test_a_short_epoch_saves_at_its_end_alone(toy_data: Path, tmp_path: Path) -> None:
    outcome, heard = _train(toy_data, tmp_path / "run", keep_checkpoints=9)
    assert _steps_saved(tmp_path / "run") == [epoch.step for epoch in heard.epochs]
    assert outcome.epochs == EPOCHS


def test_checkpoints_are_as_far_apart_as_asked(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[int]
) -> None:
    """A minute apart, on a clock on which each step takes 25 seconds: after every third step."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.001
        return now

    def wait(_: StepReport) -> None:
        nonlocal now
        now += 25

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=clock))
    run = tmp_path / "run"
    _train(toy_data, run, wait, checkpoint_minutes=1, keep_checkpoints=99)
    expected = [s for first, last in pairwise(ends) for s in [*range(first + 3, last, 3), last]]
    assert _steps_saved(run) == expected


# --- stopped by a signal ------------------------------------------------------------------------


def _signal_at(step: int, number: int, times: int = 1) -> Callable[[StepReport], None]:
    def on_step(report: StepReport) -> None:
        if report.step == step:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return on_step


@pytest.mark.parametrize("kind", ["full", "sampled"])
@pytest.mark.parametrize("where", ["first step", "in the second epoch", "last of an epoch"])
def test_stopped_at_any_step_it_goes_on_exactly(
    toy_data: Path,
    tmp_path: Path,
    undisturbed: dict[str, Path],
    ends: list[int],
    where: str,
    kind: str,
) -> None:
    at = {
        "first step": 1,
        "in the second epoch": ends[1] + 3,
        "last of an epoch": ends[2],
    }[where]
    run = tmp_path / "run"
    with pytest.raises(Terminated):
        _train(
            toy_data,
            run,
            _signal_at(at, signal.SIGTERM),
            **(SAMPLED if kind == "sampled" else {}),
        )
    assert _steps_saved(run)[-1] == at
    assert not (run / "model.safetensors").exists()
    outcome, heard = _resume(toy_data, run)
    assert heard.started[0].resumed_step == at
    assert heard.started[0].resumed_epoch == sum(at >= end for end in ends[1:])
    assert [step.step for step in heard.steps] == list(range(at + 1, ends[-1] + 1))
    assert outcome.epochs == EPOCHS
    _require_same_end(run, undisturbed[kind])


def test_stopped_again_and_again_it_goes_on_exactly(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path], ends: list[int]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Terminated):
        _train(toy_data, run, _signal_at(2, signal.SIGTERM))
    for at in range(4, ends[-1], 5):
        with pytest.raises(Terminated):
            _resume(toy_data, run, _signal_at(at, signal.SIGTERM))
    _resume(toy_data, run)
    _require_same_end(run, undisturbed["full"])


def test_stopped_on_the_very_last_step_only_the_end_is_left_to_do(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path], ends: list[int]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Terminated):
        _train(toy_data, run, _signal_at(ends[-1], signal.SIGTERM))
    _, heard = _resume(toy_data, run)
    assert heard.steps == []
    _require_same_end(run, undisturbed["full"])


def test_ctrl_c_is_noted_too_and_is_told_apart(toy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        _train(toy_data, tmp_path / "run", _signal_at(3, signal.SIGINT))
    assert not isinstance(caught.value, Terminated)
    assert _steps_saved(tmp_path / "run") == [3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(toy_data: Path, tmp_path: Path, number: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        _train(toy_data, tmp_path / "run", _signal_at(3, number, times=2))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_signals_mean_what_they_did_once_training_is_over(toy_data: Path, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Terminated):
        _train(toy_data, tmp_path / "run", _signal_at(1, signal.SIGTERM))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    _resume(toy_data, tmp_path / "run")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_a_training_runs_without_signals() -> None:
    asked: list[int | None] = []

    def notice() -> None:
        with noticed_signals() as stop:
            asked.append(stop.by)
            stop.obey()

    thread = threading.Thread(target=notice)
    thread.start()
    thread.join()
    assert asked == [None]


# --- crashed ------------------------------------------------------------------------------------


class _CrashError(Exception):
    """What no training expects."""


def _crash_at(step: int) -> Callable[[StepReport], None]:
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise _CrashError

    return on_step


def test_crashed_within_an_epoch_it_goes_on_from_the_last_checkpoint(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path], ends: list[int]
) -> None:
    run, at = tmp_path / "run", ends[1] + 4
    with pytest.raises(_CrashError):
        _train(toy_data, run, _crash_at(at), checkpoint_minutes=EACH_STEP)
    assert _steps_saved(run)[-1] == at - 1
    _, heard = _resume(toy_data, run)
    assert heard.steps[0].step == at
    _require_same_end(run, undisturbed["full"])


@pytest.mark.parametrize("epoch", [1, 2, 3])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_about_the_time_an_epoch_is_logged_each_is_logged_once(
    toy_data: Path,
    tmp_path: Path,
    undisturbed: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    epoch: int,
) -> None:
    real = MetricsLog.add

    def add(self: MetricsLog, report: EpochReport) -> None:
        if when == "after" or report.epoch != epoch:
            real(self, report)
        if report.epoch == epoch:
            raise _CrashError

    run = tmp_path / "run"
    monkeypatch.setattr(MetricsLog, "add", add)
    with pytest.raises(_CrashError):
        _train(toy_data, run)
    monkeypatch.undo()
    _resume(toy_data, run)
    _require_same_end(run, undisturbed["full"])


def test_what_a_kill_left_half_written_is_cleared_away(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path]
) -> None:
    """A step saved by the clock may never be saved again: its leftovers would stay for ever."""
    run = tmp_path / "run"
    with pytest.raises(_CrashError):
        _train(toy_data, run, _crash_at(4), checkpoint_minutes=EACH_STEP)
    half = run / "checkpoints" / ".step-999.partial"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half of it")
    _resume(toy_data, run)
    _require_same_end(run, undisturbed["full"])
    assert all(path.name.startswith("step-") for path in (run / "checkpoints").iterdir())


def test_resumed_before_the_first_checkpoint_it_begins_anew(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path]
) -> None:
    with pytest.raises(_CrashError):
        _train(toy_data, tmp_path / "run", _crash_at(3))
    _, heard = _resume(toy_data, tmp_path / "run")
    assert heard.steps[0].step == 1
    _require_same_end(tmp_path / "run", undisturbed["full"])


# --- damaged checkpoints ------------------------------------------------------------------------

FILES = ("model.safetensors", "averaged.safetensors", "state.pt", CHECKSUMS)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGES = {"flipped": _flip, "cut": _cut, "gone": Path.unlink}


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory, toy_data: Path, ends: list[int]) -> Path:
    """A training that crashed in its last epoch, with checkpoints of the two steps before."""
    run = tmp_path_factory.mktemp("crashed") / "run"
    with pytest.raises(_CrashError):
        _train(toy_data, run, _crash_at(ends[-1] - 1), checkpoint_minutes=EACH_STEP)
    return run


def _newest(run: Path) -> Path:
    return run / "checkpoints" / f"step-{_steps_saved(run)[-1]}"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(
    toy_data: Path,
    tmp_path: Path,
    crashed: Path,
    undisturbed: dict[str, Path],
    name: str,
    damage: str,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(crashed, run)
    newest = _newest(run)
    DAMAGES[damage](newest / name)
    _, heard = _resume(toy_data, run)
    (note,) = heard.notes
    assert f"{newest} is damaged and passed over" in note
    assert heard.started[0].resumed_step == _steps_saved(crashed)[-2]
    _require_same_end(run, undisturbed["full"])


def test_all_checkpoints_damaged_is_an_error(toy_data: Path, tmp_path: Path, crashed: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(crashed, run)
    checkpoints = list((run / "checkpoints").iterdir())
    for path in checkpoints:
        _flip(path / "state.pt")
    with pytest.raises(CammsrError, match=f"all {len(checkpoints)} checkpoints .* damaged"):
        _resume(toy_data, run)


def test_gone_back_by_an_epoch_its_metrics_are_told_once(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path], ends: list[int]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(_CrashError):
        _train(toy_data, run, _crash_at(ends[2] + 3), keep_checkpoints=9)
    assert _steps_saved(run) == ends[1:3]
    assert len(_metrics(run)) == 2
    _flip(_newest(run) / "state.pt")
    _, heard = _resume(toy_data, run)
    assert heard.started[0].resumed_epoch == 1
    _require_same_end(run, undisturbed["full"])


def test_damaged_best_weights_are_never_kept_unnoticed(
    toy_data: Path, tmp_path: Path, ends: list[int]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(_CrashError):
        # Steps too short to get better: the best is the first, not the newest.
        _train(
            toy_data,
            run,
            _crash_at(ends[-1] - 1),
            checkpoint_minutes=EACH_STEP,
            learning_rate=1e-12,
            ema_decay=0.0,
        )
    lines = _metrics(run)
    best = lines[lines[-1]["best_epoch"] - 1]["step"]
    assert best < _steps_saved(run)[-1]
    _flip(run / "checkpoints" / f"step-{best}" / "averaged.safetensors")
    with pytest.raises(CammsrError, match=r"damaged|changed"):
        _resume(toy_data, run)
    assert not (run / "model.safetensors").exists()


def test_a_damaged_checkpoint_never_takes_a_whole_one_s_place(
    toy_data: Path, tmp_path: Path, undisturbed: dict[str, Path], ends: list[int]
) -> None:
    """Two are kept; damaged ones of later steps must not count as those."""
    run = tmp_path / "run"
    with pytest.raises(_CrashError):
        _train(
            toy_data,
            run,
            _crash_at(ends[1] + 7),
            checkpoint_minutes=EACH_STEP,
            keep_checkpoints=4,
        )
    settings = (run / "config.yaml").read_text()
    with_settings(run, settings.replace("keep_checkpoints: 4", "keep_checkpoints: 2"))
    later = _steps_saved(run)[-3:]
    for step in later:
        _flip(run / "checkpoints" / f"step-{step}" / "state.pt")
    with pytest.raises(_CrashError):
        _resume(toy_data, run, _crash_at(later[1]))
    _, heard = _resume(toy_data, run)
    assert heard.started[0].resumed_step == later[0]  # the one step done since
    _require_same_end(run, undisturbed["full"])


# --- divergence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["1e30", "3"])
def test_a_training_that_diverges_ends_with_one_line_and_the_way_out(
    toy_data: Path, tmp_path: Path, cammsr: Callable, rate: str
) -> None:
    answer = cammsr(
        "train", toy_data, "--out", tmp_path / "run", "--set", f"training.learning_rate={rate}"
    )
    assert answer.code == 1
    assert answer.out == ""
    (error,) = [line for line in answer.err.splitlines() if line.startswith("error: ")]
    assert "training diverged" in error
    assert "step" in error
    assert "--set training.learning_rate=" in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def _after_70_steps() -> SimpleNamespace:
    """As much of a trainer over 20 items as `_require_sense` looks at."""
    return SimpleNamespace(
        corpus=SimpleNamespace(catalogue=SimpleNamespace(id_row_N=torch.arange(20))),
        config=SimpleNamespace(learning_rate=0.3),
        state=SimpleNamespace(progress=Progress(epoch=2, step=70)),
    )


def test_a_finite_loss_far_worse_than_guessing_is_divergence_once_settled() -> None:
    trainer = _after_70_steps()
    Trainer._require_sense(trainer, 5.99)  # log 20 = 2.996; twice that is bad
    with pytest.raises(CammsrError, match=r"after step 70 .* is 6, .* guessing .* 3") as caught:
        Trainer._require_sense(trainer, 6.0)
    assert caught.value.hint == "Try a smaller step: --set training.learning_rate=1.0e-01"
    trainer.state.progress.epoch = 1
    Trainer._require_sense(trainer, 60.0)  # the first epochs may be wild


# --- ties ---------------------------------------------------------------------------------------


def _prepared(folder: Path, rows: str, order: Order = "time") -> DataSet:
    (folder / "log.csv").write_text("user,item,timestamp\n" + rows)
    write_dataset(folder / "x.h5", read_corpus(SourceOptions(folder / "log.csv", order=order)), {})
    return DataSet(folder / "x.h5")


@pytest.mark.parametrize(
    ("times", "tied"),
    [
        # Of each user the last event is test, the one before validation.
        ({"u": [5, 5, 6, 7, 8]}, True),
        ({"u": [4, 5, 5, 7, 8]}, True),
        ({"u": [1, 2, 3, 4, 5], "v": [6, 6, 7, 8]}, True),
        ({"u": [4, 5, 6, 6, 8]}, False),  # training and validation
        ({"u": [4, 5, 6, 7, 7]}, False),  # validation and test
        ({"u": [4, 5, 5, 5]}, False),
        ({"u": [1, 2, 3, 4], "v": [4, 5, 6, 7]}, False),  # of two users
        ({"u": [1, 2, 3, 4, 5]}, False),
        ({"u": [1, 1]}, False),  # training and test
    ],
)
def test_only_training_events_of_one_user_at_one_time_are_tied(tmp_path, times, tied) -> None:
    rows = [(u, f"{u}{n}", time) for u, each in times.items() for n, time in enumerate(each)]
    data = _prepared(tmp_path, "".join(f"{u},{item},{time}\n" for u, item, time in rows))
    assert has_ties(data) == tied


@pytest.mark.parametrize(
    ("times", "order", "tied"),
    [
        ([4.25, 4.5, 5, 7, 8], "time", False),
        ([4.5, 4.5, 5, 7, 8], "time", True),
        ([4, 5, 6, 7.25, 7.5], "time", False),
        ([4, 4, 5, 7, 8], "file", False),  # the rows' order is the truth
        (["2020-01-01"] * 5, "file", False),
        (["2020-01-01"] * 5, "time", True),
    ],
)
def test_what_a_fraction_of_a_second_or_the_file_tells_apart_is_no_tie(
    tmp_path, times, order, tied
) -> None:
    rows = "".join(f"u,i{n},{time}\n" for n, time in enumerate(times))
    data = _prepared(tmp_path, rows, order)
    assert has_ties(data) == tied
    assert read_events(data, torch.device("cpu")).tied_E.tolist() == data.event_tied.tolist()
    assert data.histories(np.array([0])).tied.tolist() == data.event_tied.tolist()
