"""The training loop: epochs, validation, early stopping, checkpoints."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cammsr_cli.config import Config
from cammsr_cli.core.model import Cammsr, Catalogue
from cammsr_cli.core.windows import Events, shuffled_batches, shuffled_ties, training_windows
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TRAIN, VALIDATION
from cammsr_cli.errors import CammsrError
from cammsr_cli.ranking.full_ranking import item_tables, model_ranks, questions
from cammsr_cli.ranking.metrics import per_user
from cammsr_cli.run_folder import RunFolder, load_weights, save_weights
from cammsr_cli.training.checkpoints import (
    AVERAGED,
    TrainingState,
    checkpoint_path,
    drop_old_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from cammsr_cli.training.objective import Labels, Objective


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave: a line of metrics.jsonl.

    Attributes:
        epoch: Counted from 1.
        step: Steps so far.
        losses: Mean of each weighted part of the loss.
        ndcg: Validation NDCG@10, full ranking, seen items excluded.
        recall: Validation Recall@10.
        best_ndcg: Best validation NDCG@10 so far.
        best_epoch: The epoch it came from.
        events_per_second: Training targets a second, validation not counted.
        seconds: Wall time of the epoch with its validation.
        expert_entropy: Mean entropy of the experts' gates over that of even use; 1 is even,
            0 is collapsed; None without experts.
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
    expert_entropy: float | None


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    best_ndcg: float
    best_epoch: int
    epochs: int
    parameters: int


class Trainer:
    """Trains one model on one device into one run folder.

    Args:
        model: Already on `device`.
        data: The data set.
        catalogue: Its items, on `device`.
        events: Its events, on `device`.
        config: All settings.
        folder: Where checkpoints and metrics go.
        device: Where the tensors live.
    """

    def __init__(
        self,
        model: Cammsr,
        data: DataSet,
        catalogue: Catalogue,
        events: Events,
        config: Config,
        folder: RunFolder,
        device: torch.device,
    ) -> None:
        self.catalogue = catalogue
        self.events = events
        self.config = config.training
        self.folder = folder
        self.device = device
        self.length = config.model.length
        labels = data.category_labels()
        self.objective = Objective(
            catalogue,
            events,
            Labels(torch.from_numpy(labels).to(device), bool((labels.sum(1) > 1).any())),
            self.config,
        )
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
        )
        averaged = copy.deepcopy(model).eval().requires_grad_(False)
        self.state = TrainingState(model, averaged, optimizer)
        self.tie_E = _ties(data, device) if self.config.shuffle_ties else None
        self.asked = questions(data, VALIDATION)
        self.start_U, self.end_U = (bound.to(device) for bound in _training_bounds(data))
        if not len(self.asked.item_U):
            raise CammsrError(
                f"{data.path} has no validation events: no user has 3 events or more",
                "Prepare it from more events",
            )
        if not bool((self.end_U - self.start_U > 1).any()):
            raise CammsrError(
                f"{data.path} has nothing to learn from: no user has 2 training events (4 in all)",
                "Prepare it from more events",
            )

    def resume(self) -> bool:
        """Go back to the newest checkpoint, if there is one."""
        newest = newest_checkpoint(self.folder.checkpoints)
        if newest is None:
            return False
        load_checkpoint(newest, self.state)
        self._forget_later_epochs()
        return True

    def run(self, report: Callable[[EpochReport], None]) -> Outcome:
        """Train until the validation metric stops getting better; keep the best weights.

        Raises:
            CammsrError: The loss is no longer a number.
        """
        writer = _tensorboard(self.folder)
        while not self._done():
            began = time.perf_counter()
            losses, events_per_second = self._train_epoch()
            ndcg, recall = self._validate()
            save_checkpoint(self.folder.checkpoints, self.state)
            progress = self.state.progress
            drop_old_checkpoints(self.folder.checkpoints, progress, self.config.keep_checkpoints)
            epoch_report = EpochReport(
                epoch=progress.epoch,
                step=progress.step,
                losses=losses,
                ndcg=ndcg,
                recall=recall,
                best_ndcg=progress.best,
                best_epoch=progress.best_epoch,
                events_per_second=events_per_second,
                seconds=time.perf_counter() - began,
                expert_entropy=self._expert_entropy(),
            )
            self._log(epoch_report, writer)
            report(epoch_report)
        return self._finish()

    def _done(self) -> bool:
        progress = self.state.progress
        waited = progress.epoch - progress.best_epoch
        return progress.epoch >= self.config.epochs or (
            progress.epoch > 0 and waited >= self.config.patience
        )

    def _validate(self) -> tuple[float, float]:
        """NDCG@10 and Recall@10 of the averaged weights; takes note of the best."""
        rank = model_ranks(self.state.averaged, self.catalogue, self.events, self.asked)
        ndcg = float(per_user(rank, "NDCG", 10).mean())
        progress = self.state.progress
        progress.epoch += 1
        if ndcg > progress.best:
            progress.best, progress.best_epoch, progress.best_step = (
                ndcg,
                progress.epoch,
                progress.step,
            )
        return ndcg, float(per_user(rank, "Recall", 10).mean())

    def _train_epoch(self) -> tuple[dict[str, float], float]:
        """One pass over all training events; mean losses and events a second."""
        self.state.model.train()
        # Drawn from seed and epoch alone: a resumed run sees the batches it would have seen.
        generator = torch.Generator().manual_seed(
            self.config.seed * 100_003 + self.state.progress.epoch
        )
        start_W, end_W = training_windows(self.start_U, self.end_U, self.length, generator)
        batches = shuffled_batches(end_W - start_W, self.config.batch_size, generator)
        objective = self.objective
        if self.tie_E is not None:
            events = shuffled_ties(self.events, self.tie_E, generator)
            objective = replace(objective, events=events)
        sums: dict[str, Tensor] = {}
        began = time.perf_counter()
        for batch in batches:
            losses = self._step(objective, start_W[batch], end_W[batch])
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value
        means = {name: float(total) / len(batches) for name, total in sums.items()}
        elapsed = time.perf_counter() - began
        return means, float((end_W - start_W).sum()) / elapsed

    def _step(self, objective: Objective, start_B: Tensor, end_B: Tensor) -> dict[str, Tensor]:
        losses = objective.losses(self.state.model, start_B, end_B)
        loss = torch.stack(list(losses.values())).sum()
        self.state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.state.model.parameters(), self.config.clip)
        if not math.isfinite(float(norm)):
            parts = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
            raise CammsrError(
                f"training diverged at step {self.state.progress.step + 1}: the gradient is not "
                f"finite (loss parts: {parts})",
                "Try a smaller step: --set training.learning_rate="
                f"{self.config.learning_rate / 3:.1e}",
            )
        self.state.optimizer.step()
        self.state.progress.step += 1
        self._average()
        return {name: value.detach() for name, value in losses.items()}

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the present ones; fast at first, then by `average`."""
        step = self.state.progress.step
        decay = min(self.config.average, step / (step + 10))
        for slow, weight in zip(
            self.state.averaged.parameters(), self.state.model.parameters(), strict=True
        ):
            slow.lerp_(weight, 1 - decay)

    @torch.inference_mode()
    def _expert_entropy(self) -> float | None:
        gate_NSE = item_tables(self.state.averaged, self.catalogue).fused.gate_NSE
        if gate_NSE is None or gate_NSE.shape[-1] < 2:
            return None
        entropy = -(gate_NSE * gate_NSE.clamp(min=1e-12).log()).sum(-1).mean()
        return float(entropy) / math.log(gate_NSE.shape[-1])

    def _log(self, report: EpochReport, writer: Any) -> None:
        with self.folder.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(report)) + "\n")
        if writer is not None:
            for name, value in {**report.losses, "validation NDCG@10": report.ndcg}.items():
                writer.add_scalar(name, value, report.epoch)
            writer.flush()

    def _forget_later_epochs(self) -> None:
        """Drop the metrics of epochs after the checkpoint: they will be run again."""
        if not self.folder.metrics.is_file():
            return
        lines = self.folder.metrics.read_text(encoding="utf-8").splitlines()
        self.folder.write_text(
            self.folder.metrics.name,
            "".join(f"{line}\n" for line in lines[: self.state.progress.epoch]),
        )

    def _finish(self) -> Outcome:
        best = checkpoint_path(self.folder.checkpoints, self.state.progress.best_step)
        load_weights(self.state.averaged, best / AVERAGED)
        save_weights(self.state.averaged, self.folder.weights)
        return Outcome(
            best_ndcg=self.state.progress.best,
            best_epoch=self.state.progress.best_epoch,
            epochs=self.state.progress.epoch,
            parameters=sum(p.numel() for p in self.state.model.parameters()),
        )


def _training_bounds(data: DataSet) -> tuple[Tensor, Tensor]:
    """First and one past the last training event of each user; training events come first."""
    start_U = data.event_indptr[:-1]
    before = np.concatenate([[0], np.cumsum(data.event_part == TRAIN)])
    trained_U = before[data.event_indptr[1:]] - before[start_U]
    return torch.from_numpy(start_U), torch.from_numpy(start_U + trained_U)


def _ties(data: DataSet, device: torch.device) -> Tensor | None:
    """A number for each event that training events of one user at one time share.

    None where no two events share one, as with order-only data.
    """
    user_E = np.repeat(np.arange(len(data.event_indptr) - 1), np.diff(data.event_indptr))
    alike_E = (
        (user_E[1:] == user_E[:-1])
        & (data.event_time[1:] == data.event_time[:-1])
        & (data.event_part[1:] == TRAIN)
    )
    if not alike_E.any():
        return None
    return torch.from_numpy(np.concatenate([[0], np.cumsum(~alike_E)])).to(device)


def _tensorboard(folder: RunFolder) -> Any:
    """A TensorBoard writer where the extra `tensorboard` is installed, else None."""
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter  # typed or not, depending on what is installed
    return writer(str(folder.path / "tensorboard"))
