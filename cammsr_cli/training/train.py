"""From a data set to a run folder: what `cammsr train` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from cammsr_cli.config import Config
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.run_folder import (
    ModelSpec,
    RunFolder,
    build_model,
    describe,
    read_catalogue,
    read_events,
    training_items,
)
from cammsr_cli.training.loop import EpochReport, Outcome, Trainer
from cammsr_cli.training.model_card import model_card


@dataclass(frozen=True)
class Started:
    """What is known when training starts, for people to see.

    Attributes:
        spec: What the model is built for.
        parameters: Number of trained values.
        device: Where it trains.
        resumed_epoch: Epochs already done; 0 for a fresh start.
    """

    spec: ModelSpec
    parameters: int
    device: str
    resumed_epoch: int


def train(
    data_path: Path,
    out: Path,
    config: Config,
    *,
    preset: str,
    device: torch.device,
    force: bool = False,
    on_start: Callable[[Started], None],
    on_epoch: Callable[[EpochReport], None],
) -> Outcome:
    """Train a new model into the folder `out`.

    `out` must be empty or not exist, unless `force` is given: then the run in it is replaced, once
    the data set and the settings are known to be sound, and other files there are left alone.

    Raises:
        UsageError: `out` is in use, or is no run folder.
        CammsrError: The data set cannot be used.
    """
    folder = RunFolder(out)
    in_use = out.exists() and (not out.is_dir() or any(out.iterdir()))
    if in_use and force and not folder.exists:
        raise UsageError(
            f"--force replaces only a run, and {out} is none: it has no config.json",
            "Choose another folder: --out RUN",
        )
    if in_use and not force:
        raise UsageError(
            f"{out} is there already and nothing is overwritten",
            f"Go on with it: cammsr train {data_path} --out {out} --resume; or start anew: --force",
        )
    data = DataSet(data_path)
    spec = describe(data, config.model, preset)
    id_rows = [data.item_ids[item] for item in training_items(data)]
    trainer = _trainer(folder, data, config, spec, id_rows, device)
    folder.clear()
    folder.begin(config, spec, id_rows)
    return _run(trainer, spec, config, on_start, on_epoch)


def resume(
    data_path: Path,
    out: Path,
    *,
    device: torch.device,
    on_start: Callable[[Started], None],
    on_epoch: Callable[[EpochReport], None],
) -> Outcome:
    """Go on with the run in `out` from its newest checkpoint, with the settings it began with.

    Raises:
        CammsrError: There is no run, it is finished, or it was begun on another data set.
    """
    folder = RunFolder(out)
    spec = folder.spec()
    if folder.finished:
        raise CammsrError(
            f"the training in {out} is finished", f"See how good it is: cammsr evaluate {out}"
        )
    data = DataSet(data_path)
    if data.content != spec.data_content:
        raise CammsrError(
            f"the checkpoints in {out} are for another data set: they were begun on "
            f"{spec.data_path} (content {spec.data_content[:12]}), and {data_path} has content "
            f"{data.content[:12]}",
            f"Resume with that one: cammsr train {spec.data_path} --out {out} --resume",
        )
    config = folder.config()
    trainer = _trainer(folder, data, config, spec, folder.item_ids(), device)
    trainer.resume()
    return _run(trainer, spec, config, on_start, on_epoch)


def _trainer(
    folder: RunFolder,
    data: DataSet,
    config: Config,
    spec: ModelSpec,
    id_rows: list[str],
    device: torch.device,
) -> Trainer:
    """A trainer of a new model; nothing is written yet."""
    torch.manual_seed(config.training.seed)
    catalogue = read_catalogue(data, spec.feature_dims, id_rows).to(device)
    model = build_model(spec, config.model).to(device)
    model.measure(catalogue)
    return Trainer(model, data, catalogue, read_events(data, device), config, folder, device)


def _run(
    trainer: Trainer,
    spec: ModelSpec,
    config: Config,
    on_start: Callable[[Started], None],
    on_epoch: Callable[[EpochReport], None],
) -> Outcome:
    state = trainer.state
    parameters = sum(p.numel() for p in state.model.parameters())
    on_start(Started(spec, parameters, str(trainer.device), state.progress.epoch))
    outcome = trainer.run(on_epoch)
    trainer.folder.write_text("README.md", model_card(spec, config, outcome))
    return outcome
