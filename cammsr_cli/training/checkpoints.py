"""Checkpoints: a training's whole state on disk, written whole, found again after a crash."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cammsr_cli.errors import CammsrError, first_line
from cammsr_cli.files import (
    RESUMABLE,
    changed_since,
    refusals_named,
    write_checksums,
    written_whole,
)
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.runs.weights import load_weights, write_weights
from cammsr_cli.training.sharding import (
    load_optimizer_state,
    whole_optimizer_state,
    whole_weights,
)

AVERAGED = "averaged.safetensors"
"""The moving average of the weights, in a checkpoint: what is validated and kept."""

_FILES = ("model.safetensors", AVERAGED, "state.pt")

_DAMAGE = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OSError,
    UnpicklingError,  # torch's word for content that `weights_only` refuses
)


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        epoch: Epochs done.
        step: Steps done.
        best: Best validation NDCG@10 so far.
        best_epoch: The epoch it came from.
        best_step: The step it came from: names its checkpoint.
        batch: Steps done of the epoch that is under way.
        sums: Sums of the parts of their losses.
    """

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    best_step: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)


@dataclass
class TrainingState:
    """All that changes while a model trains, and so all that a checkpoint holds.

    Attributes:
        model: The weights that are trained.
        averaged: Their moving average: what is validated and kept.
        optimizers: Of `model`.
        progress: How far things are.
    """

    model: Cammsr
    averaged: Cammsr
    optimizers: list[Optimizer]
    progress: Progress = field(default_factory=Progress)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step}"


def save_checkpoint(folder: Path, state: TrainingState, leads: bool = True) -> None:
    """Write weights, their average, optimiser, random state and progress as `step-N`, whole.

    What is written does not depend on how many processes there are. All of them must call this,
    since each may hold a part of a large table; the one that `leads` writes.
    """
    weights = {
        "model.safetensors": whole_weights(state.model),
        AVERAGED: whole_weights(state.averaged),
    }
    rest: dict[str, Any] = {
        "optimizers": [whole_optimizer_state(optimizer) for optimizer in state.optimizers],
        "random": torch.get_rng_state(),
        "cuda_random": _cuda_random(state.model),
        "progress": asdict(state.progress),
    }
    if not leads:
        return
    path = checkpoint_path(folder, state.progress.step)
    with refusals_named(folder.parent, RESUMABLE), written_whole(path) as partial:
        partial.mkdir()
        for name, tensors in weights.items():
            write_weights(tensors, partial / name)
        with (partial / "state.pt").open("wb") as stream:  # whose errors say what the system said
            torch.save(rest, stream)
        write_checksums(partial, {name: partial / name for name in _FILES})


def load_checkpoint(path: Path, state: TrainingState) -> None:
    """Bring back everything `save_checkpoint` wrote; `weights_only`, so no code is run.

    Raises:
        CammsrError: The checkpoint is damaged or belongs to another model.
    """
    load_weights(state.model, path / "model.safetensors")
    load_weights(state.averaged, path / AVERAGED)
    try:
        rest = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
        for optimizer, saved in zip(state.optimizers, rest["optimizers"], strict=True):
            load_optimizer_state(optimizer, saved)
        state.progress = Progress(**rest["progress"])
        torch.set_rng_state(rest["random"])
        _set_cuda_random(state.model, rest["cuda_random"])
    except _DAMAGE as error:
        raise CammsrError(
            f"the checkpoint {path} cannot be read: {first_line(error)}",
            f"Delete that folder and resume from the one before: rm -r '{path}'",
        ) from error


def _cuda_random(model: Cammsr) -> list[Tensor]:
    """The random state of the GPU that a model is on, alone in a list; none on other devices."""
    device = model.device
    return [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []


def _set_cuda_random(model: Cammsr, saved: list[Tensor]) -> None:
    """Give the GPU that a model is on its random state back, whichever it had been saved on.

    Older checkpoints hold the states of all GPUs of the machine they were written on, which may
    have been more than there are now.
    """
    device = model.device
    if saved and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.set_rng_state(saved[min(index, len(saved) - 1)], device)


def newest_whole_checkpoint(folder: Path, note: Callable[[str], None]) -> Path | None:
    """The checkpoint with the highest step whose files are as they were written; None of none.

    Args:
        folder: Where the checkpoints lie.
        note: Told of each damaged one that is passed over.

    Raises:
        CammsrError: There are checkpoints, and all are damaged.
    """
    found = _by_step(folder)
    for path in reversed(found):
        fault = changed_since(path, _FILES)
        if fault is None:
            return path
        note(f"the checkpoint {path} is damaged and passed over: {fault}")
    if found:
        raise CammsrError(
            f"all {len(found)} checkpoints in {folder} are damaged", "Train anew with --force"
        )
    return None


def set_aside_later(folder: Path, step: int) -> None:
    """Rename the checkpoints of steps after `step` to `step-N.damaged`: they count no more."""
    for path in _by_step(folder):
        if int(path.name[5:]) > step:
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def require_whole(path: Path) -> None:
    """Refuse a checkpoint whose files are not as they were written.

    Raises:
        CammsrError: It is damaged.
    """
    if (fault := changed_since(path, _FILES)) is not None:
        raise CammsrError(
            f"the checkpoint {path} is damaged: {fault}",
            "It held the best weights; train anew with --force",
        )


def drop_old_checkpoints(folder: Path, progress: Progress, keep: int) -> None:
    """Delete all but the newest `keep` and the best one."""
    for path in _by_step(folder)[:-keep]:
        if path != checkpoint_path(folder, progress.best_step):
            # Under a name that is no checkpoint's: a kill must not leave half of one.
            shutil.rmtree(path.rename(path.with_name(f".{path.name}.partial")))


def clear_partial(folder: Path) -> None:
    """Delete what a kill left half written or half deleted."""
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path)


def _by_step(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    found = (path for path in folder.glob("step-*") if path.name[5:].isdigit())
    return sorted(found, key=lambda path: int(path.name[5:]))
