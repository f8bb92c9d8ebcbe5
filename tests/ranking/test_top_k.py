"""The best k items: exact against a brute-force sort, approximate against exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cammsr_cli.errors import UsageError
from cammsr_cli.ranking import top_k
from cammsr_cli.ranking.seen import Seen
from cammsr_cli.ranking.top_k import (
    FAISS_FROM_ITEMS,
    FAISS_FROM_USERS,
    RECALL_AIM,
    ExactIndex,
    FaissIndex,
    Top,
    faiss_is_installed,
    recall,
    require_faiss,
    wants_faiss,
)

CPU = torch.device("cpu")
needs_faiss = pytest.mark.skipif(not faiss_is_installed(), reason="the extra faiss is not there")


def _vectors(users: int, items: int, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(20, width, generator=generator)
    kind = torch.randint(20, (items,), generator=generator)
    target = centre[kind] + 0.3 * torch.randn(items, width, generator=generator)
    return torch.randn(users, width, generator=generator), target


def _seen(users: int, items: int, most: int) -> Seen:
    """Some items a user, some of them twice."""
    generator = np.random.default_rng(1)
    pairs = [
        (row, int(item))
        for row in range(users)
        for item in generator.integers(0, items, generator.integers(0, most + 1))
    ]
    row, item = torch.tensor(pairs).T.contiguous()
    return Seen(row, item)


def _brute_force(query: torch.Tensor, target: torch.Tensor, k: int, seen: Seen | None):
    """Items and scores of each user, by sorting all of them."""
    found = []
    for row, scores in enumerate(query.double() @ target.double().T):
        hidden = set() if seen is None else set(seen.item_P[seen.row_P == row].tolist())
        left = [(-float(score), item) for item, score in enumerate(scores) if item not in hidden]
        found.append([item for _, item in sorted(left)[:k]])
    return found


def _lists(top: Top) -> list[list[int]]:
    return [
        items[there].tolist()
        for items, there in zip(top.item_UK, top.score_UK.isfinite(), strict=True)
    ]


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize(("scores", "items"), [(2**20, 2**14), (64, 16), (1, 7)])
def test_exact_is_brute_force_however_it_is_cut(
    monkeypatch, hides, scores: int, items: int
) -> None:
    monkeypatch.setattr(top_k, "SCORES_AT_ONCE", {"cpu": scores})
    monkeypatch.setattr(top_k, "CHUNK_ITEMS", items)
    query, target = _vectors(23, 101)
    seen = _seen(23, 101, most=30) if hides else None
    top = ExactIndex(target).top_k(query, 10, seen)
    assert _lists(top) == _brute_force(query, target, 10, seen)
    torch.testing.assert_close(top.score_UK, (query @ target.T).gather(1, top.item_UK))
    assert (top.score_UK.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("chunk", [100, 3])
def test_a_user_who_has_seen_much_gets_fewer(monkeypatch, chunk: int) -> None:
    monkeypatch.setattr(top_k, "CHUNK_ITEMS", chunk)
    query, target = _vectors(2, 5)
    seen = Seen(torch.tensor([0, 0, 0, 0, 1]), torch.tensor([0, 1, 3, 4, 2]))
    top = ExactIndex(target).top_k(query, 50, seen)
    assert top.item_UK.shape == (2, 5)  # there are no more items than that
    lists = _lists(top)
    assert lists[0] == [2]
    assert sorted(lists[1]) == [0, 1, 3, 4]


def test_recall_by_hand() -> None:
    def top(items: list[list[int]], scores: list[list[float]]) -> Top:
        return Top(torch.tensor(items), torch.tensor(scores))

    truth = top([[1, 2, 3], [4, 5, 0]], [[3.0, 2.0, 1.0], [2.0, 1.0, float("-inf")]])
    assert recall(truth, truth) == 1
    found = top([[3, 9, 1], [5, 0, 0]], [[3.0, 2.0, 1.0], [1.0] + [float("-inf")] * 2])
    # 2 of 3 and 1 of 2; what is no item at all neither counts nor is found.
    assert recall(found, truth) == pytest.approx(3 / 5)
    nothing = top([[0]], [[float("-inf")]])
    assert recall(nothing, nothing) == 0


@needs_faiss
@pytest.mark.parametrize("hides", [True, False])
def test_faiss_reaches_the_recall_it_aims_for_and_tells_it(hides: bool) -> None:
    query, target = _vectors(200, 5000)
    seen = _seen(200, 5000, most=40) if hides else None
    truth = ExactIndex(target).top_k(query, 10, seen)
    index = FaissIndex(target)
    assert index.lists > 20
    told = index.aim(query, 10, seen, truth)
    found = index.top_k(query, 10, seen)
    assert told >= RECALL_AIM
    assert recall(found, truth) == told
    assert found.item_UK.shape == truth.item_UK.shape
    assert (found.score_UK.diff(dim=1) <= 0).all()
    # Scores are those of the targets, not of the half-precision copies.
    torch.testing.assert_close(found.score_UK, (query @ target.T).gather(1, found.item_UK))
    if seen is not None:
        hidden = set((seen.row_P * 5000 + seen.item_P).tolist())
        rows = torch.arange(200)[:, None]
        assert not hidden & set((rows * 5000 + found.item_UK).flatten().tolist())


@needs_faiss
def test_faiss_asks_again_for_users_who_have_seen_the_nearest() -> None:
    query, target = _vectors(6, 3000)
    nearest = (query @ target.T).argsort(dim=1, descending=True)
    counts = torch.tensor([0, 20, 45, 300, 0, 2995])  # of the best, seen
    seen = Seen(
        torch.repeat_interleave(counts),
        torch.cat([row[:count] for row, count in zip(nearest, counts.tolist(), strict=True)]),
    )
    truth = ExactIndex(target).top_k(query, 10, seen)
    index = FaissIndex(target)
    index.aim(query, 10, seen, truth)
    found = index.top_k(query, 10, seen)
    assert truth.score_UK.isfinite().sum(1).tolist() == [10, 10, 10, 10, 10, 5]
    assert recall(found, truth) >= RECALL_AIM
    assert found.score_UK.isfinite().sum(1).tolist() == [10, 10, 10, 10, 10, 5]


@needs_faiss
def test_faiss_visits_no_more_groups_than_it_must() -> None:
    query, target = _vectors(100, 5000)
    index = FaissIndex(target)
    index.aim(query, 1, None, ExactIndex(target).top_k(query, 1, None))
    assert index.visited < index.lists


@needs_faiss
@pytest.mark.parametrize("items", [1, 5, 60])
def test_faiss_is_exact_on_a_small_catalogue(items: int) -> None:
    query, target = _vectors(4, items)
    seen = _seen(4, items, most=3)
    truth = ExactIndex(target).top_k(query, 10, seen)
    index = FaissIndex(target)
    assert index.aim(query, 10, seen, truth) == (1 if truth.score_UK.isfinite().any() else 0)
    assert _lists(index.top_k(query, 10, seen)) == _lists(truth)


def test_faiss_that_is_not_installed_is_asked_for_by_its_extra(monkeypatch) -> None:
    monkeypatch.setattr(top_k, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="faiss, which is not installed") as caught:
        require_faiss()
    assert "pip install 'cammsr[faiss]'" in (caught.value.hint or "")
    assert not wants_faiss("auto", FAISS_FROM_ITEMS, FAISS_FROM_USERS, CPU)


def test_auto_takes_faiss_only_where_it_pays(monkeypatch) -> None:
    monkeypatch.setattr(top_k, "find_spec", lambda name: object())
    assert wants_faiss("auto", FAISS_FROM_ITEMS, FAISS_FROM_USERS, CPU)
    assert not wants_faiss("auto", FAISS_FROM_ITEMS - 1, FAISS_FROM_USERS, CPU)
    assert not wants_faiss("auto", FAISS_FROM_ITEMS, FAISS_FROM_USERS - 1, CPU)
    assert not wants_faiss("auto", FAISS_FROM_ITEMS, FAISS_FROM_USERS, torch.device("cuda"))
    assert not wants_faiss("exact", 10**9, 10**9, CPU)
    assert wants_faiss("faiss", 3, 1, CPU)
