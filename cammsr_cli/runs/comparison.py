"""Comparison of run folders: the command `cammsr runs`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cammsr_cli.config import PRESETS, Config, resolve
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.runs.folder import RunFolder

_OPEN = ("training.batch_size", "training.precision")
"""Settings that are chosen for the data and the device although their default is not None."""


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run folder.

    Attributes:
        run: Path of the folder.
        fault: Why the run cannot be read; None if it can. If it is set, all attributes below have
            their default values.
        preset: Preset of its settings.
        data: The data set it was trained on.
        data_content: That data set's content digest.
        finished: Whether the training is finished.
        best_ndcg: Best validation NDCG@10; None before the first epoch.
        best_epoch: Epoch of the best value.
        epochs: Number of completed epochs.
        bytes: Size of the folder, including checkpoints.
        changed: Settings that differ from the preset.
        chosen: Settings that the preset leaves open, with the values chosen for the data or given.
    """

    run: str
    fault: str | None = None
    preset: str = ""
    data: str = ""
    data_content: str = ""
    finished: bool = False
    best_ndcg: float | None = None
    best_epoch: int | None = None
    epochs: int = 0
    bytes: int = 0
    changed: dict[str, Any] | None = None
    chosen: dict[str, Any] | None = None


def summarise_runs(folders: Sequence[Path]) -> list[RunSummary]:
    """Summarise the runs in some folders, each a run or a folder that holds runs; best first.

    Runs that cannot be read come last, with the reason.

    Raises:
        UsageError: A folder does not exist.
        CammsrError: None of the folders holds a run.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"{folder}: no such folder", "Name run folders, or one that holds them"
            )
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        candidates = [folder] if RunFolder(folder).exists else inside
        found += [path for path in candidates if RunFolder(path).exists and path not in found]
    if not found:
        raise CammsrError(
            f"no run is in {', '.join(str(folder) for folder in folders)}",
            "Make one: cammsr train DATA.h5 --out RUN",
        )
    runs = [_summary(path) for path in found]
    return sorted(runs, key=lambda one: (one.best_ndcg is None, -(one.best_ndcg or 0)))


def different_settings(runs: Sequence[RunSummary]) -> list[str]:
    """Names of the settings that differ between the runs, or that a run has changed."""
    settings = [{**(one.changed or {}), **(one.chosen or {})} for one in runs if one.fault is None]
    names = dict.fromkeys(name for one in settings for name in one)
    changed = {name for one in runs for name in one.changed or {}}
    return [
        name
        for name in names
        if name in changed or any(one.get(name) != settings[0].get(name) for one in settings)
    ]


def _summary(path: Path) -> RunSummary:
    folder = RunFolder(path)
    try:
        spec, config, epochs = folder.spec(), folder.config(), _epochs(folder)
    except CammsrError as error:
        return RunSummary(run=str(path), fault=error.message)
    last = epochs[-1] if epochs else {}
    changed, chosen = _against_preset(config, spec.preset)
    return RunSummary(
        run=str(path),
        preset=spec.preset,
        data=spec.data_path,
        data_content=spec.data_content,
        finished=folder.finished,
        best_ndcg=last.get("best_ndcg"),
        best_epoch=last.get("best_epoch"),
        epochs=len(epochs),
        bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        changed=changed,
        chosen=chosen,
    )


def _epochs(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a line that is still being written is ignored."""
    if not folder.metrics.is_file():
        return []
    *lines, _ = folder.metrics.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise folder.damaged(folder.metrics.name, str(error)) from error


def _against_preset(config: Config, preset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings that differ from a preset, and settings that the preset leaves open."""
    start = resolve(preset, environment={}) if preset in PRESETS else Config()
    changed: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for section in ("model", "training"):
        before = getattr(start, section).model_dump()
        for name, value in getattr(config, section).model_dump().items():
            if value != before[name]:
                full = f"{section}.{name}"
                (chosen if before[name] is None or full in _OPEN else changed)[full] = value
    return changed, chosen
