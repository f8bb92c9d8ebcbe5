"""New items have the share of the best places that was asked for, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_recommender import ITEMS, make_recommender

from cammsr_cli.data.splits import TEST
from cammsr_cli.model.catalogue_tensors import Catalogue, are_new
from cammsr_cli.ranking import new_items
from cammsr_cli.ranking.full_ranking import EvaluationCases, evaluation_cases, model_ranks
from cammsr_cli.ranking.new_items import (
    PLACES,
    evenly,
    extended_queries,
    needs_places,
    offset_of_new,
    raised,
    share_of_new,
)
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.seen import Seen, mark

U, N, NEW, V = 50, 200, 30, 8


@pytest.fixture
def scored() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, targets and which items are new; those have a third of the others' spread."""
    torch.manual_seed(0)
    new = torch.zeros(N, dtype=torch.bool)
    new[torch.randperm(N)[:NEW]] = True
    query, target = torch.randn(U, V), torch.randn(N, V)
    target[new] /= 3
    return query, target, new


def _held(query, target, new, offset: float, seen: Seen | None = None) -> float:
    """Share of the best places that new items have with an offset."""
    target = raised(target, new, offset)
    score = extended_queries(query, target) @ target.T
    if seen is not None:
        mark(score, seen)
    return new[score.topk(PLACES, 1)[1]].float().mean().item()


@pytest.mark.parametrize("share", [0.0, 0.02, NEW / N, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("had", ["kept", "hidden", "biased"])
@pytest.mark.parametrize("at_once", [1, 7 * N, 10**9])
def test_the_share_is_what_was_asked_for(
    scored, monkeypatch, share: float, had: str, at_once: int
) -> None:
    monkeypatch.setattr(new_items, "SCORES_AT_ONCE", at_once)
    query, target, new = scored
    item_P = torch.cat([torch.randperm(N)[:9] for _ in range(U)])
    bias_P = torch.randn(U * 9) if had == "biased" else None
    seen = Seen(torch.arange(U).repeat_interleave(9), item_P, bias_P)
    seen = None if had == "kept" else seen
    assert _held(query, target, new, 0.0, seen) < 0.01  # drowned, as they are
    offset = offset_of_new(query, target, new, share, seen)
    assert _held(query, target, new, offset, seen) == pytest.approx(share, abs=1e-6)


def test_fewer_new_items_than_places_have_no_more_than_there_are(scored) -> None:
    query, target, new = scored
    few = new & (new.cumsum(0) <= 3)
    offset = offset_of_new(query, target, few, 0.9, None)
    assert _held(query, target, few, offset) == pytest.approx(3 / PLACES)
    offset = offset_of_new(query, target, few, 0.1, None)
    assert _held(query, target, few, offset) == pytest.approx(0.1)


def test_nothing_is_raised_where_all_new_items_have_been_seen(scored) -> None:
    query, target, new = scored
    seen = Seen(torch.arange(U).repeat_interleave(NEW), new.nonzero().squeeze(1).repeat(U))
    assert offset_of_new(query, target, new, 0.5, seen) == 0.0


def test_old_items_keep_their_scores_and_new_ones_their_order(scored) -> None:
    query, target, new = scored
    lifted = raised(target, new, 0.7)
    before, after = query @ target.T, extended_queries(query, lifted) @ lifted.T
    torch.testing.assert_close(after[:, ~new], before[:, ~new])
    torch.testing.assert_close(after[:, new], before[:, new] + 0.7)


def test_what_has_neither_id_nor_content_is_not_new() -> None:
    has_text = torch.tensor([True, True, False, False])
    catalogue = Catalogue(
        torch.tensor([0, -1, 1, -1]), {"text": torch.zeros(4, 2)}, {"text": has_text}
    )
    new = are_new(catalogue)
    assert new.tolist() == [False, True, False, False]
    assert share_of_new(new, None) == 0.25
    assert share_of_new(new, 0.0) == 0.0
    assert needs_places(new)
    assert not needs_places(new[:1])
    assert not needs_places(new[1:2])


@pytest.mark.parametrize(("users", "most"), [(0, 5), (1, 5), (5, 5), (6, 5), (1001, 256)])
def test_users_are_spread_evenly(users: int, most: int) -> None:
    drawn = evenly(users, most)
    assert len(drawn) <= most
    assert len(drawn) >= min(users, most / 2)
    assert (drawn < users).all()
    assert len(set(drawn.diff().tolist())) <= 1


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """One whose catalogue has items that training never met."""
    recommender = make_recommender(tmp_path_factory.mktemp("toy"))
    recommender.run.catalogue.id_row_N[::5] = -1
    return recommender


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("share", [None, 0.0, 0.3])
def test_recommendations_and_ranks_agree_on_new_items(
    recommender, share: float | None, exclude_seen: bool
) -> None:
    run = recommender.run
    ours = Recommender(run, share, exclude_seen)
    new = are_new(run.catalogue)
    users = ours.everyone
    answers = ours.answers(users, PLACES)
    found = new[torch.from_numpy(answers.item_UK)].float().mean().item()
    assert found == pytest.approx(share_of_new(new, share), abs=0.02)
    # Asked for the item that `answers` has in place 7, the rank is 7: the same scores.
    indptr = run.data.event_indptr.astype(np.int64)
    asked = EvaluationCases(users, indptr[:-1], indptr[1:], answers.item_UK[:, 6])
    rank = model_ranks(
        run.model, run.catalogue, run.events, asked, exclude_seen,
        new_share=share_of_new(new, share),
    )  # fmt: skip
    assert rank.tolist() == [7] * len(users)


def test_explanations_leave_the_offset_out(recommender) -> None:
    run = recommender.run
    low, high = (Recommender(run, share).answers(np.array([3]), ITEMS) for share in (0.1, 0.9))
    there = np.isfinite(low.score_UK[0])
    weights = [
        dict(zip(one.item_UK[0][there].tolist(), one.weight_UKS[0][there].tolist(), strict=True))
        for one in (low, high)
    ]
    assert weights[0].keys() == weights[1].keys()
    for item, weight in weights[0].items():
        assert weight == pytest.approx(weights[1][item], abs=1e-5)


def test_ranks_of_an_old_catalogue_are_what_they_were(recommender) -> None:
    run = recommender.run
    old = Catalogue(
        torch.arange(ITEMS) % len(run.model.items.id_table.weight),
        run.catalogue.features,
        run.catalogue.present,
    )
    asked = evaluation_cases(run.data, TEST)
    plain, shared = (
        model_ranks(run.model, old, run.events, asked, new_share=share) for share in (None, 0.5)
    )
    assert plain.tolist() == shared.tolist()
