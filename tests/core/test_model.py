"""The whole model: what is missing stays without influence, every part comes off, scores add up."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from cammsr_cli.config import PRESETS, ModelConfig
from cammsr_cli.core import model as model_module
from cammsr_cli.core.model import Cammsr, Catalogue, FeatureProjection, ItemTables
from cammsr_cli.core.windows import Events, Window, cut

N, DIMS, C = 12, {"text": 5, "image": 7}, 3
ALL = torch.ones(N, dtype=torch.bool)


def _catalogue(modalities=("text", "image"), seed: int = 0) -> Catalogue:
    """12 items: 0-3 have all, 4 no text, 5 no image, 6 no id, 7 only text, 8 nothing at all."""
    generator = torch.Generator().manual_seed(seed)
    present = {m: torch.ones(N, dtype=torch.bool) for m in modalities}
    row = torch.arange(N)
    row[[6, 7, 8]] = -1
    missing = {"text": [4, 8], "image": [5, 7, 8]}
    for name in modalities:
        present[name][missing[name]] = False
    features = {m: torch.randn(N, DIMS[m], generator=generator) for m in modalities}
    return Catalogue(row, features, present)


def _model(**changed) -> Cammsr:
    """With random values where training starts from zero, in evaluation mode."""
    torch.manual_seed(0)
    modalities = changed.pop("modalities", ("text", "image"))
    categories = changed.pop("categories", C)
    sizes = {"width": 16, "layers": 1, "heads": 2, "length": 6, "dropout": 0.0, **changed}
    model = Cammsr(N, {m: DIMS[m] for m in modalities}, categories, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model.eval()


def _tables(model: Cammsr, catalogue: Catalogue) -> ItemTables:
    return model.item_tables(*model.item_streams(catalogue))


def _window() -> Window:
    events = Events(torch.tensor([0, 1, 4, 8, 5, 6, 2, 7, 3]), torch.arange(9) * 77)
    return cut(events, torch.tensor([0, 5]), torch.tensor([5, 9]))


def _queries(model: Cammsr, tables: ItemTables) -> torch.Tensor:
    return model.queries(model.user_states(tables, _window()))


PARTS = {
    "whole": {},
    "no id": {"use_id": False},
    "no guidance": {"guidance": False},
    "no categories": {"categories": 0},
    "no experts": {"experts": 0},
    "one expert": {"experts": 1},
    "no synergies": {"synergies": False},
    "no user weights": {"user_weights": False},
    "no time": {"time": False},
    "no distances": {"distances": False},
    "layernorm": {"norm": "layernorm"},
    "id dropout": {"id_dropout": 0.5},
    "one modality": {"modalities": ("image",)},
    "one modality, no id": {"modalities": ("text",), "use_id": False},
    "id alone": {"modalities": ()},
}


@pytest.mark.parametrize("changed", PARTS.values(), ids=PARTS.keys())
def test_each_part_comes_off_and_every_parameter_left_learns(changed) -> None:
    model = _model(**changed).train()
    catalogue = _catalogue(model.modalities)
    tables = _tables(model, catalogue)
    score = _queries(model, tables) @ tables.target_NV.T
    loss = (
        score.logsumexp(-1).sum() + score.square().sum() + tables.fused.category_NC.square().sum()
    )
    assert loss.isfinite()
    loss.backward()
    alone = len(model.streams) == 1
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # One representation has nothing to be weighed against: these cannot learn, nor matter.
        idle = ["fusion", "unguided", "embedding_CD", "user_weights"] if alone else []
        idle += ["gate_"] if changed.get("experts") == 1 else []
        if not any(part in name for part in idle):
            assert parameter.grad.abs().max() > 0, name


def test_parts_switched_off_leave_no_parameters_behind() -> None:
    def names(**changed) -> str:
        return " ".join(dict(_model(**changed).named_parameters()))

    assert "heads" not in names(guidance=False)
    assert "heads" not in names(categories=0)
    assert "experts" not in names(experts=0)
    assert ".synergies." not in names(synergies=False)
    assert "user_weights" not in names(user_weights=False)
    assert "gap" not in names(time=False)
    assert "distance" not in names(distances=False)
    assert "id_table" not in names(use_id=False)
    assert "norm.alpha" not in names(norm="layernorm")
    assert "camoe" not in names(modalities=())


def test_a_model_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one stream"):
        Cammsr(N, {}, C, use_id=False)


def test_sasrec_scores_by_the_inner_product_of_state_and_id_embedding() -> None:
    given = ModelConfig(**PRESETS["sasrec"]["model"], width=16, heads=2, length=6, dropout=0.0)
    torch.manual_seed(0)
    model = Cammsr(N, {}, C, **given.model_dump(exclude={"modalities"})).eval()
    catalogue = Catalogue(torch.arange(N), {}, {})
    tables = _tables(model, catalogue)
    window = _window()
    assert model.id_table is not None
    state = model.sequence(model.id_table.weight[window.item_BL], window.gap_BL)
    ours = _queries(model, tables) @ tables.target_NV.T
    torch.testing.assert_close(ours, state @ model.id_table.weight.T)
    assert model.camoe is None
    assert model.representation_names == ["id"]


@pytest.mark.parametrize(
    "changed", [PARTS[k] for k in ("whole", "no id", "no synergies", "id alone", "no user weights")]
)
def test_contributions_sum_to_the_score(changed) -> None:
    model = _model(**changed)
    tables = _tables(model, _catalogue(model.modalities))
    query = _queries(model, tables)[0, :1].expand(N, -1)
    parts = model.contributions(query, tables.target_NV)
    assert parts.shape == (N, len(model.representation_names))
    torch.testing.assert_close(parts.sum(1), (query * tables.target_NV).sum(1))


def test_score_is_the_weighted_sum_of_the_design() -> None:
    """score(u, i) = sum_k a_k(u) w_ik <Q_k h_u, P_k R_ik> + <g_u, id_i>, block by block."""
    model = _model()
    assert model.score is not None
    assert model.score.user_weights is not None
    tables = _tables(model, _catalogue())
    h, g = torch.randn(16), torch.randn(16)
    a = model.score.user_weights(h).softmax(-1) * 6
    fused = tables.fused
    parts = model.contributions(model.queries(torch.cat([h, g])).expand(N, -1), tables.target_NV)
    parts[:, 0] -= model.item_streams(_catalogue()).id_ND @ g
    bounds = [0, *torch.tensor(model.block_widths).cumsum(0).tolist()]
    for k, (first, last) in enumerate(pairwise(bounds)):
        q = model.score.query.weight[first:last] @ h
        p = model.score.targets_K[k](fused.representation_NKD[:, k])
        there = fused.present_NK.sum(1)
        torch.testing.assert_close(parts[:, k], a[k] * there * fused.weight_NK[:, k] * (p @ q))


def test_blocks_of_the_score() -> None:
    model = _model(width=64)
    assert model.representation_names == [
        "id", "text", "image", "id+text", "id+image", "text+image",
    ]  # fmt: skip
    assert model.block_widths == [64, 32, 32, 8, 8, 8]
    tables = _tables(model, _catalogue())
    assert tables.target_NV.shape == (N, 152 + 64)
    assert _queries(model, tables).shape[-1] == 152 + 64
    assert model.readers == [slice(0, 152), slice(152, 216)]
    alone = _model(width=64, id_reader=False)
    assert _tables(alone, _catalogue()).target_NV.shape == (N, 152)
    assert alone.readers == [slice(0, 152)]


def test_the_ids_reader_counts_as_it_is_weighed() -> None:
    model = _model()
    tables = _tables(model, _catalogue())
    query = _queries(model, tables)
    fused, ids = (query[..., at] @ tables.target_NV[:, at].T for at in model.readers)
    assert model.id_weight is not None
    model.id_weight.fill_(1.5)
    torch.testing.assert_close(query @ _tables(model, _catalogue()).target_NV.T, fused + 1.5 * ids)


def test_what_is_stored_for_a_missing_modality_never_matters() -> None:
    model = _model()
    clean, dirty = _catalogue(), _catalogue()
    for name, present in dirty.present.items():
        dirty.features[name][~present] = 1e6 * torch.randn(int((~present).sum()), DIMS[name])
    model.measure(clean)
    statistics = {
        k: v.clone() for k, v in model.state_dict().items() if "mean" in k or "scale" in k
    }
    model.measure(dirty)
    for name, value in statistics.items():
        assert torch.equal(model.state_dict()[name], value), name
    a, b = _tables(model, clean), _tables(model, dirty)
    assert torch.equal(a.input_NX, b.input_NX)
    assert torch.equal(a.target_NV, b.target_NV)
    assert torch.equal(a.fused.category_NC, b.fused.category_NC)
    assert torch.equal(a.fused.weight_NK, b.fused.weight_NK)


def test_what_is_stored_for_a_missing_modality_never_reaches_a_gradient() -> None:
    def gradients(catalogue: Catalogue) -> dict[str, torch.Tensor]:
        model = _model()
        tables = _tables(model, catalogue)
        (_queries(model, tables) @ tables.target_NV.T).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    dirty = _catalogue()
    for name, present in dirty.present.items():
        dirty.features[name][~present] = 1e6
    ours, theirs = gradients(_catalogue()), gradients(dirty)
    for name, gradient in ours.items():
        torch.testing.assert_close(theirs[name], gradient, msg=name)


def test_missing_streams_weigh_nothing() -> None:
    fused = _tables(_model(), _catalogue()).fused
    names = _model().representation_names
    weight = {name: fused.weight_NK[:, k] for k, name in enumerate(names)}
    assert all(weight[name][4] == 0 for name in ("text", "id+text", "text+image"))
    assert all(weight[name][5] == 0 for name in ("image", "id+image", "text+image"))
    assert all(weight[name][6] == 0 for name in ("id", "id+text", "id+image"))
    assert weight["text"][7] == 1


def test_a_weight_that_rounds_to_nought_still_counts_as_a_representation() -> None:
    model = _model(synergies=False, id_reader=False)
    assert model.camoe is not None
    with torch.no_grad():
        model.camoe.fusion_query.weight.zero_()
        model.camoe.fusion_query.bias.fill_(1.0)
        model.camoe.fusion_key_KD.zero_()
        model.camoe.fusion_key_KD[0] = 1e4
    tables = _tables(model, _catalogue())
    fused = tables.fused
    assert fused.weight_NK[0].tolist() == [1, 0, 0]
    assert fused.present_NK[[0, 4, 6]].tolist() == [[1, 1, 1], [1, 0, 1], [0, 1, 1]]
    torch.testing.assert_close(tables.input_NX[0], 3 * fused.representation_NKD[0, 0])
    torch.testing.assert_close(tables.input_NX[4], 2 * fused.representation_NKD[4, 0])


def test_an_item_with_no_stream_at_all_gives_finite_numbers() -> None:
    model = _model().train()
    catalogue = _catalogue()
    tables = _tables(model, catalogue)
    for value in (tables.input_NX, tables.target_NV, tables.fused.weight_NK):
        assert value[8].isfinite().all()
    tables.target_NV[8].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.missing_SD.grad is not None
    assert (model.missing_SD.grad.abs().amax(1) > 0).all()


def test_an_item_without_id_row_is_scored_by_its_content_alone() -> None:
    model, catalogue = _model(), _catalogue()
    before = _tables(model, catalogue).target_NV
    with torch.no_grad():
        model.id_table.weight.normal_()
    after = _tables(model, catalogue).target_NV
    assert torch.equal(before[[6, 7, 8]], after[[6, 7, 8]])
    assert not torch.allclose(before[0], after[0])
    other = _catalogue()
    other.features["text"][6] += torch.randn(5)
    assert not torch.allclose(_tables(model, other).target_NV[6], after[6])


def test_items_take_the_id_row_they_are_given() -> None:
    model, catalogue = _model(), _catalogue()
    rows = catalogue.id_row_N.clone()
    rows[[0, 1]] = torch.tensor([1, 0])
    x, *_ = model.item_streams(catalogue)
    y, *_ = model.item_streams(Catalogue(rows, catalogue.features, catalogue.present))
    assert torch.equal(x[[0, 1], 0], y[[1, 0], 0])
    assert torch.equal(x[2:], y[2:])


def test_swapped_streams_trade_places_and_ids_stay() -> None:
    model = _model()
    streams = model.item_streams(_catalogue())
    swapped = model.swapped(streams, 1)
    for before, after in zip(streams[:2], swapped[:2], strict=True):
        assert torch.equal(after[:, 0], before[:, 0])
        assert torch.equal(after[:, 1], before[:, 2])
        assert torch.equal(after[:, 2], before[:, 1])
    assert swapped.id_ND is streams.id_ND
    assert torch.equal(model.swapped(swapped, 1).x_NSD, streams.x_NSD)


def test_without_id_all_streams_trade_places() -> None:
    model = _model(use_id=False)
    streams = model.item_streams(_catalogue())
    assert torch.equal(model.swapped(streams, 1).x_NSD, streams.x_NSD.flip(1))


def test_the_second_view_swaps_the_asked_share_of_positions() -> None:
    model, read = _model(id_reader=False), []
    model.sequence.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    streams = model.item_streams(_catalogue())
    plain = model.item_tables(*streams)
    swapped = model.item_tables(*model.swapped(streams, 1))
    events = Events(torch.arange(600) % 4, torch.arange(600))
    window = cut(events, torch.arange(0, 600, 6), torch.arange(6, 606, 6))
    torch.manual_seed(0)
    for share in (0.3, 0.0, 1.0):
        model.swapped_user_states(plain, swapped, window, share)
    mixed, none, every = read
    is_plain = (mixed == plain.input_NX[window.item_BL]).all(-1)
    is_swapped = (mixed == swapped.input_NX[window.item_BL]).all(-1)
    assert (is_plain ^ is_swapped).all()
    assert 0.24 < is_swapped.float().mean() < 0.36
    assert torch.equal(none, plain.input_NX[window.item_BL])
    assert torch.equal(every, swapped.input_NX[window.item_BL])


def test_id_dropout_hides_the_asked_share_in_training_only() -> None:
    model = Cammsr(2000, {"text": 5}, 0, width=16, id_dropout=0.3)
    has = {"text": torch.ones(2000, dtype=torch.bool)}
    catalogue = Catalogue(torch.arange(2000), {"text": torch.randn(2000, 5)}, has)
    torch.manual_seed(0)
    x, present, _ = model.item_streams(catalogue)
    assert 0.26 < (~present[:, 0]).float().mean() < 0.34
    assert torch.equal(x[~present[:, 0], 0], model.missing_SD[0].expand_as(x[~present[:, 0], 0]))
    assert model.eval().item_streams(catalogue)[1].all()


def test_ids_begin_where_their_content_is() -> None:
    torch.manual_seed(0)
    told = torch.randn(200, 3)  # what there is to tell, and a nuisance
    features = {"text": told @ torch.randn(3, 5), "image": torch.randn(200, 7) * 1e-3}
    has = {"text": torch.ones(200, dtype=torch.bool), "image": torch.arange(200) % 2 == 0}
    rows = torch.arange(200) - 20  # the first twenty are new
    catalogue = Catalogue(rows.clamp(min=-1), features, has)
    model = Cammsr(180, {"text": 5, "image": 7}, 0, width=8, id_neighbours=0).eval()
    with torch.no_grad():
        model.id_table.weight.zero_()
    model.measure(catalogue)
    begun = model.item_streams(catalogue).id_ND
    assert torch.equal(begun[20:], model.id_table.weight[:, 8:])
    assert not model.id_table.weight[:, :8].any()  # fused ids begin at random
    torch.testing.assert_close(begun[20:].std(0).mean(), torch.tensor(0.02), rtol=0.2, atol=0)
    near = torch.cdist(begun, begun).fill_diagonal_(9).argmin(1)
    far = torch.cdist(told, told)
    assert far[torch.arange(200), near].mean() < 0.5 * far.mean()  # the new ones too
    off = {"id_start": False, "id_neighbours": 0}
    plain = Cammsr(180, {"text": 5, "image": 7}, 0, width=8, **off).eval()
    before = plain.id_table.weight.clone()
    plain.measure(catalogue)
    assert torch.equal(plain.id_table.weight, before)
    new = plain.item_streams(catalogue).id_ND[:20]
    assert torch.equal(new, plain.missing_SD[0].expand_as(new))


@pytest.mark.parametrize("items", [0, 1, 2, 5])
def test_ids_begin_somewhere_however_few_items_there_are(items: int) -> None:
    has = {"text": torch.arange(6) < items}
    catalogue = Catalogue(torch.arange(6), {"text": torch.randn(6, 5)}, has)
    model = Cammsr(6, {"text": 5}, 0, width=16)
    model.measure(catalogue)
    assert model.id_table.weight.isfinite().all()
    assert model.id_table.weight.abs().max() < 1


def _on_a_line(*places: float) -> Catalogue:
    """Items whose text says where they are on half a circle; no place, no text, no neighbours."""
    angle = torch.tensor(places)
    text = torch.stack([angle.cos(), angle.sin()], dim=1).nan_to_num()
    return Catalogue(torch.arange(len(places)), {"text": text}, {"text": ~angle.isnan()})


def _neighbours(catalogue: Catalogue, number: int, ids: int, **settings: Any) -> Cammsr:
    settings |= {"width": 8, "id_start": False, "id_neighbours": number}
    model = Cammsr(ids, {"text": 2}, 0, **settings).eval()
    projection = model.projections[0]
    assert isinstance(projection, FeatureProjection)
    projection.measure = lambda *_: None  # the angles as they are
    model.measure(catalogue)
    return model


def test_neighbours_are_the_items_whose_content_has_the_largest_cosine() -> None:
    catalogue = _on_a_line(0.0, 0.1, 0.3, 2.0, 2.1, float("nan"))
    model = _neighbours(catalogue, 2, ids=6)
    assert model.near_RJ is not None
    assert model.near_RJ.tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2], [-1, -1]]
    ids = model.id_table.weight[:, 8:]
    expected = torch.stack([ids[i] + ids[near].mean(0) for i, near in enumerate(model.near_RJ)])
    expected[5] = ids[5]
    torch.testing.assert_close(model.item_streams(catalogue).id_ND, expected)


@pytest.mark.parametrize("own_reader", [True, False])
def test_the_id_that_is_fused_stands_beside_its_neighbours_too(own_reader) -> None:
    catalogue = _on_a_line(0.0, 0.1, 0.3, float("nan"))
    catalogue = replace(catalogue, id_row_N=torch.tensor([0, 1, -1, 2]))
    model = _neighbours(catalogue, 1, ids=3, id_reader=own_reader, id_dropout=0.999)
    ids, unknown = model.id_table.weight[:, :8], model.missing_SD[0]
    near = model.beside_neighbours(catalogue)
    x_NSD, present_NS, _ = model.item_streams(near)
    expected = [ids[0] + ids[1], ids[1] + ids[0], unknown + ids[1], ids[2]]
    torch.testing.assert_close(x_NSD[:, 0], torch.stack(expected))
    assert present_NS[:, 0].tolist() == [True, True, True, True]
    # A new item whose neighbours are not known has no id, and an id that is hidden is as if new.
    assert model.item_streams(catalogue).present_NS[:, 0].tolist() == [True, True, False, True]
    x_NSD, present_NS, _ = model.train().item_streams(near)
    expected = [unknown + ids[1], unknown + ids[0], unknown + ids[1], ids[2]]
    torch.testing.assert_close(x_NSD[:, 0], torch.stack(expected))
    assert present_NS[:, 0].all()


def test_where_there_are_too_few_neighbours_the_mean_is_of_those() -> None:
    model = _neighbours(_on_a_line(0.0, 0.1, float("nan")), 3, ids=3)
    assert model.near_RJ.tolist() == [[1, -1, -1], [0, -1, -1], [-1, -1, -1]]
    ids = model.id_table.weight[:, 8:]
    seen = model.item_streams(_on_a_line(0.0, 0.1, float("nan"))).id_ND
    torch.testing.assert_close(seen, torch.stack([ids[0] + ids[1], ids[0] + ids[1], ids[2]]))


def test_a_model_of_ids_alone_has_nothing_to_measure_and_no_neighbours() -> None:
    model, catalogue = _model(modalities=()), _catalogue(())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.measure(catalogue)
    assert model.beside_neighbours(catalogue) is catalogue
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_new_item_is_where_its_neighbours_are_and_is_nobody_s_neighbour() -> None:
    catalogue = _on_a_line(0.0, 2.0, 0.04, 0.1, 2.1)
    catalogue = replace(catalogue, id_row_N=torch.tensor([0, 1, -1, 2, 3]))
    model = _neighbours(catalogue, 2, ids=4)
    assert model.near_RJ.tolist() == [[2, 1], [3, 2], [0, 1], [1, 2]]
    alone = model.item_streams(catalogue).id_ND
    seen = model.item_streams(model.beside_neighbours(catalogue)).id_ND
    ids = model.id_table.weight[:, 8:]
    torch.testing.assert_close(seen[2], model.missing_SD[0] + (ids[0] + ids[2]) / 2)
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(seen[others], alone[others])


def test_projection_standardises_columns_and_lets_scale_not_matter() -> None:
    catalogue = _catalogue()
    scaled = Catalogue(
        catalogue.id_row_N,
        {m: f * 300 + 20 for m, f in catalogue.features.items()},
        catalogue.present,
    )
    model = _model()
    ids = model.id_table.weight.clone()
    torch.manual_seed(1)  # the ids' beginnings are turned at random
    model.measure(catalogue)
    before = _tables(model, catalogue).target_NV
    model.id_table.weight.data.copy_(ids)
    torch.manual_seed(1)
    model.measure(scaled)
    torch.testing.assert_close(_tables(model, scaled).target_NV, before, rtol=1e-3, atol=1e-4)
    assert [p.mean.shape for p in model.projections] == [(5,), (7,)]  # text, image
    assert {"projections.0.mean", "projections.1.scale"} <= set(model.state_dict())


def _bare_projection(dim: int) -> FeatureProjection:
    """One whose linear layer leaves the standardised columns as they are."""
    projection = FeatureProjection(dim, dim)
    with torch.no_grad():
        projection.linear.weight.copy_(torch.eye(dim))
    return projection


def test_columns_are_standardised_by_hand_and_rows_are_about_one_long() -> None:
    projection = _bare_projection(4)
    seen = torch.tensor([[1.0, 10, -3, 7], [3, 30, -5, 7], [5, 50, -7, 7]])
    projection.measure(seen, ALL[:3])
    assert projection.mean.tolist() == [3, 30, -5, 7]
    # Standard deviations 2, 20 and 2; the last column is constant; 4**-0.5 scales the row.
    assert projection.scale.tolist() == pytest.approx([1 / 4, 1 / 40, 1 / 4, 0])
    new = projection(torch.tensor([[7.0, 10, -5, 1e6]]))
    torch.testing.assert_close(new, torch.tensor([[1.0, -0.5, 0.0, 0.0]]))
    torch.manual_seed(0)
    wide = _bare_projection(256)
    features = torch.randn(500, 256) * 40 + 3
    wide.measure(features, torch.ones(500).bool())
    torch.testing.assert_close(wide(features).square().sum(1).mean().item(), 1.0, atol=0.01, rtol=0)


def test_a_value_far_outside_is_cut_at_ten_standard_deviations() -> None:
    projection = _bare_projection(1)
    projection.measure(torch.tensor([[-1.0], [0.0], [1.0]]), ALL[:3])
    far = projection(torch.tensor([[9.0], [10.0], [11.0], [1e6], [-1e6]]))
    assert far.flatten().tolist() == pytest.approx([9, 10, 10, 10, -10])


def test_only_rows_that_are_present_are_measured() -> None:
    torch.manual_seed(0)
    features, present = torch.randn(60, 3) * 5 + 2, torch.rand(60) < 0.5
    part, alone = FeatureProjection(3, 16), FeatureProjection(3, 16)
    part.measure(features.where(present[:, None], float("nan")), present)
    alone.measure(features[present], torch.ones(int(present.sum())).bool())
    assert torch.equal(part.mean, alone.mean)
    assert torch.equal(part.scale, alone.scale)


def test_of_many_items_some_are_measured_evenly_spread(monkeypatch) -> None:
    torch.manual_seed(0)
    features, present = torch.randn(60, 3).half() * 5 + 2, torch.arange(60) % 7 > 0
    there = features[present].float()
    assert len(there) == 51
    for most, step in ((100, 1), (51, 1), (50, 2), (10, 6)):
        monkeypatch.setattr(model_module, "MEASURED_ROWS", most)
        projection = FeatureProjection(3, 16)
        projection.measure(features, present)
        assert len(there[::step]) <= most
        torch.testing.assert_close(projection.mean, there[::step].mean(0))
        torch.testing.assert_close(projection.scale, 3**-0.5 / there[::step].std(0))


@pytest.mark.parametrize("items", [0, 1])
def test_too_few_items_to_measure_change_nothing(items: int) -> None:
    projection = FeatureProjection(3, 16)
    before = projection.state_dict()["scale"].clone()
    projection.measure(torch.randn(5, 3), torch.arange(5) < items)
    assert torch.equal(projection.scale, before)
    assert not projection.mean.any()


def test_half_precision_features_are_welcome() -> None:
    model, catalogue = _model(), _catalogue()
    half = {m: f.half() for m, f in catalogue.features.items()}
    tables = _tables(model, Catalogue(catalogue.id_row_N, half, catalogue.present))
    assert tables.target_NV.dtype == torch.float32
    torch.testing.assert_close(
        tables.target_NV, _tables(model, catalogue).target_NV, rtol=0.05, atol=0.05
    )


def test_features_standardised_beforehand_give_the_same_tables(monkeypatch) -> None:
    monkeypatch.setattr(model_module, "MEASURED_ROWS", 3)  # in several parts
    model, catalogue = _model(), _catalogue()
    model.measure(catalogue)
    before = model.standardised(catalogue, torch.float32)
    assert before.standardised
    assert not torch.equal(before.features["text"], catalogue.features["text"])
    some = torch.tensor([5, 0, 2])
    for given, made in ((catalogue, before), (catalogue.take(some), before.take(some))):
        expected, found = _tables(model, given), _tables(model, made)
        assert torch.equal(found.target_NV, expected.target_NV)
        assert torch.equal(found.input_NX, expected.input_NX)
    assert before.to(torch.device("cpu")).standardised


def test_a_later_event_never_changes_an_earlier_query() -> None:
    model = _model()
    tables = _tables(model, _catalogue())
    times = torch.tensor([0, 5, 9, 100])
    items = torch.tensor([0, 1, 2, 3])
    other = torch.tensor([0, 1, 2, 7])
    one, two = (cut(Events(i, times), torch.tensor([0]), torch.tensor([4])) for i in (items, other))
    a, b = (model.queries(model.user_states(tables, w))[0] for w in (one, two))
    assert torch.equal(a[:3], b[:3])
    assert not torch.allclose(a[3], b[3])


def test_all_items_do_not_know_of_each_other() -> None:
    """New items can be scored beside the old ones: an item's vector is its own."""
    model, catalogue = _model(), _catalogue()
    together = _tables(model, catalogue).target_NV
    for n in range(N):
        alone = Catalogue(
            catalogue.id_row_N[n : n + 1],
            {m: f[n : n + 1] for m, f in catalogue.features.items()},
            {m: p[n : n + 1] for m, p in catalogue.present.items()},
        )
        torch.testing.assert_close(_tables(model, alone).target_NV[0], together[n])


