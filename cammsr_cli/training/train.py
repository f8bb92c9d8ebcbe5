"""Training from a data set to a run folder: the command `cammsr train`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cammsr_cli.config import Config
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TRAIN
from cammsr_cli.devices import repeatable, room_for
from cammsr_cli.distributed import World
from cammsr_cli.errors import CammsrError, UsageError, typed
from cammsr_cli.locks import in_use, only_writer
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.model.feature_projection import MEASURED_ROWS
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import read_catalogue, read_events
from cammsr_cli.runs.spec import ModelSpec, build_model, describe, training_items
from cammsr_cli.training.loop import Trainer
from cammsr_cli.training.model_card import model_card
from cammsr_cli.training.plan import Corpus, training_bounds
from cammsr_cli.training.reports import EpochReport, Outcome, StepReport
from cammsr_cli.training.sharding import shard_id_table
from cammsr_cli.training.sizing import fitted


@dataclass(frozen=True)
class Started:
    """Information for the user at the start of training.

    Attributes:
        spec: The spec of the model.
        parameters: Number of trainable parameters.
        device: The device that it trains on, and the number of processes.
        epochs: Largest number of epochs.
        resumed_epoch: Number of complete epochs already done; 0 for a new training.
        resumed_step: Number of steps already done.
        sampled: Whether sampled softmax is used, because the catalogue is large.
    """

    spec: ModelSpec
    parameters: int
    device: str
    epochs: int
    resumed_epoch: int
    resumed_step: int
    sampled: bool


@dataclass(frozen=True)
class Listener:
    """Callbacks of a training.

    Attributes:
        start: Called once, before the first step.
        epoch: Called after each epoch.
        step: Called after each step. Reading the report's numbers synchronises with the GPU.
        note: Receives messages for the user.
    """

    start: Callable[[Started], None]
    epoch: Callable[[EpochReport], None]
    step: Callable[[StepReport], None]
    note: Callable[[str], None]


def train(
    data_path: Path,
    out: Path,
    config: Config,
    *,
    preset: str,
    world: World,
    force: bool = False,
    listener: Listener,
) -> Outcome:
    """Train a new model into the folder `out`.

    `out` must be empty or not exist, unless `force` is given. With `force`, the run in it is
    replaced once the data set and the settings have been checked; other files there are kept.

    Raises:
        UsageError: `out` is not empty and `force` is not given, or it is not a run folder.
        CammsrError: The data set cannot be used.
    """
    folder = RunFolder(out)
    taken = in_use(out)
    if taken and force and not folder.exists:
        raise UsageError(
            f"--force replaces only a run, and {out} is none: it has no item_ids.json",
            "Choose another folder: --out RUN",
        )
    if taken and not force:
        raise UsageError(
            f"{out} is there already and nothing is overwritten",
            f"Go on with it: cammsr train {typed(data_path)} --out {typed(out)} --resume; "
            "or start anew: --force",
        )
    data = DataSet(data_path)
    for remark in data.remarks:
        listener.note(remark)
    config, reasons = fitted(config, data, world.device)
    spec = describe(data, config.model, preset)
    id_rows = [data.item_ids[item] for item in training_items(data)]
    with repeatable(world.device, config.training.deterministic):
        trainer = make_trainer(folder, data, config, spec, id_rows, world, listener.note)
        if reasons:
            listener.note(f"chosen for this data: {', '.join(reasons)}")
        world.wait()  # until all processes have checked the folder
        with _held(out, world):
            if world.leads:
                folder.clear()
                folder.begin(config, spec, id_rows)
            return _run(trainer, spec, config, listener)


def resume(
    data_path: Path,
    out: Path,
    *,
    world: World,
    listener: Listener,
) -> Outcome:
    """Resume the run in `out` from its newest checkpoint, with its original settings.

    Raises:
        CammsrError: There is no run, it is finished, or it was started on another data set.
    """
    folder = RunFolder(out)
    spec = folder.spec()
    if folder.finished:
        raise CammsrError(
            f"the training in {out} is finished",
            f"See how good it is: cammsr evaluate {typed(out)}",
        )
    unchecked = folder.check()
    data = DataSet(data_path)
    for remark in (*unchecked, *data.remarks):
        listener.note(remark)
    if data.content != spec.data_content:
        raise CammsrError(
            f"the checkpoints in {out} are for another data set: they were begun on "
            f"{spec.data_path} (content {spec.data_content[:12]}), and {data_path} has content "
            f"{data.content[:12]}",
            f"Resume with that one: cammsr train {typed(spec.data_path)} --out {typed(out)} "
            "--resume",
        )
    # A run of an older version may still have open settings.
    config, _ = fitted(folder.config(), data, world.device)
    id_rows = folder.item_ids()
    with repeatable(world.device, config.training.deterministic):
        trainer = make_trainer(folder, data, config, spec, id_rows, world, listener.note)
        with _held(out, world):
            trainer.resume()
            return _run(trainer, spec, config, listener)


def _held(out: Path, world: World) -> AbstractContextManager[None]:
    """Lock the run folder during the training; process 0 holds the lock for all processes."""
    return only_writer(out, folder=True) if world.leads else nullcontext()


def make_trainer(
    folder: RunFolder,
    data: DataSet,
    config: Config,
    spec: ModelSpec,
    id_rows: list[str],
    world: World,
    note: Callable[[str], None],
) -> Trainer:
    """Make a trainer for a new model; write nothing yet."""
    seed = config.training.seed
    torch.manual_seed(seed)
    device = world.device
    sampled = len(data.item_ids) > config.training.sampled_softmax_above
    large = sampled and len(data.item_ids) > config.training.sparse_adam_above
    catalogue = read_catalogue(data, spec.feature_dims, id_rows)
    if not large:  # features of a large catalogue are read as needed; faults show up only then
        _require_numbers(data, catalogue)
    # With a large catalogue, each step gathers the features it needs. So features that do not fit
    # the GPU's memory may stay on the host.
    features = not large or room_for(device, _bytes_of(catalogue))
    # Weights are initialised on the CPU, so that they are the same for all devices.
    model = build_model(spec, config.model)
    sharded = large and world.size > 1
    if not sharded:  # otherwise one device would hold the whole table
        model = model.to(device)
        catalogue = catalogue.to(device, features=features)
    model.items.measure(catalogue)
    catalogue = model.items.beside_neighbours(catalogue)
    if model.items.id_table is not None:
        model.items.id_table.sparse = large
    if sharded:
        shard_id_table(model, world)
        model = model.to(device)
    corpus = Corpus(
        catalogue=catalogue.to(device, features=features),
        events=read_events(data, torch.device("cpu")),
        ties=config.training.shuffle_ties and has_ties(data),
        share_N=torch.from_numpy(_target_shares(data)),
        sampled=sampled,
        large=large,
    )
    trainer = Trainer(model, data, corpus, config, folder, world, note, spec.repeats)
    if world.size > 1:  # equal initial weights; dropout differs between processes
        torch.manual_seed(seed + world.rank)
    return trainer


def _bytes_of(catalogue: Catalogue) -> int:
    """Size in bytes of the features of a catalogue."""
    return sum(values.nbytes for values in catalogue.features.values())


def _require_numbers(data: DataSet, catalogue: Catalogue) -> None:
    """Raise an error if a vector is not finite: `prepare` omits such vectors, other tools may not.

    Raises:
        CammsrError: A vector holds a value that is not finite.
    """
    for name, values in catalogue.features.items():
        pieces = torch.split(values, MEASURED_ROWS)  # a mask of all values could be too large
        odd_N = torch.cat([~piece.isfinite().all(1) for piece in pieces]) & catalogue.present[name]
        if bool(odd_N.any()):
            first = data.item_ids[int(odd_N.nonzero()[0])]
            raise CammsrError(
                f"{data.path}: the {name} vectors of {int(odd_N.sum()):,} of {len(odd_N):,} items "
                f"are not finite numbers, the first that of item {first}",
                "Make it with cammsr prepare, which leaves such vectors out and counts them",
            )


def _target_shares(data: DataSet) -> NDArray[np.float32]:
    """Each item's share of the training targets; a user's first event is not a target."""
    is_target = data.event_part == TRAIN
    first_U = data.event_indptr[:-1][np.diff(data.event_indptr) > 0]
    is_target[first_U] = False
    trained = data.event_item[is_target]
    counts = np.bincount(trained, minlength=len(data.item_ids))
    return (counts / max(1, len(trained))).astype(np.float32)


def has_ties(data: DataSet) -> bool:
    """Whether some user has two training events of unknown order."""
    start_U, end_U = (bound_U.numpy() for bound_U in training_bounds(data))
    tied = np.flatnonzero(data.event_tied)
    user = np.searchsorted(data.event_indptr, tied, side="right") - 1
    return bool(((tied > start_U[user]) & (tied < end_U[user])).any())


def _run(trainer: Trainer, spec: ModelSpec, config: Config, listener: Listener) -> Outcome:
    state = trainer.state
    listener.start(
        Started(
            spec=spec,
            parameters=sum(p.numel() for p in state.model.parameters()),
            device=str(trainer.world.device)
            + (f" x {trainer.world.size}" if trainer.world.size > 1 else ""),
            epochs=config.training.epochs,
            resumed_epoch=state.progress.epoch,
            resumed_step=state.progress.step,
            sampled=trainer.corpus.sampled,
        )
    )
    return trainer.run(
        listener.epoch, listener.step, lambda outcome: model_card(spec, config, outcome)
    )
