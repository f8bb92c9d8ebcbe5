"""Ranking metrics from the rank of each user's next item, with bootstrap intervals.

Every user has one relevant item (leave-one-out). With rank r, counted from 1:

    Recall@k = [r <= k]      NDCG@k = [r <= k] / log2(r + 1)      MRR@k = [r <= k] / r
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUTOFFS = (5, 10, 20)
METRICS = ("Recall", "NDCG", "MRR")


def per_user(rank: NDArray[np.int64], name: str, cutoff: int) -> NDArray[np.float64]:
    """One metric for each user, [U].

    >>> per_user(np.array([1, 3, 11]), "NDCG", 10).tolist()
    [1.0, 0.5, 0.0]
    """
    gain = {
        "Recall": np.ones(len(rank)),
        "NDCG": 1 / np.log2(rank + 1.0),
        "MRR": 1 / rank.astype(np.float64),
    }[name]
    return np.where(rank <= cutoff, gain, 0.0)


@dataclass(frozen=True)
class Estimate:
    """A mean over users and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def estimate_all(
    rank: NDArray[np.int64], resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Every metric at every cut-off, as "NDCG@10" and so on."""
    names = [f"{metric}@{k}" for metric in METRICS for k in CUTOFFS]
    values_UM = np.stack([per_user(rank, m, k) for m in METRICS for k in CUTOFFS], axis=1)
    low, high = bootstrap_interval(values_UM, resamples, seed)
    mean = values_UM.mean(0)
    return {
        name: Estimate(float(mean[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(names)
    }


def bootstrap_interval(
    values_UM: NDArray[np.float64], resamples: int = 1000, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile 95 % interval of the column means, users drawn with replacement.

    Pass the difference of two models' values to compare them user by user (paired bootstrap).
    """
    users = len(values_UM)
    # Users with equal values are interchangeable, and there are few distinct values, because
    # metrics depend on the rank only.
    distinct_KM, count_K = np.unique(values_UM, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    drawn_RK = generator.multinomial(users, count_K / users, size=resamples)
    means = drawn_RK @ distinct_KM / users
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high