def test_items_taken_from_the_catalogue_are_the_ones_asked_for() -> None:
    model, catalogue = _model(), _catalogue()
    chosen = torch.tensor([8, 3, 5, 3])
    taken, whole = _tables(model, catalogue.take(chosen)), _tables(model, catalogue)
    torch.testing.assert_close(taken.target_NV, whole.target_NV[chosen])
    torch.testing.assert_close(taken.input_NX, whole.input_NX[chosen])
    assert torch.equal(taken.present_NS, whole.present_NS[chosen])


def test_the_gradient_of_an_item_is_the_sum_over_where_it_was_seen() -> None:
    """Rows are read through an embedding, whose gradient must be that of indexing."""
    table = torch.randn(6, 4, requires_grad=True)
    at, factor = torch.tensor([[0, 2, 2], [5, 2, 0]]), torch.randn(2, 3, 4)
    (model_module._rows(table, at) * factor).sum().backward()
    expected = torch.zeros(6, 4).index_add(0, at.flatten(), factor.flatten(0, 1))
    torch.testing.assert_close(table.grad, expected)


def _only_text(features: torch.Tensor, present: torch.Tensor | None = None) -> Catalogue:
    n = len(features)
    there = torch.ones(n, dtype=torch.bool) if present is None else present
    return Catalogue(torch.full((n,), -1), {"text": features}, {"text": there})


