"""Figures become ratios, and curves become times."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.settings import ranks_file
from benchmarks.speed import bars, fastest
from benchmarks.time_to_quality import curve_of_ours, curve_of_peer, first_reached
from benchmarks.timing import median_after_first
from benchmarks.trainings import Training


def test_goal_is_reached_at_the_first_epoch_as_good() -> None:
    assert first_reached([0.1, 0.3, 0.2, 0.4], [5, 10, 15, 20], 0.3) == 10
    assert first_reached([0.1, 0.3], [5, 10], 0.31) is None


def test_our_curve_adds_up_training_alone_and_all() -> None:
    lines = [
        {"ndcg": 0.1, "events_per_second": 100.0, "seconds": 3.0},
        {"ndcg": 0.2, "events_per_second": 200.0, "seconds": 2.0},
    ]
    curve = curve_of_ours("ours", lines, targets=200)
    assert (curve.ndcg, curve.training, curve.elapsed) == ([0.1, 0.2], [2.0, 3.0], [3.0, 5.0])


def test_peer_curve_reads_the_ranks_of_each_epoch(tmp_path: Path) -> None:
    for number, ranks in enumerate([[1, 11], [1, 3]], start=1):
        np.save(ranks_file(tmp_path, number), np.array(ranks))
    epochs = [{"seconds": 2.0, "elapsed": 3.0}, {"seconds": 2.5, "elapsed": 6.0}]
    curve = curve_of_peer("peer", {"epochs": epochs}, tmp_path)
    assert curve.ndcg == pytest.approx([0.5, 0.75])
    assert (curve.training, curve.elapsed) == ([2.0, 4.5], [3.0, 6.0])


def test_first_epoch_warms_up() -> None:
    assert median_after_first([1.0, 5.0, 4.0, 6.0]) == 5.0
    assert median_after_first([1.0]) == 1.0


def training(speed: float, megabytes: float = 1.0, targets: int = 100) -> Training:
    return Training("", speed, targets, megabytes, 10.0)


def test_fastest_batch_size_counts() -> None:
    trainings = [("rectools", training(5)), ("rectools", training(7)), ("sasrec", training(1))]
    best = fastest(trainings)
    assert (best["rectools"].events_per_second, best["sasrec"].events_per_second) == (7, 1)


def test_bars_are_met_on_the_right_side() -> None:
    best = {"sasrec": training(30, megabytes=3), "cammsr": training(12), "rectools": training(20)}
    met = {bar.what: (bar.ratio, bar.met) for bar in bars(best)}
    assert met == {
        "events/s, sasrec preset over RecTools": (1.5, True),
        "s an epoch, cammsr over sasrec preset": (2.5, False),
        "users/s, sasrec preset over RecTools": (1.0, False),
        "peak memory, sasrec preset over RecTools": (3.0, False),
        "peak memory, cammsr over RecTools": (1.0, True),
    }
