"""Explanations: shares that sum to 1, say what differs between items, and name what there is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cammsr_cli.model.cammsr import Cammsr, ItemTables
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.ranking.explain import modality_weights, put_forward
from cammsr_cli.ranking.full_ranking import item_tables

N, D = 20, 16


def _model(**changed) -> Cammsr:
    torch.manual_seed(0)
    return Cammsr(N, {"text": 4, "image": 6}, 2, **{"width": D, "fused": False, **changed}).eval()


def _tables(model: Cammsr, has_image: torch.Tensor | None = None) -> ItemTables:
    torch.manual_seed(1)
    ones = torch.ones(N, dtype=torch.bool)
    present = {"text": ones, "image": torch.rand(N) < 0.7 if has_image is None else has_image}
    features = {"text": torch.randn(N, 4), "image": torch.randn(N, 6)}
    return item_tables(model, Catalogue(torch.arange(N), features, present))


def _weights(model: Cammsr, query_X: torch.Tensor, tables: ItemTables, items: torch.Tensor):
    """Weights of one user, stream by stream."""
    weight_UBS = modality_weights(
        model, query_X[None], tables, tables.target_NV.mean(0), items[None]
    )
    assert weight_UBS.shape == (1, len(items), len(model.streams))
    return {name: weight_UBS[0, :, s] for s, name in enumerate(model.streams)}


@pytest.mark.parametrize(
    "changed", [{}, {"fused": True}, {"item_weights": False}, {"use_id": False}]
)
def test_weights_are_shares_that_sum_to_one(changed) -> None:
    model = _model(**changed)
    tables = _tables(model)
    query = torch.randn(tables.target_NV.shape[1])
    weights = _weights(model, query, tables, torch.arange(N))
    assert list(weights) == list(model.streams)
    stacked = torch.stack(list(weights.values()))
    assert (stacked >= 0).all()
    torch.testing.assert_close(stacked.sum(0), torch.ones(N))
    assert stacked.std(1).max() > 0.01  # and differ from item to item


@pytest.mark.parametrize("fused", [False, True])
def test_a_constant_added_to_all_items_contributions_changes_nothing(fused: bool) -> None:
    model = _model(fused=fused)
    tables = _tables(model)
    target = tables.target_NV
    query, items = torch.randn(target.shape[1]), torch.tensor([3, 0, 11])
    moved = dataclasses.replace(tables, target_NV=target + torch.randn(target.shape[1]))
    before = _weights(model, query, tables, items)
    after = _weights(model, query, moved, items)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-4)


def test_a_modality_the_item_lacks_has_no_share_where_anything_lifts_it() -> None:
    model = _model()
    tables = _tables(model, torch.arange(N) != 7)
    shares = []
    for _ in range(20):
        query = torch.randn(tables.target_NV.shape[1])
        weights = _weights(model, query, tables, torch.tensor([7]))
        shares.append([w.item() for w in weights.values()])
    assert all(image == 0 for _, _, image in shares)
    explained = [share for share in shares if share != [0.5, 0.5, 0.0]]
    assert len(explained) > 10


def _planted(
    contributions: list[list[float]], present: list[list[int]] | None = None
) -> ItemTables:
    """Items whose streams contribute this much to a query of ones."""
    target = _spread(contributions)
    n, s = len(contributions), len(contributions[0])
    there = torch.ones(n, s, dtype=torch.bool) if present is None else torch.tensor(present).bool()
    return ItemTables(target, target, there / s, torch.zeros(s, n, 0), there, there)


def _spread(value: list[list[float]]) -> torch.Tensor:
    """Each stream's value as a vector with that sum, the streams side by side."""
    first = torch.zeros(len(value), len(value[0]), D)
    first[:, :, 3] = torch.tensor(value)
    return first.flatten(1)


ONES = torch.ones(3 * D)


def test_weights_by_hand() -> None:
    # id, text, image; the average of the two items is 0.
    tables = _planted([[1.0, 2.0, 5.0], [-1.0, -2.0, -5.0]])
    weights = _weights(_model(), ONES, tables, torch.tensor([0, 1]))
    assert [w[0].item() for w in weights.values()] == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    # Nothing lifts the second one: all alike.
    assert [w[1].item() for w in weights.values()] == pytest.approx([1 / 3] * 3)


