"""Explanations: shares that sum to 1, say what differs between items, and name what there is."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cammsr_cli.core.camoe import Fused
from cammsr_cli.core.model import Cammsr, Catalogue, ItemTables
from cammsr_cli.ranking.explain import modality_weights, put_forward, stream_shares
from cammsr_cli.ranking.full_ranking import item_tables

N = 20


def _model(**changed) -> Cammsr:
    torch.manual_seed(0)
    return Cammsr(N, {"text": 4, "image": 6}, 2, **{"width": 16, **changed}).eval()


def _tables(model: Cammsr) -> ItemTables:
    torch.manual_seed(1)
    ones = torch.ones(N, dtype=torch.bool)
    present = {"text": ones, "image": torch.rand(N) < 0.7}
    features = {"text": torch.randn(N, 4), "image": torch.randn(N, 6)}
    return item_tables(model, Catalogue(torch.arange(N), features, present))


def _weights(model: Cammsr, query_V: torch.Tensor, tables: ItemTables, items: torch.Tensor):
    """Weights of one user, stream by stream."""
    average_V = tables.target_NV.mean(0)
    weight_UBS = modality_weights(model, query_V[None], tables, average_V, items[None])
    assert weight_UBS.shape == (1, len(items), len(model.streams))
    return {name: weight_UBS[0, :, s] for s, name in enumerate(model.streams)}


@pytest.mark.parametrize("changed", [{}, {"synergies": False}, {"use_id": False}])
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


def test_a_constant_added_to_all_items_contributions_changes_nothing() -> None:
    model = _model()
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
    has = torch.ones(N, dtype=torch.bool)
    has[7] = False
    torch.manual_seed(1)
    features = {"text": torch.randn(N, 4), "image": torch.randn(N, 6)}
    present = {"text": torch.ones(N, dtype=torch.bool), "image": has}
    tables = item_tables(model, Catalogue(torch.arange(N), features, present))
    shares = []
    for _ in range(20):
        query = torch.randn(tables.target_NV.shape[1])
        weights = _weights(model, query, tables, torch.tensor([7]))
        shares.append([w.item() for w in weights.values()])
    explained = [share for share in shares if share != [pytest.approx(1 / 3)] * 3]
    assert len(explained) > 10
    assert all(image == 0 for _, _, image in explained)


def test_what_is_missing_counts_as_nought_though_lacking_it_lifts() -> None:
    model = _model()
    # id, text, image, id+text, id+image, text+image; the first item has no image.
    target = _by_block(model, [[1, 3, 0, 0, 0, 0], [-1, -3, -8, 0, -4, -4]])
    present = torch.tensor([[1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()
    query = torch.ones(target.shape[1])
    there = _weights(model, query, _planted(model, target), torch.tensor([0]))
    assert there["image"].item() > 0
    weights = _weights(model, query, _planted(model, target, present), torch.tensor([0]))
    assert [w.item() for w in weights.values()] == pytest.approx([1 / 4, 3 / 4, 0])


def _by_block(model: Cammsr, contributions: list[list[float]]) -> torch.Tensor:
    """Targets whose contributions [n, K] to a query of ones are those given."""
    rows = []
    for row in contributions:
        first = []
        for value, width in zip(row, model.block_widths, strict=True):
            first += [value] + [0.0] * (width - 1)
        rows.append(first + [0.0] * (model.readers[-1].stop - len(first)))
    return torch.tensor(rows)


def _planted(
    model: Cammsr, target_NV: torch.Tensor, present_NK: torch.Tensor | None = None
) -> ItemTables:
    """Tables of items with these targets, which have all representations if not told."""
    n, k, s = len(target_NV), len(model.representation_names), len(model.streams)
    there = torch.ones(n, k, dtype=torch.bool) if present_NK is None else present_NK
    fused = Fused(torch.zeros(n, k, 16), there, there.float(), torch.zeros(n, 2), None)
    return ItemTables(torch.zeros(n, 16), target_NV, fused, there[:, :s])


def test_weights_by_hand() -> None:
    model = _model()
    # id, text, image, id+text, id+image, text+image; the average of the two items is 0.
    lift = [1.0, 2.0, 0.0, 4.0, 0.0, 2.0]
    target = _by_block(model, [lift, [-value for value in lift]])
    query = torch.ones(target.shape[1])
    weights = _weights(model, query, _planted(model, target), torch.tensor([0, 1]))
    # id 1 + 4/2 = 3, text 2 + 4/2 + 2/2 = 5, image 2/2 = 1, of 9.
    assert [weights[name][0].item() for name in ("id", "text", "image")] == pytest.approx(
        [3 / 9, 5 / 9, 1 / 9]
    )
    # Nothing lifts the second one: all alike.
    assert [weights[name][1].item() for name in ("id", "text", "image")] == pytest.approx(
        [1 / 3] * 3
    )


def test_what_both_readers_find_in_an_id_is_the_id_s() -> None:
    model = _model(synergies=False)
    target = _by_block(model, [[1.0, 2.0, 0.0], [-1.0, -2.0, 0.0]])
    target[:, -1] = torch.tensor([3.0, -3.0])  # of the ids' own reader
    query = torch.ones(target.shape[1])
    weights = _weights(model, query, _planted(model, target), torch.tensor([0]))
    assert [w.item() for w in weights.values()] == pytest.approx([4 / 6, 2 / 6, 0])


def test_what_pulls_an_item_down_counts_as_nought() -> None:
    model = _model(synergies=False)
    target = _by_block(model, [[1.0, -5.0, 3.0], [-1.0, 5.0, -3.0]])
    query = torch.ones(target.shape[1])
    weights = _weights(model, query, _planted(model, target), torch.tensor([0]))
    assert [w.item() for w in weights.values()] == pytest.approx([1 / 4, 0, 3 / 4])


def test_items_all_alike_are_explained_evenly() -> None:
    model = _model()
    target = torch.ones(N, model.readers[-1].stop)
    query = torch.ones(target.shape[1])
    weights = _weights(model, query, _planted(model, target), torch.tensor([2]))
    assert [w.item() for w in weights.values()] == pytest.approx([1 / 3] * 3)


def test_each_share_is_given_away_whole() -> None:
    shares = stream_shares(_model())
    assert shares.tolist() == [
        [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5],
    ]  # fmt: skip
    alone = Cammsr(N, {}, 0, width=16)
    assert stream_shares(alone).tolist() == [[1]]


def test_users_are_explained_each_by_their_own_query() -> None:
    model = _model()
    tables = _tables(model)
    average_V = tables.target_NV.mean(0)
    query_UV = torch.randn(3, tables.target_NV.shape[1])
    items = torch.tensor([[1, 2], [2, 1], [5, 0]])
    together = modality_weights(model, query_UV, tables, average_V, items)
    for u in range(3):
        alone = torch.stack(list(_weights(model, query_UV[u], tables, items[u]).values()), dim=1)
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
