"""The branches' weights are the best of those tried, and ranking uses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.model.history_windows import Events
from cammsr_cli.ranking.branch_weights import WEIGHTS, weigh_branches
from cammsr_cli.ranking.full_ranking import (
    EvaluationCases,
    item_tables,
    model_ranks,
    ranks,
    user_queries,
)
from cammsr_cli.ranking.metrics import per_user
from cammsr_cli.ranking.seen import Histories

ITEMS, USERS = 40, 60


def _ndcg(rank: np.ndarray) -> float:
    return float(per_user(rank, "NDCG", 10).mean())


def _toy(fused: bool) -> tuple[Cammsr, Catalogue, Events, EvaluationCases]:
    torch.manual_seed(0)
    features = {"text": torch.randn(ITEMS, 4)}
    model = Cammsr(ITEMS, {"text": 4}, 0, width=16, length=4, layers=1, fused=fused).eval()
    there = {"text": torch.ones(ITEMS, dtype=torch.bool)}
    catalogue = Catalogue(torch.arange(ITEMS), features, there)
    events = Events(torch.randint(0, ITEMS, (USERS * 5,)), torch.arange(USERS * 5))
    start = np.arange(USERS) * 5
    asked = EvaluationCases(np.arange(USERS), start, start + 4, events.item_E[start + 4].numpy())
    return model, catalogue, events, asked


@pytest.mark.parametrize("fused", [True, False])
def test_no_weights_that_were_tried_rank_better_and_ranking_has_them(fused: bool) -> None:
    model, catalogue, events, asked = _toy(fused)
    tables = item_tables(model, catalogue)
    start, end = torch.from_numpy(asked.start_U), torch.from_numpy(asked.end_U)
    plain = user_queries(model, tables, events, start, end)
    widths = model.score_widths
    tried = []
    for weight in WEIGHTS:
        weighted = plain * torch.tensor([1.0] * widths[0] + [weight] * widths[1])
        rank = ranks(weighted, tables.target_NV, Histories(events, True), asked)
        tried.append(_ndcg(rank))
    found = weigh_branches(model, catalogue, events, asked, True, _ndcg)
    assert found == pytest.approx(max(tried))
    assert found > _ndcg(ranks(plain, tables.target_NV, Histories(events, True), asked))
    assert model.branch_weight_T.mean().item() == pytest.approx(1)
    assert _ndcg(model_ranks(model, catalogue, events, asked)) == pytest.approx(found)


def test_where_no_weights_are_better_the_branches_count_alike() -> None:
    model, catalogue, events, asked = _toy(fused=True)
    weigh_branches(model, catalogue, events, asked, True, lambda rank: 0.5)
    assert model.branch_weight_T.tolist() == [1.0, 1.0]


def test_the_shares_that_are_told_are_of_the_weighted_score() -> None:
    model, catalogue, events, asked = _toy(fused=True)
    tables = item_tables(model, catalogue)
    start, end = torch.from_numpy(asked.start_U), torch.from_numpy(asked.end_U)
    alike = user_queries(model, tables, events, start, end)
    model.branch_weight_T.copy_(torch.tensor([1.5, 0.5]))
    weighted = user_queries(model, tables, events, start, end)
    of_ids, of_all = alike.split(model.score_widths, dim=1)
    torch.testing.assert_close(weighted, torch.cat([1.5 * of_ids, 0.5 * of_all], dim=1))
    text = model.contributions(weighted, tables.target_NV[:1])[..., 1]
    torch.testing.assert_close(text, 0.5 * model.contributions(alike, tables.target_NV[:1])[..., 1])
