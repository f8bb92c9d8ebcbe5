"""Metrics by hand and against torchmetrics; the bootstrap on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional import retrieval

from cammsr_cli.ranking.evaluate import compare
from cammsr_cli.ranking.metrics import bootstrap_interval, estimate_all, per_user


def test_metrics_by_hand() -> None:
    rank = np.array([1, 2, 5, 6])
    assert per_user(rank, "Recall", 5).tolist() == [1, 1, 1, 0]
    assert per_user(rank, "NDCG", 5) == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(6), 0])
    assert per_user(rank, "MRR", 5) == pytest.approx([1, 1 / 2, 1 / 5, 0])


def test_an_unknown_metric_is_a_fault() -> None:
    with pytest.raises(KeyError):
        per_user(np.array([1]), "HitRate", 5)


@pytest.mark.parametrize("cutoff", [5, 10, 20])
def test_metrics_agree_with_torchmetrics(cutoff: int) -> None:
    oracle = {
        "Recall": lambda p, t: retrieval.retrieval_recall(p, t, top_k=cutoff),
        "NDCG": lambda p, t: retrieval.retrieval_normalized_dcg(p, t, top_k=cutoff),
        "MRR": lambda p, t: retrieval.retrieval_reciprocal_rank(p, t, top_k=cutoff),
    }
    scores = torch.arange(30.0, 0.0, -1.0)
    for rank in (1, 2, 4, 5, 6, 10, 11, 20, 21, 30):
        target = torch.zeros(30, dtype=torch.bool)
        target[rank - 1] = True
        for name, expected in oracle.items():
            ours = per_user(np.array([rank]), name, cutoff)[0]
            assert ours == pytest.approx(float(expected(scores, target)), rel=1e-5), (name, rank)


def test_estimates_are_means_over_users_at_every_cutoff() -> None:
    rank = np.array([1, 3, 8, 15, 100])
    found = estimate_all(rank, resamples=50)
    assert list(found) == [f"{m}@{k}" for m in ("Recall", "NDCG", "MRR") for k in (5, 10, 20)]
    assert found["Recall@5"].mean == pytest.approx(2 / 5)
    assert found["Recall@20"].mean == pytest.approx(4 / 5)
    assert found["MRR@10"].mean == pytest.approx((1 + 1 / 3 + 1 / 8) / 5)
    assert found["NDCG@5"].mean == pytest.approx((1 + 1 / 2) / 5)
    for estimate in found.values():
        assert estimate.low <= estimate.mean <= estimate.high


def test_bootstrap_interval_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(0).random((2000, 2))
    low, high = bootstrap_interval(values, resamples=1000, seed=1)
    half = 1.96 * values.std(0) / math.sqrt(2000)
    assert low == pytest.approx(values.mean(0) - half, abs=half.max() * 0.15)
    assert high == pytest.approx(values.mean(0) + half, abs=half.max() * 0.15)


def test_bootstrap_of_values_that_repeat_counts_each_user() -> None:
    hits = np.repeat([1.0, 0.0], [300, 700])[:, None]
    low, high = bootstrap_interval(hits, resamples=4000, seed=3)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert low == pytest.approx([0.3 - half], abs=0.1 * half)
    assert high == pytest.approx([0.3 + half], abs=0.1 * half)


def test_bootstrap_of_a_constant_has_no_width_and_repeats_for_its_seed() -> None:
    low, high = bootstrap_interval(np.full((40, 1), 0.25), resamples=20)
    assert (low, high) == (pytest.approx(0.25), pytest.approx(0.25))
    values = np.random.default_rng(0).random((30, 1))
    one, same, other = (bootstrap_interval(values, 30, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_comparison_is_paired_user_by_user() -> None:
    generator = np.random.default_rng(0)
    worse = generator.integers(1, 40, 500)
    better = np.maximum(worse - 1, 1)  # a little better for every user
    found = compare(better, worse)["MRR@20"]
    gain = per_user(better, "MRR", 20) - per_user(worse, "MRR", 20)
    assert found.mean == pytest.approx(gain.mean())
    assert found.relative == pytest.approx(gain.mean() / per_user(worse, "MRR", 20).mean())
    # Users differ far more than the two models do; only a paired interval is this narrow.
    assert 0 < found.low <= found.mean <= found.high
    assert found.high - found.low < 5 * gain.std() / math.sqrt(500)
    assert compare(worse, better)["MRR@20"].mean == pytest.approx(-found.mean)
    none = compare(np.array([1]), np.array([99]))["NDCG@5"]
    assert none.relative is None
