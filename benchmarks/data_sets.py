"""The data sets of the figures, prepared once and kept."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.split import split_of
from benchmarks.processes import cammsr
from cammsr_cli.data.dataset import DataSet

PROJECT = Path(__file__).resolve().parent.parent

RAW = Path(os.environ.get("CAMMSR_TEST_DATA", PROJECT.parent / "shared" / "data"))
"""Where the raw files are unless told otherwise; they are not part of the project."""

ENCODERS = {
    "ml1m": ("text", "image"),
    "ml100k": ("text", "image"),
    "amazon-beauty": ("text",),
}
"""Data set to the encoders for what its items have; the name is that of its folder."""

FEATURES = {"ml1m": {"video": "trailer_features.csv"}}
"""Data set to the modalities that come as vectors, and their files in its folder."""


@dataclass(frozen=True)
class Prepared:
    """A data set ready for training.

    Attributes:
        data: The file `cammsr prepare` wrote.
        split: The same events for the peers; see `peers.split`.
        targets: Training targets of an epoch over all training events.
    """

    data: Path
    split: Path
    targets: int


def prepared(name: str, raw: Path, work: Path) -> Prepared:
    """Prepare a data set in the folder `work`, unless that has been done.

    Raises:
        SystemExit: The raw files are not there, or cannot be prepared.
    """
    data, folder = work / f"{name}.h5", work / f"{name}-split"
    if not data.is_file():
        if not (raw / name).is_dir():
            sys.exit(f"no {raw / name}: give the folder that holds {name} with --data")
        encoders = [word for encoder in ENCODERS[name] for word in ("--encoder", encoder)]
        features = [
            word
            for modality, file in FEATURES.get(name, {}).items()
            for word in ("--features", f"{modality}={raw / name / file}")
        ]
        cammsr("prepare", str(raw / name), "--out", str(data), *encoders, *features)
    split = split_of(DataSet(data))
    split.save(folder)
    return Prepared(data, folder, split.training_targets())
