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


def _biased(users: int, items: int, most: int, spread: float = 3.0) -> Seen:
    """As `_seen`, each pair once, with a bias that may take it to either end."""
    seen = _seen(users, items, most)
    row, item = torch.unique(torch.stack([seen.row_P, seen.item_P]), dim=1).contiguous()
    generator = torch.Generator().manual_seed(2)
    return Seen(row, item, spread * torch.randn(len(row), generator=generator))


KINDS = {"hides": _seen, "biases": _biased, "keeps": lambda *_, **__: None}


def _scores(query: torch.Tensor, target: torch.Tensor, seen: Seen | None) -> torch.Tensor:
    """Scores of all users and items; of what is hidden, minus infinity."""
    score = query.double() @ target.double().T
    if seen is not None:
        for at, pair in enumerate(zip(seen.row_P.tolist(), seen.item_P.tolist(), strict=True)):
            score[pair] += float("-inf") if seen.bias_P is None else seen.bias_P[at].item()
    return score


def _brute_force(
    query: torch.Tensor,
    target: torch.Tensor,
    k: int,
    seen: Seen | None,
    hidden: torch.Tensor | None = None,
) -> list[list[int]]:
    """Items of each user, by sorting all of them."""
    score_UN = _scores(query, target, seen)
    if hidden is not None:
        score_UN[:, hidden] = float("-inf")
    found = []
    for scores in score_UN.tolist():
        left = [(-score, item) for item, score in enumerate(scores) if score > float("-inf")]
        found.append([item for _, item in sorted(left)[:k]])
    return found


def _lists(top: Top) -> list[list[int]]:
    return [
        items[there].tolist()
        for items, there in zip(top.item_UK, top.score_UK.isfinite(), strict=True)
    ]


@pytest.mark.parametrize("hidden", [None, torch.tensor([0, 5, 40, 100])], ids=["all", "some"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scores", "items"), [(2**20, 2**14), (64, 16), (1, 7)])
def test_exact_is_brute_force_however_it_is_cut(
    monkeypatch, kind: str, scores: int, items: int, hidden: torch.Tensor | None
) -> None:
    monkeypatch.setattr(top_k, "SCORES_AT_ONCE", {"cpu": scores})
    monkeypatch.setattr(top_k, "CHUNK_ITEMS", items)
    query, target = _vectors(23, 101)
    seen = KINDS[kind](23, 101, most=30)
    top = ExactIndex(target, hidden).top_k(query, 10, seen)
    assert _lists(top) == _brute_force(query, target, 10, seen, hidden)
    expected = _scores(query, target, seen).gather(1, top.item_UK)
    torch.testing.assert_close(top.score_UK, expected.float())
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
@pytest.mark.parametrize("kind", KINDS)
def test_faiss_reaches_the_recall_it_aims_for_and_tells_it(kind: str) -> None:
    query, target = _vectors(200, 5000)
    seen = KINDS[kind](200, 5000, most=40)
    truth = ExactIndex(target).top_k(query, 10, seen)
    index = FaissIndex(target)
    assert index.lists > 20
    told = index.aim(query, 10, seen, truth)
    found = index.top_k(query, 10, seen)
    assert told >= RECALL_AIM
    assert recall(found, truth) == told
    assert found.item_UK.shape == truth.item_UK.shape
    assert (found.score_UK.diff(dim=1) <= 0).all()
    # Scores are those of the targets, not of the half-precision copies; and of no hidden item.
    expected = _scores(query, target, seen).gather(1, found.item_UK)
    torch.testing.assert_close(found.score_UK, expected.float())
    assert all(len(set(items)) == 10 for items in _lists(found))


@needs_faiss
def test_faiss_finds_every_biased_item_that_belongs_to_the_best() -> None:
    """Those are scored one by one, wherever the index would look."""
    query, target = _vectors(50, 5000)
    seen = _biased(50, 5000, most=20, spread=8.0)
    index = FaissIndex(target)
    index._index.nprobe = 1
    found = _lists(index.top_k(query, 10, seen))
    pairs = set(zip(seen.row_P.tolist(), seen.item_P.tolist(), strict=True))
    best = _brute_force(query, target, 10, seen)
    theirs = [{item for item in items if (row, item) in pairs} for row, items in enumerate(best)]
    assert sum(map(len, theirs)) > 100
    assert all(items <= set(ours) for items, ours in zip(theirs, found, strict=True))


@needs_faiss
@pytest.mark.parametrize("bias", [None, 50.0])
def test_faiss_finds_no_hidden_item_though_it_was_seen(bias: float | None) -> None:
    query, target = _vectors(30, 2000)
    best = (query @ target.T).argmax(1)
    seen = Seen(torch.arange(30), best, None if bias is None else torch.full((30,), bias))
    hidden = best.unique()
    index = FaissIndex(target, hidden)
    truth = ExactIndex(target, hidden).top_k(query, 10, seen)
    assert _lists(truth) == _brute_force(query, target, 10, seen, hidden)
    assert index.aim(query, 10, seen, truth) >= RECALL_AIM
    found = index.top_k(query, 10, seen)
    assert found.score_UK.isfinite().all()
    assert not torch.isin(found.item_UK, hidden).any()


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
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("items", [1, 5, 60])
def test_faiss_is_exact_on_a_small_catalogue(items: int, kind: str) -> None:
    query, target = _vectors(4, items)
    seen = KINDS[kind](4, items, most=3)
    truth = ExactIndex(target).top_k(query, 10, seen)
    index = FaissIndex(target)
    assert index.aim(query, 10, seen, truth) == (1 if truth.score_UK.isfinite().any() else 0)
    assert _lists(index.top_k(query, 10, seen)) == _lists(truth)
    assert _lists(truth) == _brute_force(query, target, 10, seen)


@needs_faiss
def test_faiss_has_a_user_who_has_seen_all_and_one_who_has_seen_nothing() -> None:
    query, target = _vectors(3, 50)
    seen = Seen(torch.tensor([1] * 50), torch.arange(50), torch.linspace(-4, 4, 50))
    found = FaissIndex(target).top_k(query, 10, seen)
    assert _lists(found) == _brute_force(query, target, 10, seen)
    everything = FaissIndex(target).top_k(query, 99, seen)
    assert _lists(everything) == _brute_force(query, target, 99, seen)


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
