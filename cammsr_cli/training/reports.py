"""Reports of a training: for listeners, and for the log of its run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from cammsr_cli.files import RESUMABLE, refusals_named
from cammsr_cli.runs.folder import RunFolder


@dataclass(frozen=True)
class EpochReport:
    """Results of one epoch: a line of metrics.jsonl.

    Attributes:
        epoch: Counted from 1.
        step: Steps so far.
        losses: Mean of each weighted part of the loss.
        ndcg: Validation NDCG@10 with full ranking. Seen items are excluded unless users repeat
            them.
        recall: Validation Recall@10.
        best_ndcg: Best validation NDCG@10 so far.
        best_epoch: Epoch of the best value.
        events_per_second: Training targets per second, without validation.
        seconds: Wall time of the epoch, including validation.
    """

    epoch: int
    step: int
    losses: dict[str, float]
    ndcg: float
    recall: float
    best_ndcg: float
    best_epoch: int
    events_per_second: float
    seconds: float


@dataclass(frozen=True)
class StepReport:
    """Progress of a training within an epoch.

    Attributes:
        epoch: Counted from 1.
        step: Steps so far.
        share: Share of the epoch's steps that are completed.
        losses: The weighted parts of the step's loss.
        events_per_second: Training targets per second in this epoch.
    """

    epoch: int
    step: int
    share: float
    losses: dict[str, Tensor]
    events_per_second: float


@dataclass(frozen=True)
class Outcome:
    """Result of a training.

    Attributes:
        best_ndcg: Validation NDCG@10 of the model that is kept.
        best_epoch: Epoch of that model.
        epochs: Number of epochs.
        parameters: Number of trainable parameters.
        branch_weights: Branch name to the weight of its score in the sum; 1 on average.
    """

    best_ndcg: float
    best_epoch: int
    epochs: int
    parameters: int
    branch_weights: dict[str, float]


class MetricsLog:
    """The log of a run, one line per epoch; also TensorBoard's log if that extra is installed."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._tensorboard: Any = None

    def add(self, report: EpochReport) -> None:
        """Add an epoch.

        Raises:
            CammsrError: The disk is full, or writing is not permitted.
        """
        with (
            refusals_named(self.folder.path, RESUMABLE),
            self.folder.metrics.open("a", encoding="utf-8") as stream,
        ):
            stream.write(json.dumps(asdict(report)) + "\n")
        if find_spec("tensorboard") is not None:
            self._show(report)

    def _show(self, report: EpochReport) -> None:
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            writer: Any = SummaryWriter  # typed or untyped, depending on the installed version
            self._tensorboard = writer(str(self.folder.path / "tensorboard"))
        for name, value in {**report.losses, "validation NDCG@10": report.ndcg}.items():
            self._tensorboard.add_scalar(name, value, report.epoch)
        self._tensorboard.flush()

    def forget_after(self, epoch: int) -> None:
        """Drop the epochs after `epoch`: a resumed training logs them again."""
        if not self.folder.metrics.is_file():
            return
        lines = self.folder.metrics.read_text(encoding="utf-8").splitlines()
        text = "".join(f"{line}\n" for line in lines[:epoch])
        self.folder.write_text(self.folder.metrics.name, text)
