"""One training in a process of its own, ours or a peer's, all of the same size."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data_sets import PROJECT, Prepared
from benchmarks.peers.environments import python_of
from benchmarks.processes import Measured, cammsr, measure
from benchmarks.timing import median_after_first
from cammsr_cli.runs.folder import RunFolder

PEERS = {
    "rectools": "benchmarks.peers.rectools_sasrec",
    "recbole": "benchmarks.peers.recbole_sequential",
}
"""Peer to the module that trains it inside its environment."""


@dataclass(frozen=True)
class Size:
    """What all models have alike.

    Attributes:
        width: Width of all vectors.
        layers: Transformer blocks.
        heads: Attention heads a block.
        length: Longest history, in events.
        dropout: Share of activations dropped in training.
        seed: Of every random number.
    """

    width: int = 64
    layers: int = 2
    heads: int = 2
    length: int = 50
    dropout: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """What one training took.

    Attributes:
        name: What was trained, for people.
        events_per_second: Training targets a second of wall time, validation not counted.
        targets: Training targets of an epoch.
        megabytes: Peak resident memory of training, in MiB.
        users_per_second: Users the whole catalogue is ranked for in a second.
    """

    name: str
    events_per_second: float
    targets: int
    megabytes: float
    users_per_second: float

    @property
    def epoch_seconds(self) -> float:
        """Wall time of an epoch, validation not counted."""
        return self.targets / self.events_per_second


def train_ours(
    preset: str, data: Prepared, out: Path, size: Size, *assignments: str, device: str = "auto"
) -> tuple[Measured, list[dict[str, Any]]]:
    """Train a preset of ours into the folder `out`.

    Args:
        preset: "sasrec" or "cammsr".
        data: What to train on.
        out: Folder of the run; one that is there is replaced.
        size: Of the model.
        assignments: More settings, as section.key=value.
        device: As `cammsr train --device` takes it.

    Returns:
        The process, and the lines of metrics.jsonl.
    """
    sizes = [
        f"model.{name}={getattr(size, name)}"
        for name in ("width", "layers", "heads", "length", "dropout")
    ]
    settings = [word for one in (*sizes, *assignments) for word in ("--set", one)]
    command = ("train", str(data.data), "--out", str(out), "--preset", preset, "--device", device)
    measured = cammsr(*command, "--force", "--seed", str(size.seed), *settings)
    return measured, _epochs(out)


def trained_by_us(
    preset: str, data: Prepared, out: Path, size: Size, *assignments: str
) -> list[dict[str, Any]]:
    """As `train_ours`, but what `out` holds of that training is not done again.

    Returns:
        The lines of metrics.jsonl.
    """
    if not RunFolder(out).exists:
        return train_ours(preset, data, out, size, *assignments)[1]
    if not RunFolder(out).finished:
        cammsr("train", str(data.data), "--out", str(out), "--resume")
    return _epochs(out)


def _epochs(out: Path) -> list[dict[str, Any]]:
    lines = RunFolder(out).metrics.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def speed_of_ours(preset: str, data: Prepared, out: Path, size: Size, epochs: int) -> Training:
    """Train a preset of ours for some epochs, then rank with it.

    Its peak memory is that of the whole process, validation included.
    """
    measured, lines = train_ours(preset, data, out, size, f"training.epochs={epochs}", device="cpu")
    ranking = json.loads(_module(Path(sys.executable), "benchmarks.ranking", str(out)).out)
    return Training(
        f"cammsr --preset {preset}",
        median_after_first([line["events_per_second"] for line in lines]),
        data.targets,
        measured.megabytes,
        ranking["users_per_second"],
    )


def train_peer(
    peer: str, environments: Path, data: Prepared, out: Path, size: Size, *options: str
) -> dict[str, Any]:
    """Train a peer and read its result.json; see `peers.results.Result`.

    Args:
        peer: "rectools" or "recbole".
        environments: Folder of the peers' environments.
        data: What to train on.
        out: Folder for its results.
        size: Of the model.
        options: More options of the peer's script.
    """
    sizes = [word for name, value in vars(size).items() for word in (f"--{name}", str(value))]
    python = python_of(peer, environments)
    _module(python, PEERS[peer], str(data.split), str(out), *sizes, *options)
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    return result


def speed_of_peer(result: dict[str, Any]) -> Training:
    """The figures of a peer's result."""
    return Training(
        f"{result['library']} {result['version']}, batch {result['settings']['batch_size']}",
        result["events_per_second"],
        result["targets_an_epoch"],
        result["megabytes"],
        result["users_per_second"],
    )


def _module(python: Path, name: str, *arguments: str) -> Measured:
    """Run one of our scripts with another interpreter."""
    shown = f"python -m {name} {' '.join(arguments)}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return measure(shown, str(python), "-m", name, *arguments, environment=environment)
