"""The training loop: epochs, validation, early stopping, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial

import torch
from torch import Tensor

from cammsr_cli.config import Config
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.distributed import World
from cammsr_cli.errors import CammsrError, Terminated
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.device_kernels import most_on
from cammsr_cli.model.history_windows import shuffled_batches, training_windows
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.weights import load_weights
from cammsr_cli.training.checkpoints import (
    AVERAGED,
    TrainingState,
    checkpoint_path,
    clear_partial,
    drop_old_checkpoints,
    load_checkpoint,
    newest_whole_checkpoint,
    require_whole,
    save_checkpoint,
    set_aside_later,
)
from cammsr_cli.training.objective import Objective
from cammsr_cli.training.plan import Corpus, training_bounds
from cammsr_cli.training.prefetch import made_ahead
from cammsr_cli.training.reports import EpochReport, MetricsLog, Outcome, StepReport
from cammsr_cli.training.sharding import whole_weights
from cammsr_cli.training.step import (
    STEPS_AHEAD,
    PlannedStep,
    Stepper,
    averaged_copy,
    diverged,
    optimizers_of,
)
from cammsr_cli.training.stopping import StopRequest, noticed_signals
from cammsr_cli.training.validation import Validation

STEPS_BETWEEN_TALKS = 10
"""Number of steps between two agreements among several processes on stopping and saving."""


class Trainer:
    """Trains one model into one run folder, in one process or as one of several.

    Args:
        model: The model, already on the world's device.
        data: The data set.
        corpus: The training data made from it.
        config: All settings.
        folder: Run folder for checkpoints and metrics. Only process 0 writes there.
        world: This process and the processes it works with.
        note: Receives messages for the user, in addition to the reports.
        repeats: Whether users consume items repeatedly. If so, validation keeps seen items.
    """

    def __init__(
        self,
        model: Cammsr,
        data: DataSet,
        corpus: Corpus,
        config: Config,
        folder: RunFolder,
        world: World,
        note: Callable[[str], None],
        repeats: bool,
    ) -> None:
        self.corpus = corpus
        self.config = config.training
        self.folder = folder
        self.world = world
        self.note = note
        self.length = model.length
        self.state = TrainingState(
            model, averaged_copy(model), optimizers_of(model, config.training)
        )
        self.validation = Validation(data, corpus, config.training, world, repeats)
        self.start_U, self.end_U = training_bounds(data)  # on the host, where windows are cut
        if not bool((self.end_U - self.start_U > 1).any()):
            raise CammsrError(
                f"{data.path} has nothing to learn from: no user has 2 training events (4 in all)",
                "Prepare it from more events",
            )
        self.log = MetricsLog(folder)
        self.step = Stepper(
            self.state, Objective(model, corpus, config.training), config.training, world, note
        )

    def resume(self) -> bool:
        """Load the newest undamaged checkpoint, if any. Return whether there is one."""
        newest = newest_whole_checkpoint(self.folder.checkpoints, self.note)
        if newest is not None:
            load_checkpoint(newest, self.state)
        progress = self.state.progress
        if self.world.size > 1:  # the saved random state is that of the first process
            torch.manual_seed(self.config.seed + progress.step * self.world.size + self.world.rank)
        self.world.wait()
        if self.world.leads:
            clear_partial(self.folder.checkpoints)
            set_aside_later(self.folder.checkpoints, progress.step)
            self.log.forget_after(progress.epoch)
        return newest is not None

    def run(
        self,
        report: Callable[[EpochReport], None],
        on_step: Callable[[StepReport], None],
        card: Callable[[Outcome], str],
    ) -> Outcome:
        """Train until the validation metric stops improving; keep the best weights.

        Args:
            report: Receives the report of each epoch.
            on_step: Receives the report of each step. Reading its numbers synchronises with the
                GPU.
            card: Makes the run's README from the outcome of the training.

        Raises:
            CammsrError: The loss is not finite, or far worse than that of random guessing.
            KeyboardInterrupt: Ctrl-C or SIGTERM arrived. There is a checkpoint of the last step.
        """
        with noticed_signals() as stop:
            while not self._done():
                began = time.perf_counter()
                losses, events_per_second = self._train_epoch(stop, on_step)
                self._require_sense(losses["recommendation"])
                ndcg, recall = self._validate()
                progress = self.state.progress
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
                )
                # The log comes first: resuming drops its lines about epochs without a checkpoint.
                if self.world.leads:
                    self.log.add(epoch_report)
                self._save()
                report(epoch_report)
                if self._agreed(stop.by is not None, False)[0]:
                    self._end(stop)
        return self._finish(card)

    def _done(self) -> bool:
        progress = self.state.progress
        waited = progress.epoch - progress.best_epoch
        return progress.epoch >= self.config.epochs or (
            progress.epoch > 0 and waited >= self.config.patience
        )

    def _train_epoch(
        self, stop: StopRequest, on_step: Callable[[StepReport], None]
    ) -> tuple[dict[str, float], float]:
        """Train one epoch, or the rest of it; return the mean losses and the events per second.

        The batches depend on the seed and the epoch only. So a resumed run sees the same batches
        as an uninterrupted one.
        """
        progress = self.state.progress
        self.state.model.train()
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + progress.epoch)
        start_W, end_W = training_windows(self.start_U, self.end_U, self.length, generator)
        batches = shuffled_batches(len(end_W), self.config.batch_size, generator)
        sums = {
            name: torch.tensor(value, device=self.world.device)
            for name, value in progress.sums.items()
        }
        began = saved = time.perf_counter()
        events = 0
        with closing(self.planned(start_W, end_W, batches[progress.batch :])) as planned_steps:
            for planned in planned_steps:
                losses = self.step.make(planned)
                for name, value in losses.items():
                    sums[name] = sums[name] + value if name in sums else value
                progress.batch += 1
                events += int((planned.end_W - planned.start_W).sum())
                share = progress.batch / len(batches)
                rate = events / (time.perf_counter() - began)
                on_step(StepReport(progress.epoch + 1, progress.step, share, losses, rate))
                late = time.perf_counter() - saved > self.config.checkpoint_minutes * 60
                if progress.batch == len(batches):
                    break  # there will be a checkpoint after validation
                # Agreeing with the other processes synchronises with the GPU: not at every step.
                if self.world.size > 1 and progress.step % STEPS_BETWEEN_TALKS:
                    continue
                ending, due = self._agreed(stop.by is not None, late)
                if ending or due:
                    progress.sums = {name: float(value) for name, value in sums.items()}
                    self._save()
                    saved = time.perf_counter()
                    if ending:
                        self._end(stop)
        elapsed = time.perf_counter() - began
        self.step.require_finite()
        means = {name: float(total) / len(batches) for name, total in sums.items()}
        progress.batch, progress.sums = 0, {}
        return means, events / elapsed

    def planned(
        self, start_W: Tensor, end_W: Tensor, batches: Sequence[Tensor]
    ) -> Generator[PlannedStep, None, None]:
        """Yield the planned steps of batches of windows; on a GPU they are planned ahead."""
        calls = (
            partial(self.step.planned, start_W[batch], end_W[batch], step)
            for step, batch in enumerate(batches, self.state.progress.step)
        )
        return made_ahead(calls, most_on(self.world.device, STEPS_AHEAD))

    def _validate(self) -> tuple[float, float]:
        """Validate the averaged weights and record the best; return NDCG@10 and Recall@10."""
        ndcg, recall = self.validation.measure(self.state.averaged)
        progress = self.state.progress
        progress.epoch += 1
        if ndcg > progress.best:
            progress.best, progress.best_epoch, progress.best_step = (
                ndcg,
                progress.epoch,
                progress.step,
            )
        return ndcg, recall

    def _weigh_branches(self) -> float:
        """Weigh the branches of the best model; return its validation NDCG@10 after that.

        Branches that were trained on the loss of the summed score need no weights: training has
        already scaled their scores.
        """
        model = self.state.averaged
        if model.branches == 1 or self.config.branch_share < 1:
            return self.state.progress.best
        return self.validation.weigh_branches(model)

    def _branch_weights(self) -> dict[str, float]:
        model = self.state.averaged
        weights = model.branch_weight_T.tolist()
        return {name: round(w, 4) for name, w in zip(model.branch_names, weights, strict=True)}

    def _agreed(self, ending: bool, due: bool) -> tuple[bool, bool]:
        """Whether any process received a stop request, and whether a checkpoint is due in any.

        All processes must act alike, so all must call this method.
        """
        if self.world.size == 1:
            return ending, due
        flags = torch.tensor([float(ending), float(due)], device=self.world.device)
        ending, due = (self.world.sum(flags) > 0).tolist()
        return ending, due

    def _end(self, stop: StopRequest) -> None:
        """Leave the training, in every process.

        Raises:
            KeyboardInterrupt: Always. The kind depends on the signal that this process or another
                one received.
        """
        self.world.wait()
        stop.obey()
        raise Terminated  # another process received the signal

    def _save(self) -> None:
        """Write a checkpoint of the current state and delete old ones.

        Raises:
            CammsrError: A gradient was not finite. The weights are unusable and are not saved.
        """
        self.step.require_finite()
        save_checkpoint(self.folder.checkpoints, self.state, self.world.leads)
        if self.world.leads:
            drop_old_checkpoints(
                self.folder.checkpoints, self.state.progress, self.config.keep_checkpoints
            )

    def _require_sense(self, loss: float) -> None:
        """Stop a training whose loss is finite but far above that of random guessing.

        Raises:
            CammsrError: The loss is that high after two or more epochs. The first epochs are not
                checked, because the loss needs time to settle.
        """
        guessing = math.log(len(self.corpus.catalogue.id_row_N))
        progress = self.state.progress
        if progress.epoch >= 2 and loss > 2 * guessing:
            raise diverged(
                f"training diverged: after step {progress.step} the recommendation loss is "
                f"{loss:.3g}, where guessing blindly gives {guessing:.3g}",
                self.config,
            )

    def _finish(self, card: Callable[[Outcome], str]) -> Outcome:
        self.world.wait()
        best = checkpoint_path(self.folder.checkpoints, self.state.progress.best_step)
        require_whole(best)
        load_weights(self.state.averaged, best / AVERAGED)
        outcome = Outcome(
            best_ndcg=self._weigh_branches(),
            best_epoch=self.state.progress.best_epoch,
            epochs=self.state.progress.epoch,
            parameters=sum(p.numel() for p in self.state.model.parameters()),
            branch_weights=self._branch_weights(),
        )
        weights = whole_weights(self.state.averaged)
        if self.world.leads:
            self.folder.write_text("README.md", card(outcome))
            self.folder.finish(weights)
        return outcome
