"""Train RecBole's SASRec or GRU4Rec; runs inside its own environment.

    python -m benchmarks.peers.recbole_sequential SPLIT OUT [options]

What is the library's own and no setting: every training event but a user's first is a sample of
its own with the history before it, padded on the right to `length`, and only the last position
enters the loss. Importing its sequential models switches torch's anomaly detection on, which is
undone here.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
from numpy.typing import NDArray
from recbole.config import Config  # type: ignore[import-not-found]
from recbole.data import create_dataset, data_preparation  # type: ignore[import-not-found]
from recbole.data.interaction import Interaction  # type: ignore[import-not-found]
from recbole.trainer import Trainer  # type: ignore[import-not-found]
from recbole.utils import get_model, init_seed  # type: ignore[import-not-found]

from benchmarks.peers.results import TOP, Recorder
from benchmarks.peers.scoring import in_our_order, recent_items, seen_items
from benchmarks.peers.settings import Settings, read_settings
from benchmarks.peers.split import TEST, Split, load

DATA_SET = "split"


class TimedTrainer(Trainer):  # type: ignore[misc]
    """RecBole's trainer with epochs timed and, if asked, cut short.

    Args:
        config: RecBole's settings.
        model: The model.
        max_steps: Most steps an epoch.
        end_epoch: Told of each epoch's steps, targets and seconds; whether to go on.
    """

    def __init__(
        self,
        config: Config,
        model: torch.nn.Module,
        max_steps: int | None,
        end_epoch: Callable[[int, int, float], bool],
    ) -> None:
        super().__init__(config, model)
        self.max_steps = max_steps
        self.end_epoch = end_epoch

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        steps = len(train_data) if self.max_steps is None else min(self.max_steps, len(train_data))
        samples = min(steps * train_data.step, train_data.sample_size)
        began = time.perf_counter()
        loss = super()._train_epoch(islice(train_data, steps), epoch_idx, *args, **kwargs)
        if not self.end_epoch(steps, samples, time.perf_counter() - began):
            self.epochs = epoch_idx + 1
        return loss


class Sequential:
    """One of RecBole's sequential models on a split.

    Args:
        settings: What to train.
        split: The events.

    Raises:
        SystemExit: RecBole holds out other events than the split does.
    """

    def __init__(self, settings: Settings, split: Split) -> None:
        self.settings = settings
        self.split = split
        self.recorder = Recorder(settings, split, self.score)
        self.config = _config(settings)
        init_seed(settings.seed, reproducibility=True)
        data = create_dataset(self.config)
        self.train_data, _, self.test_data = data_preparation(self.config, data)
        if self.train_data.sample_size != split.training_targets():
            sys.exit("RecBole splits users of fewer than three events otherwise: leave them out")
        self.user_of = _our_numbers(data, "user_id")
        item_of = _our_numbers(data, "item_id")
        self.id_N = np.zeros(split.items, dtype=np.int64)
        self.id_N[item_of[1:]] = np.arange(1, len(item_of))
        self.model = get_model(settings.model)(self.config, self.train_data.dataset)
        torch.autograd.set_detect_anomaly(False)

    def train(self) -> int:
        """Train on the training events; the number of targets of a whole epoch."""
        trainer = TimedTrainer(
            self.config, self.model, self.settings.max_steps, self.recorder.end_epoch
        )
        self.recorder.began = time.perf_counter()
        trainer.fit(self.train_data, saved=False, verbose=False)
        return int(self.train_data.sample_size)

    @torch.no_grad()
    def score(self, user_B: NDArray[np.int64], part: int) -> NDArray[np.float32]:
        """Scores of all items in our order, [B, N]; see `scoring.Score`."""
        id_BL, length_B = recent_items(
            self.split, user_B, part, self.id_N, self.settings.length, "right"
        )
        asked = Interaction(
            {
                "item_id_list": torch.from_numpy(id_BL),
                "item_length": torch.from_numpy(length_B.clip(min=1)),
            }
        )
        self.model.eval()
        return in_our_order(self.model.full_sort_predict(asked).numpy(), self.id_N)

    @torch.no_grad()
    def rank_all(self) -> None:
        """Recommend to all users with a test event.

        RecBole's own evaluation leaves seen items in the ranking of a sequential model; here they
        are taken out, as everywhere else.
        """
        self.model.eval()
        for interaction, _, _, _ in self.test_data:
            score = self.model.full_sort_predict(interaction)
            user_B = self.user_of[interaction["user_id"].numpy()]
            row, item = seen_items(self.split, user_B, TEST)
            score[:, 0] = -torch.inf
            score[row, self.id_N[item]] = -torch.inf
            torch.topk(score, TOP)


def _config(settings: Settings) -> Config:
    sizes = {
        "SASRec": {
            "n_layers": settings.layers,
            "n_heads": settings.heads,
            "hidden_size": settings.width,
            "inner_size": 4 * settings.width,
            "hidden_dropout_prob": settings.dropout,
            "attn_dropout_prob": settings.dropout,
        },
        "GRU4Rec": {
            "num_layers": settings.layers,
            "hidden_size": settings.width,
            "embedding_size": settings.width,
            "dropout_prob": settings.dropout,
        },
    }
    return Config(
        model=settings.model,
        dataset=DATA_SET,
        config_dict={
            **sizes[settings.model],
            "loss_type": "CE",
            "train_neg_sample_args": None,
            "MAX_ITEM_LIST_LENGTH": settings.length,
            "epochs": settings.epochs,
            "train_batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "seed": settings.seed,
            "data_path": str(settings.out),
            "checkpoint_dir": str(settings.out / "checkpoints"),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {
                "split": {"LS": "valid_and_test"},
                "group_by": "user",
                "order": "TO",
                "mode": "full",
            },
            "gpu_id": "",
            "use_gpu": False,
            "show_progress": False,
            "state": "WARNING",
        },
    )


def _our_numbers(data: Any, field: str) -> NDArray[np.int64]:
    """Our number of each of RecBole's users or items; -1 for its padding, which is the first."""
    return np.array([-1, *data.field2id_token[field][1:]], dtype=np.int64)


def _write_events(split: Split, folder: Path) -> None:
    """Write RecBole's atomic file of all events."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(
        {
            "user_id:token": split.event_users(),
            "item_id:token": split.item_E,
            "timestamp:float": split.event_positions(),
        }
    )
    table.to_csv(folder / f"{folder.name}.inter", sep="\t", index=False)


def main() -> None:
    """Train and measure."""
    settings = read_settings(
        __doc__.split("\n", 1)[0], models=("SASRec", "GRU4Rec"), batch_size=2048
    )
    logging.disable(logging.WARNING)
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    split = load(settings.split)
    _write_events(split, settings.out / DATA_SET)
    os.chdir(settings.out)  # it writes a log into the working directory
    sequential = Sequential(settings, split)
    targets = sequential.train()
    sequential.recorder.finish("recbole", targets, sequential.rank_all)


if __name__ == "__main__":
    main()
