"""The model finds what is planted in the shop: which modality decides in which category."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from cammsr_cli.data.splits import TEST
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.ranking.full_ranking import evaluation_cases, model_ranks
from cammsr_cli.ranking.metrics import per_user
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import LoadedRun, load_run

MODALITY = {"look": "image", "theme": "text", "motion": "video"}
SHUFFLES = 5


@pytest.fixture(scope="module")
def loaded(shop) -> LoadedRun:
    return load_run(RunFolder(shop.run), None, torch.device("cpu"))


def test_planted_modality_weighs_most_in_its_own_category(shop, loaded: LoadedRun) -> None:
    recommender = Recommender(loaded)
    weights: dict[str, list[dict[str, float]]] = {category: [] for category in shop.truth.deciding}
    for user in loaded.data.user_ids[:200]:
        for item in recommender.recommend(user, 10):
            weights[item.categories[0]].append(item.weights)
    mean = {
        category: {m: np.mean([w[m] for w in found]) for m in MODALITY.values()}
        for category, found in weights.items()
    }
    for category, attribute in shop.truth.deciding.items():
        planted = MODALITY[attribute]
        # Heavier than the other modalities here, and heavier here than in other categories.
        assert planted == max(mean[category], key=lambda m: mean[category][m]), mean
        assert category == max(mean, key=lambda c: mean[c][planted]), mean


def test_recommendations_follow_each_user_s_own_taste(shop, loaded: LoadedRun) -> None:
    recommender = Recommender(loaded)
    follows = [
        shop.truth.matches(user, item.item)
        for user in loaded.data.user_ids[:200]
        for item in recommender.recommend(user, 5)
    ]
    # By chance one in four would match.
    assert np.mean(follows) > 0.5


def test_shuffling_the_planted_modality_costs_most_in_its_own_category(
    shop, loaded: LoadedRun
) -> None:
    asked = evaluation_cases(loaded.data, TEST)
    category_of = [shop.truth.items[item]["category"] for item in loaded.data.item_ids]
    target_category = np.array([category_of[item] for item in asked.item_U])

    def accuracy(catalogue: Catalogue) -> dict[str, float]:
        rank = model_ranks(loaded.model, catalogue, loaded.events, asked)
        gain = per_user(rank, "NDCG", 20)
        return {c: gain[target_category == c].mean() for c in shop.truth.deciding}

    before = accuracy(loaded.catalogue)
    cost: dict[str, dict[str, float]] = {}
    generator = torch.Generator().manual_seed(0)
    for modality in MODALITY.values():
        after = [
            accuracy(_shuffled(loaded.catalogue, modality, generator)) for _ in range(SHUFFLES)
        ]
        cost[modality] = {c: before[c] - np.mean([a[c] for a in after]) for c in before}
    for category, attribute in shop.truth.deciding.items():
        planted = MODALITY[attribute]
        assert category == max(cost[planted], key=lambda c: cost[planted][c]), cost
        assert planted == max(cost, key=lambda m: cost[m][category]), cost


def _shuffled(catalogue: Catalogue, modality: str, generator: torch.Generator) -> Catalogue:
    """One modality's vectors dealt anew among the items that have it."""
    has = torch.where(catalogue.present[modality])[0]
    values = catalogue.features[modality].clone()
    values[has] = values[has[torch.randperm(len(has), generator=generator)]]
    return replace(catalogue, features={**catalogue.features, modality: values})


def test_evaluate_beats_popularity(shop, cammsr: Callable) -> None:
    import json

    answer = cammsr("evaluate", shop.run, "--json")
    assert answer.code == 0, answer.err
    evaluation = json.loads(answer.out)
    assert evaluation["users"] == 400
    assert evaluation["model"]["NDCG@10"]["low"] > evaluation["popularity"]["NDCG@10"]["high"]
