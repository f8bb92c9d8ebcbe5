"""How long a training takes to reach a given validation NDCG@10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.settings import ranks_file
from cammsr_cli.ranking.metrics import per_user


@dataclass(frozen=True)
class Curve:
    """Quality after each epoch.

    Attributes:
        name: What was trained, for people.
        ndcg: Validation NDCG@10, full ranking, seen items excluded.
        training: Seconds of training up to the end of the epoch, nothing else counted.
        elapsed: The same with validation and checkpoints.
    """

    name: str
    ndcg: list[float]
    training: list[float]
    elapsed: list[float]


def first_reached(quality: Sequence[float], seconds: Sequence[float], goal: float) -> float | None:
    """When a goal was first reached; None if it never was.

    >>> first_reached([0.1, 0.3, 0.2, 0.4], [5.0, 10.0, 15.0, 20.0], 0.25)
    10.0
    """
    return next((s for q, s in zip(quality, seconds, strict=True) if q >= goal), None)


def curve_of_ours(name: str, lines: Sequence[dict[str, Any]], targets: int) -> Curve:
    """From the lines of metrics.jsonl and the training targets of an epoch."""
    return Curve(
        name,
        [line["ndcg"] for line in lines],
        list(accumulate(targets / line["events_per_second"] for line in lines)),
        list(accumulate(line["seconds"] for line in lines)),
    )


def curve_of_peer(name: str, result: dict[str, Any], out: Path) -> Curve:
    """From a peer's result.json and the ranks it wrote into the folder `out`."""
    epochs = result["epochs"]
    ranks = [np.load(ranks_file(out, number)) for number in range(1, len(epochs) + 1)]
    return Curve(
        name,
        [float(per_user(rank, "NDCG", 10).mean()) for rank in ranks],
        list(accumulate(epoch["seconds"] for epoch in epochs)),
        [epoch["elapsed"] for epoch in epochs],
    )


def print_curves(curves: Sequence[Curve], goal: float) -> None:
    """Print when each curve first reached the goal, as a Markdown table."""
    print(f"\nvalidation NDCG@10 of {goal:.4f}:\n")
    print("| | training s | with validation s | best NDCG@10 | after training s |")
    print("|---|---:|---:|---:|---:|")
    for curve in curves:
        best = int(np.argmax(curve.ndcg))
        reached = [
            "never" if at is None else f"{at:.0f}"
            for at in (
                first_reached(curve.ndcg, curve.training, goal),
                first_reached(curve.ndcg, curve.elapsed, goal),
            )
        ]
        print(
            f"| {curve.name} | {reached[0]} | {reached[1]} "
            f"| {curve.ndcg[best]:.4f} | {curve.training[best]:.0f} |"
        )
