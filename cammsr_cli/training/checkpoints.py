"""Checkpoints: a training's whole state on disk, written whole, found again after a crash."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.optim import Optimizer

from cammsr_cli.core.model import Cammsr
from cammsr_cli.errors import CammsrError, first_line
from cammsr_cli.files import written_whole
from cammsr_cli.run_folder import load_weights, save_weights

AVERAGED = "averaged.safetensors"
"""The moving average of the weights, in a checkpoint: what is validated and kept."""

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
    """

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    best_step: int = 0


@dataclass
class TrainingState:
    """All that changes while a model trains, and so all that a checkpoint holds.

    Attributes:
        model: The weights that are trained.
        averaged: Their moving average: what is validated and kept.
        optimizer: Of `model`.
        progress: How far things are.
    """

    model: Cammsr
    averaged: Cammsr
    optimizer: Optimizer
    progress: Progress = field(default_factory=Progress)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step}"


def save_checkpoint(folder: Path, state: TrainingState) -> None:
    """Write weights, their average, optimiser, random state and progress as `step-N`, whole."""
    rest: dict[str, Any] = {
        "optimizer": state.optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "progress": vars(state.progress).copy(),
    }
    with written_whole(checkpoint_path(folder, state.progress.step)) as partial:
        partial.mkdir()
        save_weights(state.model, partial / "model.safetensors")
        save_weights(state.averaged, partial / AVERAGED)
        torch.save(rest, partial / "state.pt")


def load_checkpoint(path: Path, state: TrainingState) -> None:
    """Bring back everything `save_checkpoint` wrote; `weights_only`, so no code is run.

    Raises:
        CammsrError: The checkpoint is damaged or belongs to another model.
    """
    load_weights(state.model, path / "model.safetensors")
    load_weights(state.averaged, path / AVERAGED)
    try:
        rest = torch.load(path / "state.pt", weights_only=True, map_location="cpu")
        state.optimizer.load_state_dict(rest["optimizer"])
        state.progress = Progress(**rest["progress"])
        torch.set_rng_state(rest["random"])
        if rest["cuda_random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(rest["cuda_random"])
    except _DAMAGE as error:
        raise CammsrError(
            f"the checkpoint {path} cannot be read: {first_line(error)}",
            f"Delete that folder and resume from the one before: rm -r '{path}'",
        ) from error


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint with the highest step, if there is any."""
    found = _by_step(folder)
    return found[-1] if found else None


def drop_old_checkpoints(folder: Path, progress: Progress, keep: int) -> None:
    """Delete all but the newest `keep` and the best one."""
    for path in _by_step(folder)[:-keep]:
        if path != checkpoint_path(folder, progress.best_step):
            shutil.rmtree(path)


def _by_step(folder: Path) -> list[Path]:
    """All whole checkpoints, oldest first."""
    found = (path for path in folder.glob("step-*") if path.name[5:].isdigit())
    return sorted(found, key=lambda path: int(path.name[5:]))
