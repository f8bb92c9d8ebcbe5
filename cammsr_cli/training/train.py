"""From a data set to a run folder: what `cammsr train` does."""

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
from cammsr_cli.model.catalogue import Catalogue
from cammsr_cli.model.features import MEASURED_ROWS
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
    """What is known when training starts, for people to see.

    Attributes:
        spec: What the model is built for.
        parameters: Number of trained values.
        device: Where it trains.
        epochs: Most epochs there can be.
        resumed_epoch: Whole epochs already done; 0 for a fresh start.
        resumed_step: Steps already done.
        sampled: Whether the catalogue is so large that each step sees a sample of it.
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
    """Who is told what during a training.

    Attributes:
        start: Told once, before the first step.
        epoch: Told after each epoch.
        step: Told after each step; looking at its numbers makes a GPU wait.
        note: Told, in words, what a user should know.
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

    `out` must be empty or not exist, unless `force` is given: then the run in it is replaced, once
    the data set and the settings are known to be sound, and other files there are left alone.

    Raises:
        UsageError: `out` is in use, or is no run folder.
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
        world.wait()  # until all have looked at what is there
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
    """Go on with the run in `out` from its newest checkpoint, with the settings it began with.

    Raises:
        CammsrError: There is no run, it is finished, or it was begun on another data set.
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
    config, _ = fitted(folder.config(), data, world.device)  # of an older version: not yet chosen
    id_rows = folder.item_ids()
    with repeatable(world.device, config.training.deterministic):
        trainer = make_trainer(folder, data, config, spec, id_rows, world, listener.note)
        with _held(out, world):
            trainer.resume()
            return _run(trainer, spec, config, listener)


def _held(out: Path, world: World) -> AbstractContextManager[None]:
    """The run for this training alone, while it goes on; one process holds it for all."""
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
    """A trainer of a new model; nothing is written yet."""
    seed = config.training.seed
    torch.manual_seed(seed)
    device = world.device
    sampled = len(data.item_ids) > config.training.sampled_softmax_above
    large = sampled and len(data.item_ids) > config.training.sparse_adam_above
    catalogue = read_catalogue(data, spec.feature_dims, id_rows)
    if not large:  # those are read as needed, and what they hold shows then
        _require_numbers(data, catalogue)
    # A sample's features are gathered step by step: those that a GPU has no room for may stay where
    # they are.
    features = not large or room_for(device, _bytes_of(catalogue))
    # Weights are drawn on the CPU, and so alike for all devices.
    model = build_model(spec, config.model)
    sharded = large and world.size > 1
    if not sharded:  # or else one device would hold the whole table
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
    if world.size > 1:  # the weights begin alike; what is dropped is each process's own
        torch.manual_seed(seed + world.rank)
    return trainer


def _bytes_of(catalogue: Catalogue) -> int:
    """What the features of a catalogue take in memory."""
    return sum(values.nbytes for values in catalogue.features.values())


def _require_numbers(data: DataSet, catalogue: Catalogue) -> None:
    """Refuse vectors that `prepare` would have left out: those of a file made by something else.

    Raises:
        CammsrError: A vector holds what is not a finite number.
    """
    for name, values in catalogue.features.items():
        pieces = torch.split(values, MEASURED_ROWS)  # a mask of all values may be large
        odd_N = torch.cat([~piece.isfinite().all(1) for piece in pieces]) & catalogue.present[name]
        if bool(odd_N.any()):
            first = data.item_ids[int(odd_N.nonzero()[0])]
            raise CammsrError(
                f"{data.path}: the {name} vectors of {int(odd_N.sum()):,} of {len(odd_N):,} items "
                f"are not finite numbers, the first that of item {first}",
                "Make it with cammsr prepare, which leaves such vectors out and counts them",
            )


def _target_shares(data: DataSet) -> NDArray[np.float32]:
    """Each item's share of the training targets: a user's first event is none."""
    is_target = data.event_part == TRAIN
    first_U = data.event_indptr[:-1][np.diff(data.event_indptr) > 0]
    is_target[first_U] = False
    trained = data.event_item[is_target]
    counts = np.bincount(trained, minlength=len(data.item_ids))
    return (counts / max(1, len(trained))).astype(np.float32)


def has_ties(data: DataSet) -> bool:
    """Whether nothing tells the order of two training events of one user."""
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
