"""Slices, lists, worth and faithfulness against a few lines of plain Python."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from toy_recommender import ITEMS, make_recommender

from cammsr_cli.data.splits import TEST, TRAIN
from cammsr_cli.ranking import evaluation_details as details
from cammsr_cli.ranking.evaluate import ranks_of
from cammsr_cli.ranking.full_ranking import Ranking, evaluation_cases, item_tables
from cammsr_cli.ranking.metrics import per_user
from cammsr_cli.ranking.recommend import Recommender


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return make_recommender(tmp_path_factory.mktemp("toy"))


def test_slices_part_the_users_and_have_their_means(recommender: Recommender) -> None:
    run = recommender.run
    asked = evaluation_cases(run.data, TEST)
    rank = ranks_of(run, asked)
    found = details.slices(run, asked, rank)
    ndcg = per_user(rank, "NDCG", 10)
    by: dict[str, list[details.Slice]] = {}
    for one in found:
        by.setdefault(one.by, []).append(one)
        assert one.ndcg.low <= one.ndcg.mean <= one.ndcg.high
    assert set(by) >= {"history", "popularity", "category", "image"}  # each item has a text
    for name in ("history", "category", "image"):
        assert sum(one.users for one in by[name]) == len(rank)
        together = sum(one.users * one.ndcg.mean for one in by[name]) / len(rank)
        assert together == pytest.approx(ndcg.mean())
    (short,) = (one for one in by["history"] if one.value == "1 to 5 events")
    chosen = [u for u in range(len(rank)) if asked.end_U[u] - asked.start_U[u] <= 5]
    assert short.users == len(chosen)
    assert short.ndcg.mean == pytest.approx(ndcg[chosen].mean())
    assert short.recall == pytest.approx((rank[chosen] <= 10).mean())
    counts = Counter(run.data.event_item[run.data.event_part == TRAIN].tolist())
    top = [item for item, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))][:4]
    first = by["popularity"][0]
    assert first.value == "the 10 % most popular items"
    assert first.users == sum(item in top for item in asked.item_U.tolist())


def test_lists_are_as_counted_by_hand(recommender: Recommender) -> None:
    data = recommender.run.data
    lists = np.array([[0, 1, 2], [0, 4, 8], [0, 5, -1]])
    found = details.like(recommender.run, lists)
    assert found.coverage == pytest.approx(6 / ITEMS)
    counts = np.bincount(data.event_item[data.event_part == TRAIN], minlength=ITEMS)
    listed = [0, 1, 2, 0, 4, 8, 0, 5]
    share = np.maximum(counts, 1) / counts.sum()
    assert found.novelty == pytest.approx(np.mean([-np.log2(share[item]) for item in listed]))
    # An item's category is its number modulo 4.
    pairs = [pair for row in ([0, 1, 2], [0, 4, 8], [0, 5]) for pair in combinations(row, 2)]
    apart = sum(a % 4 != b % 4 for a, b in pairs)
    assert found.diversity == pytest.approx(apart / len(pairs))
    exposure = np.bincount(listed, minlength=ITEMS)
    by_pairs = np.abs(exposure[:, None] - exposure[None, :]).sum() / (2 * ITEMS * exposure.sum())
    assert found.gini == pytest.approx(by_pairs)


def test_what_a_modality_is_worth_is_what_is_lost_without_it(recommender: Recommender) -> None:
    run = recommender.run
    asked = evaluation_cases(run.data, TEST)
    rank = ranks_of(run, asked)
    found = details.details(run, Ranking(run.model, run.catalogue, run.events, asked), rank)
    assert set(found.worth) == {"image", "text"}
    for name, worth in found.worth.items():
        masked = details.without(run.catalogue, name)
        then = Ranking(run.model, masked, run.events, asked).ranks()
        assert worth.without == pytest.approx(per_user(then, "NDCG", 10).mean())
        assert worth.lost.mean == pytest.approx(
            per_user(rank, "NDCG", 10).mean() - per_user(then, "NDCG", 10).mean()
        )
    assert found.lists.diversity is not None


def test_the_share_of_faithful_explanations_is_counted(recommender: Recommender) -> None:
    run = recommender.run
    asked = evaluation_cases(run.data, TEST)
    ranking = Ranking(run.model, run.catalogue, run.events, asked)
    item_U = ranking.top(1)[:, 0]
    found = details.faithfulness(run, ranking, item_U)
    assert found is not None
    tables, names = ranking.tables, list(run.model.modalities)
    average = tables.target_NV.mean(0)
    has = torch.stack([run.catalogue.present[name] for name in names], dim=1)
    right = pairs = 0
    for user, item in enumerate(item_U.tolist()):
        if item < 0 or int(has[item].sum()) < 2:
            continue
        query = ranking.query_UV[user]
        lift = run.model.contributions(query, tables.target_NV[item] - average)[-len(names) :]
        weight = lift.clamp(min=0)
        moved = []
        for name in names:
            masked = item_tables(run.model, details.without(run.catalogue, name)).target_NV
            before = float(query @ (tables.target_NV[item] - average))
            moved.append(abs(before - float(query @ (masked[item] - masked.mean(0)))))
        pairs += 1
        right += moved[int(weight.argmax())] > moved[int(weight.argmin())]
    assert found.pairs == pairs > 10
    assert found.share.mean == pytest.approx(right / pairs)


def test_one_modality_alone_explains_nothing_that_could_be_compared(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    from cammsr_cli.config import Config, ModelConfig

    config = Config(model=ModelConfig(width=16, layers=1, length=8, modalities=["text"]))
    run = make_recommender(tmp_path_factory.mktemp("one"), config).run
    ranking = Ranking(run.model, run.catalogue, run.events, evaluation_cases(run.data, TEST))
    assert details.faithfulness(run, ranking, ranking.top(1)[:, 0]) is None
