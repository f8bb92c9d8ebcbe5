"""Weights and experts by category, against means taken one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_recommender import SMALL, make_recommender

from cammsr_cli.data.splits import TEST
from cammsr_cli.model.history_windows import cut
from cammsr_cli.ranking.by_category import experts_by_category, weights_by_category
from cammsr_cli.ranking.evaluate import ranking_of
from cammsr_cli.ranking.full_ranking import evaluation_cases
from cammsr_cli.ranking.recommend import Recommender

LENGTH = 5


def test_weights_are_the_means_of_what_recommend_shows(tmp_path: Path) -> None:
    run = make_recommender(tmp_path).run
    asked = evaluation_cases(run.data, TEST)
    ranking = ranking_of(run, asked)
    recommender = Recommender(run, exclude_seen=True, ranking=ranking)
    counts = (asked.end_U - asked.start_U).tolist()
    sessions = recommender.of_users(asked.user_U).first(counts)
    shown: dict[str, list[dict[str, float]]] = {}
    for listed in recommender.lists(sessions, LENGTH):
        for item in listed.items:
            for category in item.categories:
                shown.setdefault(category, []).append(item.weights)
    found = weights_by_category(run, ranking, ranking.top(LENGTH))
    assert {one.category for one in found} == set(shown)
    sizes = [one.recommendations for one in found]
    assert sizes == sorted(sizes, reverse=True)
    for one in found:
        own = shown[one.category]
        assert one.recommendations == len(own)
        assert sum(one.weights.values()) == pytest.approx(1)
        for stream, share in one.weights.items():
            assert share == pytest.approx(np.mean([each[stream] for each in own]), abs=1e-5)


def test_use_of_experts_is_the_mean_share_of_the_gates(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"model": SMALL.model.model_copy(update={"experts": 3})})
    run = make_recommender(tmp_path, config).run
    asked = evaluation_cases(run.data, TEST)
    ranking = ranking_of(run, asked)
    found = {one.category: one for one in experts_by_category(run, ranking)}
    assert set(found) == set(run.data.category_names)
    camoe, data = run.model.camoe, run.data
    assert camoe is not None
    sums: dict[str, list[torch.Tensor]] = {}
    for start, end in zip(asked.start_U.tolist(), asked.end_U.tolist(), strict=True):
        first = max(start, end - run.model.length)
        window = cut(run.events, torch.tensor([first]), torch.tensor([end]))
        read: list[torch.Tensor] = []
        hook = camoe.router.register_forward_hook(lambda _m, _i, out, to=read: to.append(out))
        with torch.inference_mode():
            run.model.history(ranking.tables, window)
        hook.remove()
        share_TLE = (read[0].abs() / read[0].abs().sum(-1, keepdim=True))[:, 0]
        for place, item in enumerate(data.event_item[first:end].tolist()):
            for category in data.item_categories(item):
                sums.setdefault(category, []).append(share_TLE[:, place])
    for category, shares in sums.items():
        mean_TE = torch.stack(shares).mean(0)
        assert found[category].events == len(shares)
        for branch, name in enumerate(run.model.branch_names):
            assert found[category].shares[name] == pytest.approx(mean_TE[branch].tolist(), abs=1e-5)


def test_a_model_without_experts_has_no_use_of_them(tmp_path: Path) -> None:
    run = make_recommender(tmp_path).run
    assert experts_by_category(run, ranking_of(run, evaluation_cases(run.data, TEST))) == []