def test_what_is_missing_counts_as_nought_though_lacking_it_lifts() -> None:
    contributions = [[1.0, 3.0, 0.0], [-1.0, -3.0, -8.0]]
    there = _weights(_model(), ONES, _planted(contributions), torch.tensor([0]))
    assert there["image"].item() > 0
    lacking = _planted(contributions, [[1, 1, 0], [1, 1, 1]])
    weights = _weights(_model(), ONES, lacking, torch.tensor([0]))
    assert [w.item() for w in weights.values()] == pytest.approx([1 / 4, 3 / 4, 0])


def test_where_nothing_lifts_an_item_the_streams_it_has_are_alike() -> None:
    lacking = _planted([[-1.0, -3.0, -4.0], [1.0, 3.0, 4.0]], [[1, 1, 0], [1, 1, 1]])
    weights = _weights(_model(), ONES, lacking, torch.tensor([0]))
    assert [w.item() for w in weights.values()] == pytest.approx([1 / 2, 1 / 2, 0])


def test_what_both_branches_have_of_ids_is_the_id_s() -> None:
    # id alone; id, text and image together.
    parts = _spread([[1.0, 5.0, 2.0, 2.0], [-1.0, -5.0, -2.0, -2.0]])
    tables = dataclasses.replace(_planted([[0.0] * 3] * 2), target_NV=parts)
    weights = _weights(_model(fused=True), torch.ones(4 * D), tables, torch.tensor([0]))
    assert [w.item() for w in weights.values()] == pytest.approx([6 / 10, 2 / 10, 2 / 10])


def test_what_pulls_an_item_down_counts_as_nought() -> None:
    tables = _planted([[1.0, -5.0, 3.0], [-1.0, 5.0, -3.0]])
    weights = _weights(_model(), ONES, tables, torch.tensor([0]))
    assert [w.item() for w in weights.values()] == pytest.approx([1 / 4, 0, 3 / 4])


def test_items_all_alike_are_explained_evenly() -> None:
    weights = _weights(_model(), ONES, _planted([[1.0, 2.0, 3.0]] * N), torch.tensor([2]))
    assert [w.item() for w in weights.values()] == pytest.approx([1 / 3] * 3)


def test_the_summands_make_the_score() -> None:
    for fused in (False, True):
        model = _model(fused=fused)
        tables = _tables(model)
        query = torch.randn(tables.target_NV.shape[1])
        parts = model.contributions(query, tables.target_NV)
        assert parts.shape == (N, 3)
        torch.testing.assert_close(parts.sum(1), tables.target_NV @ query)


def test_users_are_explained_each_by_their_own_query() -> None:
    model = _model()
    tables = _tables(model)
    query_UX = torch.randn(3, tables.target_NV.shape[1])
    items = torch.tensor([[1, 2], [2, 1], [5, 0]])
    together = modality_weights(model, query_UX, tables, tables.target_NV.mean(0), items)
    for u in range(3):
        alone = torch.stack(list(_weights(model, query_UX[u], tables, items[u]).values()), dim=1)
        torch.testing.assert_close(together[u], alone)


def _forward(weights: list[float], present: list[bool]) -> int:
    return int(put_forward(torch.tensor([[weights]]), torch.tensor([[present]]))[0, 0])


def test_put_forward_names_the_heaviest_content_there_is() -> None:
    weights = [0.9, 0.02, 0.08]  # id, text, image
    assert _forward(weights, [True, True]) == 1
    assert _forward(weights, [True, False]) == 0
    assert _forward(weights, [False, False]) == -1
    assert _forward([0.02, 0.98], [True, True]) == 1  # a model without ids
    none = put_forward(torch.ones(2, 3, 1), torch.zeros(2, 3, 0, dtype=torch.bool))
    assert none.tolist() == [[-1] * 3] * 2  # a model without content


@given(
    weight=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
    has=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_put_forward_never_names_the_id_nor_what_is_missing(weight, has) -> None:
    chosen = _forward(weight, has)
    if chosen < 0:
        assert not any(has)
    else:
        assert has[chosen]
        assert weight[1 + chosen] == max(
            w for w, there in zip(weight[1:], has, strict=True) if there
        )
