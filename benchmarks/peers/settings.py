"""Command line of the scripts that train a peer."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What to train and what to write.

    Attributes:
        split: Folder with the events.
        out: Folder for the results.
        model: Name of the model in the library.
        width: Width of all vectors.
        layers: Blocks, or recurrent layers.
        heads: Attention heads a block.
        length: Longest history, in events.
        dropout: Share of activations dropped in training.
        batch_size: Samples a step.
        learning_rate: Adam's step size.
        epochs: Most epochs.
        max_steps: Most steps an epoch; None for whole epochs.
        max_seconds: Begin no epoch after this many seconds of training; None for no limit.
        patience: Stop after so many epochs without a better validation NDCG@10; None for never.
        seed: Of every random number.
        validate: Write the ranks of the validation items after each epoch, and those of the test
            items after each that is the best so far.
        scores: Write the score matrix of the test histories.
    """

    split: Path
    out: Path
    model: str
    width: int
    layers: int
    heads: int
    length: int
    dropout: float
    batch_size: int
    learning_rate: float
    epochs: int
    max_steps: int | None
    max_seconds: float | None
    patience: int | None
    seed: int
    validate: bool
    scores: bool

    def as_json(self) -> dict[str, Any]:
        """All but the paths, which say nothing of what was computed."""
        return {k: v for k, v in asdict(self).items() if not isinstance(v, Path)}


def read_settings(description: str, models: tuple[str, ...], batch_size: int) -> Settings:
    """Settings from the command line.

    Args:
        description: What the script does.
        models: Models it knows; the first is the default.
        batch_size: The library's own default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("split", type=_absolute, help="folder with events.npz and meta.json")
    parser.add_argument("out", type=_absolute, help="folder for result.json")
    parser.add_argument("--model", choices=models, default=models[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--max-steps", type=int, help="most steps an epoch")
    parser.add_argument("--max-seconds", type=float, help="begin no epoch after so much training")
    parser.add_argument("--patience", type=int, help="epochs without a better NDCG@10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--validate", action="store_true", help="ranks after each epoch, as NPY")
    parser.add_argument("--scores", action="store_true", help="scores of all users and items")
    options = parser.parse_args()
    if options.patience is not None and not options.validate:
        parser.error("--patience needs --validate")
    settings = Settings(**vars(options))
    settings.out.mkdir(parents=True, exist_ok=True)
    return settings


def ranks_file(out: Path, epoch: int) -> Path:
    """Where the validation ranks after an epoch, counted from 1, are kept."""
    return out / f"ranks-{epoch:04d}.npy"


def test_ranks_file(out: Path, seen: str) -> Path:
    """Where the test ranks of the best epoch are kept; seen items are "excluded" or "kept"."""
    return out / f"test-ranks-seen-{seen}.npy"


def _absolute(path: str) -> Path:
    return Path(path).resolve()
