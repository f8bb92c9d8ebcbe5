"""Checkpoints: the full training state on disk, written atomically, loaded again after a crash."""

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
"""File of the moving average of the weights in a checkpoint. It is validated and kept."""

_FILES = ("model.safetensors", AVERAGED, "state.pt")

_DAMAGE = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OSError,
    UnpicklingError,  # torch raises it for content that `weights_only` rejects
)


@dataclass
class Progress:
    """Progress of a training.

    Attributes:
        epoch: Number of completed epochs.
        step: Number of completed steps.
        best: Best validation NDCG@10 so far.
        best_epoch: Epoch of the best value.
        best_step: Step of the best value. It names the checkpoint.
        batch: Number of completed steps of the current epoch.
        sums: Sums of the loss parts over these steps.
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
    """Everything that changes during training. A checkpoint holds all of it.

    Attributes:
        model: The weights that are trained.
        averaged: Their moving average. It is validated and kept.
        optimizers: Optimisers of `model`.
        progress: Progress of the training.
    """

    model: Cammsr
    averaged: Cammsr
    optimizers: list[Optimizer]
    progress: Progress = field(default_factory=Progress)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Path of the checkpoint of a step."""
    return folder / f"step-{step}"


def save_checkpoint(folder: Path, state: TrainingState, leads: bool = True) -> None:
    """Write weights, their average, optimiser, random state and progress as `step-N`, atomically.

    The content does not depend on the number of processes. All processes must call this function,
    because each may hold a shard of a large table. Only the process that `leads` writes.
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
        with (partial / "state.pt").open("wb") as stream:  # errors carry the system's message
            torch.save(rest, stream)
        write_checksums(partial, {name: partial / name for name in _FILES})


def load_checkpoint(path: Path, state: TrainingState) -> None:
    """Load everything that `save_checkpoint` wrote; with `weights_only`, so that no code is run.

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
    """Random state of the model's GPU, as a list of one; an empty list on other devices."""
    device = model.device
    return [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []


def _set_cuda_random(model: Cammsr, saved: list[Tensor]) -> None:
    """Restore the random state of the model's GPU, even if it was saved on another GPU.

    Older checkpoints hold the states of all GPUs of the machine that wrote them. That machine may
    have had more GPUs than this one.
    """
    device = model.device
    if saved and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.set_rng_state(saved[min(index, len(saved) - 1)], device)


def newest_whole_checkpoint(folder: Path, note: Callable[[str], None]) -> Path | None:
    """Undamaged checkpoint with the highest step; None if there are no checkpoints.

    Args:
        folder: Folder of the checkpoints.
        note: Receives a note about each damaged checkpoint that is skipped.

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
    """Rename the checkpoints of steps after `step` to `step-N.damaged`: they are then ignored."""
    for path in _by_step(folder):
        if int(path.name[5:]) > step:
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def require_whole(path: Path) -> None:
    """Raise an error if a checkpoint's files have changed since they were written.

    Raises:
        CammsrError: The checkpoint is damaged.
    """
    if (fault := changed_since(path, _FILES)) is not None:
        raise CammsrError(
            f"the checkpoint {path} is damaged: {fault}",
            "It held the best weights; train anew with --force",
        )


def drop_old_checkpoints(folder: Path, progress: Progress, keep: int) -> None:
    """Delete all checkpoints except the newest `keep` and the best one."""
    for path in _by_step(folder)[:-keep]:
        if path != checkpoint_path(folder, progress.best_step):
            # Rename first: if the process is killed, no half-deleted checkpoint may remain.
            shutil.rmtree(path.rename(path.with_name(f".{path.name}.partial")))


def clear_partial(folder: Path) -> None:
    """Delete checkpoints that a killed process left half written or half deleted."""
    for path in folder.glob(".step-*.partial"):
        shutil.rmtree(path)


def _by_step(folder: Path) -> list[Path]:
    """All complete checkpoints, oldest first."""
    found = (path for path in folder.glob("step-*") if path.name[5:].isdigit())
    return sorted(found, key=lambda path: int(path.name[5:]))
