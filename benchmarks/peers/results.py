"""What training a peer gave: recorded as it goes, written as result.json."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from benchmarks.peers.scoring import Score, target_ranks, write_scores
from benchmarks.peers.settings import Settings, ranks_file, test_ranks_file
from benchmarks.peers.split import TEST, VALIDATION, Split
from benchmarks.timing import median_after_first, median_seconds
from cammsr_cli.ranking.metrics import per_user

TOP = 20
"""Items recommended to each user when the ranking is timed."""


@dataclass(frozen=True)
class Epoch:
    """One epoch of training.

    Attributes:
        steps: Optimiser steps.
        targets: Training targets: items whose prediction entered the loss.
        seconds: Wall time of training alone.
        elapsed: Wall seconds since training began, validation counted.
    """

    steps: int
    targets: int
    seconds: float
    elapsed: float


@dataclass(frozen=True)
class Result:
    """All that is measured of one peer.

    Attributes:
        library: Its name on the package index.
        version: Its version.
        torch: Version of torch.
        threads: Threads torch computes with.
        settings: What was trained.
        targets_an_epoch: Training targets of a whole epoch.
        epochs: One entry an epoch.
        events_per_second: Training targets a second: median of the epochs after the first, or of
            the only one.
        megabytes: Peak resident memory of the process up to the end of training, in MiB.
        ranked_users: Users the whole catalogue was ranked for.
        ranking_seconds: Wall time of that by the library's own way, median of three.
        users_per_second: The one over the other.
    """

    library: str
    version: str
    torch: str
    threads: int
    settings: dict[str, Any]
    targets_an_epoch: int
    epochs: list[Epoch]
    events_per_second: float
    megabytes: float
    ranked_users: int
    ranking_seconds: float
    users_per_second: float


@dataclass
class Recorder:
    """Takes note of epochs while a peer trains.

    Attributes:
        settings: What is trained.
        split: The events.
        score: How the peer scores.
        epochs: What was recorded so far.
        began: When training began.
        best: Best validation NDCG@10 so far.
        best_epoch: The epoch it came from; 0 before the first.
    """

    settings: Settings
    split: Split
    score: Score
    epochs: list[Epoch] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)
    best: float = -1.0
    best_epoch: int = 0

    def end_epoch(self, steps: int, targets: int, seconds: float) -> bool:
        """Take note of an epoch, validate if asked; whether training is to go on."""
        if self.settings.validate:
            self._validate(len(self.epochs) + 1)
        elapsed = time.perf_counter() - self.began
        self.epochs.append(Epoch(steps, targets, seconds, elapsed))
        limit, patience = self.settings.max_seconds, self.settings.patience
        in_time = limit is None or sum(epoch.seconds for epoch in self.epochs) < limit
        return in_time and (patience is None or len(self.epochs) - self.best_epoch < patience)

    def _validate(self, epoch: int) -> None:
        """Write the validation ranks and, if they are the best so far, those of the test."""
        out = self.settings.out
        rank_U = target_ranks(self.split, VALIDATION, self.score)
        np.save(ranks_file(out, epoch), rank_U)
        quality = float(per_user(rank_U, "NDCG", 10).mean())
        if quality > self.best:
            self.best, self.best_epoch = quality, epoch
            for seen, excluded in (("excluded", True), ("kept", False)):
                rank_U = target_ranks(self.split, TEST, self.score, excluded)
                np.save(test_ranks_file(out, seen), rank_U)

    def finish(self, library: str, targets_an_epoch: int, rank_all: Callable[[], object]) -> None:
        """Measure the ranking and write result.json and, if asked, scores.npy.

        Args:
            library: Name on the package index.
            targets_an_epoch: Training targets of a whole epoch.
            rank_all: Ranks the catalogue for all users with a test event by the library's own way.
        """
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ranked_users = len(self.split.asked(TEST)[0])
        ranking_seconds = median_seconds(rank_all)
        result = Result(
            library=library,
            version=version(library),
            torch=torch.__version__,
            threads=torch.get_num_threads(),
            settings=self.settings.as_json(),
            targets_an_epoch=targets_an_epoch,
            epochs=self.epochs,
            events_per_second=median_after_first([e.targets / e.seconds for e in self.epochs]),
            megabytes=megabytes,
            ranked_users=ranked_users,
            ranking_seconds=ranking_seconds,
            users_per_second=ranked_users / ranking_seconds,
        )
        text = json.dumps(asdict(result), indent=2)
        (self.settings.out / "result.json").write_text(text, encoding="utf-8")
        if self.settings.scores:
            write_scores(self.split, self.score, self.settings.out / "scores.npy")
