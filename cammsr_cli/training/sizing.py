"""Settings chosen from the data and the device: the size of the model, and how it is trained.

The rules were found on validation NDCG@10 of the data sets of docs/results.md. An explicit setting
takes precedence over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from cammsr_cli.config import Config
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.training.plan import training_bounds

BATCH_SIZES = (512, 256, 128, 64, 32)
"""Batch sizes to choose from, in histories per step."""

STEPS_AN_EPOCH = 40
"""Least number of steps per epoch, when the batch size is chosen here."""

POSITIONS_A_STEP = 6400
"""Largest number of positions per step, when the batch size is chosen here."""

LENGTHS = (50, 100, 200)
"""Longest histories to choose from."""

SMALL, LARGE = 64, 128
"""Widths to choose from."""

EVENTS_OF_LARGE = 50_000
"""Number of training events from which the larger width is better."""


@dataclass(frozen=True)
class Sizes:
    """Input of the rules.

    Attributes:
        items: Size of the catalogue.
        events: Number of training events.
        targets_U: Number of targets of each user: its training events after the first.
    """

    items: int
    events: int
    targets_U: np.ndarray[tuple[int], np.dtype[np.int64]]

    @staticmethod
    def of(data: DataSet) -> Sizes:
        """Sizes of a data set."""
        start_U, end_U = training_bounds(data)
        events_U = (end_U - start_U).numpy()
        return Sizes(len(data.item_ids), int(events_U.sum()), (events_U - 1).clip(min=0))

    @property
    def mean_history(self) -> float:
        """Mean number of training events of users with two or more."""
        learnt_U = self.targets_U[self.targets_U > 0]
        return float(learnt_U.mean()) + 1 if len(learnt_U) else 0.0

    @property
    def events_an_item(self) -> float:
        """Mean number of training events per item."""
        return self.events / max(1, self.items)


def fitted(config: Config, data: DataSet, device: torch.device) -> tuple[Config, list[str]]:
    """Fill in the settings that are left open; return them and the choices with their reasons."""
    sizes = Sizes.of(data)
    model = config.model
    chosen: dict[str, object] = {}
    reasons = []
    if model.length is None:
        chosen["length"] = length = _length(sizes)
        reasons.append(f"length {length} (histories of {sizes.mean_history:.0f} events on average)")
    if model.dropout is None:
        chosen["dropout"] = dropout = _dropout(sizes)
        reasons.append(f"dropout {dropout:g} ({sizes.events_an_item:.0f} training events an item)")
    width = model.width
    if width is None:
        width = LARGE if sizes.events >= EVENTS_OF_LARGE else SMALL
        chosen["width"] = width = width + -width % (model.heads or 1)
        reasons.append(f"width {width} ({sizes.events:,} training events)")
    if model.heads is None:
        chosen["heads"] = 1 if width % 2 else 2
    if sizes.items > config.training.sparse_adam_above:
        chosen["neighbours"] = 0
    model = model.model_copy(update=chosen)
    chosen = {}
    if not config.training.batch_size:
        assert model.length is not None  # chosen above
        chosen["batch_size"] = size = _batch_size(sizes, model.length)
        reasons.append(f"{size} histories a step")
    if config.training.precision == "auto":
        chosen["precision"] = "bfloat16" if multiplies_bfloat16_fast(device) else "float32"
    training = config.training.model_copy(update=chosen)
    return config.model_copy(update={"model": model, "training": training}), reasons


def _length(sizes: Sizes) -> int:
    """The least length that is about that of a mean history: at least 0.9 of it."""
    enough = [length for length in LENGTHS if length >= 0.9 * sizes.mean_history]
    return min(enough, default=max(LENGTHS))


def _dropout(sizes: Sizes) -> float:
    """More dropout for fewer events per item: 0.5 at 12, 0.2 at 290."""
    doublings = math.log2(max(1.0, sizes.events_an_item) / 12)
    return min(max(round((0.5 - 0.065 * doublings) * 20) / 20, 0.1), 0.5)


def _batch_size(sizes: Sizes, length: int) -> int:
    """The largest batch size that leaves enough steps per epoch.

    Batches hold more histories when they are short, and fewer when they are long. With less than a
    few thousand positions, a step spends most of its time on the item tables. With many more, it
    learns too little.
    """
    windows = int(((sizes.targets_U + length - 1) // length).sum())
    positions = int(sizes.targets_U.sum()) / max(1, windows)
    enough = [
        size
        for size in BATCH_SIZES
        if windows >= size * STEPS_AN_EPOCH and size * positions <= POSITIONS_A_STEP
    ]
    return max(enough, default=min(BATCH_SIZES))


def multiplies_bfloat16_fast(device: torch.device) -> bool:
    """Whether a device has hardware for bfloat16 matrix products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))