def test_a_feature_of_one_column_tells_items_apart() -> None:
    model = Cammsr(0, {"text": 1}, 0, width=16, use_id=False).eval()
    catalogue = _only_text(torch.randn(8, 1))
    model.measure(catalogue)
    assert len(_tables(model, catalogue).target_NV.unique(dim=0)) == 8


def test_a_column_constant_in_training_does_not_drown_a_new_item() -> None:
    torch.manual_seed(0)
    model = Cammsr(0, {"text": 16}, 0, width=16, use_id=False).eval()
    seen = torch.randn(50, 16)
    seen[:, 0] = 0
    model.measure(_only_text(seen))
    new = torch.randn(2, 16)
    new[:, 0] = 0.1
    x, *_ = model.item_streams(_only_text(new))
    assert torch.cosine_similarity(x[0], x[1]).item() < 0.99


def test_id_dropout_spares_items_that_have_nothing_else() -> None:
    model = Cammsr(200, {"text": 4}, 0, width=16, id_dropout=0.5).train()
    catalogue = Catalogue(
        torch.arange(200), {"text": torch.randn(200, 4)}, {"text": torch.zeros(200).bool()}
    )
    assert len(_tables(model, catalogue).target_NV.unique(dim=0)) == 200


def test_id_dropout_spares_only_those() -> None:
    model = Cammsr(400, {"text": 4, "image": 2}, 0, width=16, id_dropout=0.5).train()
    has = {"text": torch.arange(400) < 100, "image": torch.arange(400) % 400 < 200}
    features = {"text": torch.randn(400, 4), "image": torch.randn(400, 2)}
    _, present, _ = model.item_streams(Catalogue(torch.arange(400), features, has))
    assert present[200:, 0].all()
    for some in (present[:100, 0], present[100:200, 0]):
        assert 0.3 < some.float().mean() < 0.7


@pytest.mark.parametrize("name", ["values", "type", "clip.v2"])
def test_any_name_of_a_modality_will_do(name: str) -> None:
    assert Cammsr(N, {name: 4}, 0, width=16).streams == ("id", name)
