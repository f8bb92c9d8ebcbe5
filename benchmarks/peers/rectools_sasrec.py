"""Train RecTools' SASRec; runs inside its own environment.

    python -m benchmarks.peers.rectools_sasrec SPLIT OUT [options]

What is the library's own and no setting: only the last `length` + 1 events of a user train, an
item that is in none of them is unknown to the model, sequences are padded on the left to `length`,
and the feed-forward layers are as wide as the model.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from pytorch_lightning import (  # type: ignore[import-not-found]
    Callback,
    LightningModule,
    Trainer,
    seed_everything,
)
from rectools import Columns  # type: ignore[import-not-found]
from rectools.dataset import Dataset  # type: ignore[import-not-found]
from rectools.models import SASRecModel  # type: ignore[import-not-found]

from benchmarks.peers.results import TOP, Recorder
from benchmarks.peers.scoring import in_our_order, recent_items
from benchmarks.peers.settings import Settings, read_settings
from benchmarks.peers.split import TEST, VALIDATION, Split, load


class EpochClock(Callback):  # type: ignore[misc]
    """Times the epochs of a Lightning training and counts their targets."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __deepcopy__(self, memo: dict[int, Any]) -> EpochClock:
        """Itself: RecTools copies the trainer it is given, and the recorder must stay one."""
        return self

    def on_train_start(self, trainer: Trainer, model: LightningModule) -> None:
        """Start the clock of the training."""
        self.recorder.began = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, model: LightningModule) -> None:
        """Start the clock of the epoch."""
        self.steps = self.targets = 0
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, model: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the items whose prediction entered the loss."""
        self.steps += 1
        self.targets += int(torch.count_nonzero(batch["y"]))

    def on_train_epoch_end(self, trainer: Trainer, model: LightningModule) -> None:
        """Record the epoch."""
        seconds = time.perf_counter() - self.began
        if not self.recorder.end_epoch(self.steps, self.targets, seconds):
            trainer.should_stop = True


class Sasrec:
    """RecTools' SASRec on a split.

    Args:
        settings: What to train.
        split: The events.
    """

    def __init__(self, settings: Settings, split: Split) -> None:
        self.settings = settings
        self.split = split
        self.recorder = Recorder(settings, split, self.score)
        self.model = SASRecModel(
            n_blocks=settings.layers,
            n_heads=settings.heads,
            n_factors=settings.width,
            dropout_rate=settings.dropout,
            session_max_len=settings.length,
            batch_size=settings.batch_size,
            loss="softmax",
            lr=settings.learning_rate,
            get_trainer_func=self._trainer,
        )

    def _trainer(self) -> Trainer:
        return Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=self.settings.epochs,
            limit_train_batches=self.settings.max_steps or 1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[EpochClock(self.recorder)],
        )

    def train(self) -> int:
        """Train on the training events; the number of targets of a whole epoch."""
        self.model.fit(interactions(self.split, before=VALIDATION))
        trained = self.model.data_preparator.train_dataset
        return len(trained.interactions.df) - int(trained.user_id_map.size)

    def score(self, user_B: NDArray[np.int64], part: int) -> NDArray[np.float32]:
        """Scores of all items in our order, [B, N]; see `scoring.Score`."""
        known = self.model.data_preparator.get_known_item_ids().astype(np.int64)
        id_N = np.zeros(self.split.items, dtype=np.int64)
        id_N[known] = np.arange(1, len(known) + 1)
        id_BL, _ = recent_items(self.split, user_B, part, id_N, self.settings.length, "left")
        net = self.model.torch_model
        was_training = net.training
        net.eval()
        with torch.no_grad():
            items = net.item_model.get_all_embeddings()
            state_BLD = net.encode_sessions({"x": torch.from_numpy(id_BL)}, items)
            score_BK = net.similarity_module(state_BLD[:, -1], items)
        net.train(was_training)
        return in_our_order(score_BK.numpy(), id_N)


def interactions(split: Split, before: int) -> Dataset:
    """The events of the parts before `before`, in RecTools' form."""
    known = split.part_E < before
    table = pd.DataFrame(
        {
            Columns.User: split.event_users()[known],
            Columns.Item: split.item_E[known],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(split.event_positions()[known], unit="s"),
        }
    )
    return Dataset.construct(table)


def main() -> None:
    """Train and measure."""
    settings = read_settings(__doc__.split("\n", 1)[0], models=("SASRec",), batch_size=128)
    seed_everything(settings.seed)
    split = load(settings.split)
    sasrec = Sasrec(settings, split)
    targets = sasrec.train()
    users, _ = split.asked(TEST)
    known = interactions(split, before=TEST)

    def rank_all() -> None:
        sasrec.model.recommend(
            users, known, k=TOP, filter_viewed=True, on_unsupported_targets="warn"
        )

    sasrec.recorder.finish("rectools", targets, rank_all)


if __name__ == "__main__":
    main()
