"""What the parts of the run on a machine with a GPU share; see cuda.py."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cammsr_cli.config import resolve
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.distributed import World
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.spec import describe, training_items
from cammsr_cli.training.loop import Trainer
from cammsr_cli.training.sizing import fitted
from cammsr_cli.training.train import make_trainer

Report = dict[str, Any]

PRESETS = ("cammsr", "sasrec")


@dataclass
class Kit:
    """What the parts share.

    Attributes:
        data: The data set.
        out: Folder of all results.
        device: What is looked at.
        small: Whether to do little of everything.
        ends: When there is no more time, by `time.monotonic`.
        report: Result of each part so far.
    """

    data: Path
    out: Path
    device: torch.device
    small: bool
    ends: float
    report: Report = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.ends - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device.type == "cuda"

    def finish(self) -> None:
        """Wait for all that the device was asked for."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def sizes(self, many: int, few: int) -> int:
        """How many of something to do."""
        return few if self.small else many

    def trainer(self, preset: str, *settings: str, device: torch.device | None = None) -> Trainer:
        """A new training that writes nothing."""
        device = self.device if device is None else device
        small = ["model.width=16", "training.batch_size=16"] if self.small else []
        data = DataSet(self.data)
        config, _ = fitted(resolve(preset, None, [*small, *settings], {}), data, device)
        return make_trainer(
            RunFolder(self.out / "nothing is written here"),
            data,
            config,
            describe(data, config.model, preset),
            [data.item_ids[item] for item in training_items(data)],
            World(0, 1, device),
            lambda words: None,
        )


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        name: Its name in the report.
        seconds: What it needs at least, with a GPU and at full size.
        run: Gives its result.
    """

    name: str
    seconds: float
    run: Callable[[Kit], Report]


def tool(kit: Kit, *words: object, limit: float, stop: Path | None = None) -> Report:
    """Run the tool on the device, in a process of its own.

    It is asked to end after `limit` seconds, or as soon as the folder `stop` has a checkpoint.
    """
    command = [sys.executable, "-m", "cammsr_cli", *map(str, words)]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--device", str(kit.device)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if stop is not None:
        while process.poll() is None and time.monotonic() - began < limit:
            if any(stop.glob("step-*")):
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.05)
    try:
        _, err = process.communicate(timeout=max(1.0, limit - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    return {
        "exit code": process.returncode,
        "wall seconds": time.monotonic() - began,
        "said last": err.strip().splitlines()[-3:],
    }
