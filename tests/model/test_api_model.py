"""The whole model: what is missing stays without influence, every part comes off, scores add up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_catalogue import DIMS, C, N, small_catalogue, with_values

from cammsr_cli.config import PRESETS, ModelConfig
from cammsr_cli.model import cammsr as model_module
from cammsr_cli.model.cammsr import Cammsr, ItemTables
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.model.history_windows import Events, Window, cut, pack
from cammsr_cli.model.losses import category_loss

LENGTH = 6
PAPER = PRESETS["paper"]["model"] | {"width": 16, "length": LENGTH}


def _model(**changed) -> Cammsr:
    """With random values where training starts from zero, in evaluation mode."""
    torch.manual_seed(0)
    modalities = changed.pop("modalities", ("text", "image"))
    categories = changed.pop("categories", C)
    parts = {"fused": False, "experts": 4, "input_norm": "dyt"}
    sizes = {"width": 16, "layers": 1, "heads": 2, "length": LENGTH, "dropout": 0.0}
    given = {**parts, **sizes, **changed}
    model = Cammsr(N, {m: DIMS[m] for m in modalities}, categories, **given)
    with_values(model)
    return model.eval()


def _catalogue(model: Cammsr, **changed) -> Catalogue:
    """What `model` is told: its own modalities, and no labels where it knows no categories."""
    categories = 0 if model.guide is None else C
    return small_catalogue(model.modalities, categories=categories, **changed)


def _window() -> Window:
    """Two histories: of five events, one of an item again, and of four."""
    events = Events(torch.tensor([0, 1, 4, 8, 0, 6, 2, 7, 3]), torch.arange(9) ** 3 * 77)
    return cut(events, torch.tensor([0, 5]), torch.tensor([5, 9]))


def _scores(model: Cammsr, tables: ItemTables, window: Window | None = None) -> torch.Tensor:
    """All items' scores after each event, [M, N], with the bias of those that were there before."""
    window = _window() if window is None else window
    score_MN = model.queries(tables, window)[window.valid_BL] @ tables.target_NV.T
    if model.repeats is None:
        return score_MN
    position = 0
    for row, length in zip(window.item_BL.tolist(), window.length_B.tolist(), strict=True):
        for past in range(1, length + 1):
            for item in set(row[:past]):
                age = 1 + row[:past][::-1].index(item)
                score_MN[position, item] += model.repeats(torch.tensor(age))
            position += 1
    return score_MN


PARTS = {
    "whole": {},
    "no id": {"use_id": False},
    "no content start": {"content_init": False},
    "no neighbours": {"neighbours": 0},
    "fused": {"fused": True},
    "fused, no experts": {"fused": True, "experts": 0},
    "fused, no id": {"fused": True, "use_id": False},
    "fused, one modality": {"fused": True, "modalities": ("image",)},
    "fused, three modalities": {"fused": True, "modalities": ("text", "image", "video")},
    "fused, layernorm": {"fused": True, "fused_norm": "layernorm"},
    "fused, no time": {"fused": True, "time_gaps": False},
    "fused, no item weights": {"fused": True, "item_weights": False},
    "guidance as printed": {"guidance": "difference"},
    "no guidance": {"guidance": "equal"},
    "no guidance, no item weights": {"guidance": "equal", "item_weights": False},
    "no item weights": {"item_weights": False},
    "no categories": {"categories": 0},
    "no experts": {"experts": 0},
    "no experts, no item weights": {"experts": 0, "item_weights": False},
    "one expert": {"experts": 1},
    "experts of their own stream": {"expert_inputs": "own"},
    "linear router": {"router": "linear"},
    "gates of one": {"normalise_gates": True},
    "no time": {"time_gaps": False},
    "no relative_positions": {"relative_positions": False},
    "layernorm": {"input_norm": "layernorm"},
    "no norm": {"input_norm": "none"},
    "no scale": {"embedding_scale": False},
    "no repeats": {"repeats": False},
    "id dropout": {"id_dropout": 0.5},
    "three modalities": {"modalities": ("text", "image", "video")},
    "one modality": {"modalities": ("image",)},
    "one modality, no id": {"modalities": ("text",), "use_id": False},
    "id alone": {"modalities": ()},
    "as published": PAPER,
}
each_part = pytest.mark.parametrize("changed", PARTS.values(), ids=PARTS.keys())


@each_part
def test_each_part_comes_off_and_every_parameter_left_learns(changed) -> None:
    model = _model(**changed).train()
    catalogue = _catalogue(model)
    tables = model.item_tables(catalogue)
    score = _scores(model, tables)
    loss = score.logsumexp(-1).sum() + score.square().sum()
    if model.guide is not None:
        assert catalogue.label_NC is not None
        loss = loss + category_loss(tables.category_TNC, catalogue.label_NC, tables.present_NT)
    assert loss.isfinite()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


PARAMETERS_OF = {
    "items.id_table": {"use_id": False},
    "guide.": {"categories": 0},
    "item_weight_CS": {"item_weights": False},
    "input_scale": {"embedding_scale": False},
    "gap.": {"time_gaps": False},
    "camoe.": {"experts": 0},
    "input_norm.alpha": {"input_norm": "layernorm"},
    "input_norm.": {"input_norm": "none"},
    "distance": {"relative_positions": False},
    "repeats.": {"repeats": False},
}


@pytest.mark.parametrize(("part", "changed"), PARAMETERS_OF.items(), ids=PARAMETERS_OF.keys())
def test_parts_switched_off_leave_no_parameters_behind(part, changed) -> None:
    def names(**changed) -> str:
        return " ".join(dict(_model(**changed).named_parameters()))

    assert part in names()
    assert part not in names(**changed)


def test_a_predictor_of_categories_that_nothing_asks_is_not_there() -> None:
    assert _model(guidance="equal").guide is not None  # it weighs items
    assert _model(item_weights=False).guide is not None  # it weighs experts
    assert _model(experts=0).guide is not None
    assert _model(experts=0, item_weights=False).guide is None
    assert _model(guidance="equal", item_weights=False).guide is None
    assert _model(modalities=(), experts=0).guide is None  # one stream is weighed by nothing


def test_parts_switched_off_leave_no_buffers_behind() -> None:
    def buffers(**changed) -> str:
        return " ".join(dict(_model(**changed).named_buffers()))

    assert "content_init" in buffers()
    assert "content_init" not in buffers(content_init=False)
    assert "near_RJ" in buffers()
    assert "near_RJ" not in buffers(neighbours=0)
    assert buffers(modalities=(), repeats=False) == "branch_weight_T"


def test_a_model_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one stream"):
        Cammsr(N, {}, C, use_id=False)


def test_streams_are_the_id_and_the_modalities_in_order() -> None:
    assert _model().streams == ("id", "text", "image")
    assert _model(modalities=("image", "text")).streams == ("id", "image", "text")
    assert _model(use_id=False).streams == ("text", "image")
    assert _model(modalities=()).streams == ("id",)
    assert _model(modalities=()).modalities == ()


# The tables of items.


def test_what_is_stored_for_a_missing_modality_never_matters() -> None:
    model = _model()
    clean, dirty = small_catalogue(), small_catalogue()
    for name, present in dirty.present.items():
        dirty.features[name][~present] = 1e6 * torch.randn(int((~present).sum()), DIMS[name])
    a, b = model.item_tables(clean), model.item_tables(dirty)
    for name, value in vars(a).items():
        assert value is vars(b)[name] is None or torch.equal(value, vars(b)[name]), name


def test_what_is_stored_for_a_missing_modality_never_reaches_a_gradient() -> None:
    def gradients(catalogue: Catalogue) -> dict[str, torch.Tensor]:
        model = _model()
        _scores(model, model.item_tables(catalogue)).square().sum().backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    dirty = small_catalogue()
    for name, present in dirty.present.items():
        dirty.features[name][~present] = 1e6
    ours, theirs = gradients(small_catalogue()), gradients(dirty)
    for name, gradient in ours.items():
        torch.testing.assert_close(theirs[name], gradient, msg=name)


@pytest.mark.parametrize("guidance", ["difference", "accuracy", "equal"])
def test_experts_of_missing_streams_weigh_nothing(guidance) -> None:
    # Without neighbours and beginnings, an item that has no id row has no id.
    model = _model(guidance=guidance, content_init=False, neighbours=0)
    weight = model.item_tables(small_catalogue()).guide_NT
    torch.testing.assert_close(weight.sum(1), torch.ones(N))
    missing = {4: [1], 5: [2], 6: [0], 7: [0, 2]}
    for n in range(N):
        assert (weight[n] == 0).nonzero().flatten().tolist() == missing.get(n, [])


def test_without_item_weights_a_score_asks_the_plain_streams() -> None:
    model, catalogue = _model(item_weights=False), small_catalogue()
    tables = model.item_tables(catalogue)
    x_PND, present_NS = model.items(catalogue)
    side_by_side = torch.cat(list(x_PND), dim=1)
    assert torch.equal(tables.input_NX, side_by_side)
    assert torch.equal(tables.target_NV, side_by_side)
    assert torch.equal(tables.present_NS, present_NS)
    assert torch.equal(tables.present_NT, present_NS)


def test_the_fused_branch_reads_the_sum_of_the_streams_and_scores_each() -> None:
    model, catalogue = _model(fused=True, item_weights=False), small_catalogue()
    tables = model.item_tables(catalogue)
    x_PND, present_NS = model.items(catalogue)
    ids, together = x_PND[0], x_PND[1:].sum(0)
    torch.testing.assert_close(tables.input_NX, torch.cat([ids, together], dim=1))
    assert torch.equal(tables.target_NV, torch.cat(list(x_PND), dim=1))
    assert torch.equal(tables.present_NT, torch.stack([present_NS[:, 0], present_NS.any(1)], 1))
    h_TBD = torch.randn(2, 5, 16)
    query_BV = model.queries_of(h_TBD)
    assert torch.equal(query_BV[:, :16], h_TBD[0])
    expected = torch.cat([h_TBD[1] @ map_DD.T for map_DD in model.query.weight.split(16)], dim=1)
    torch.testing.assert_close(query_BV[:, 16:], expected)
    assert model.score_widths == [16, 48]


def test_an_untrained_fused_branch_scores_by_the_sum_of_the_streams() -> None:
    torch.manual_seed(0)
    model = Cammsr(N, {m: DIMS[m] for m in ("text", "image")}, 0, width=16).eval()
    h_TBD = torch.randn(2, 5, 16)
    tables = model.item_tables(small_catalogue(categories=0))
    x_PND, _ = model.items(small_catalogue(categories=0))
    expected = h_TBD[0] @ x_PND[0].T + h_TBD[1] @ x_PND[1:].sum(0).T
    torch.testing.assert_close(model.queries_of(h_TBD) @ tables.target_NV.T, expected)


@pytest.mark.parametrize("fused", [False, True])
def test_item_weights_are_a_softmax_told_by_the_predicted_categories(fused: bool) -> None:
    model, catalogue = _model(fused=fused), small_catalogue()
    tables = model.item_tables(catalogue)
    plain_PND, _ = model.items(catalogue)
    if not fused:  # not weighed in histories
        assert torch.equal(tables.input_NX, torch.cat(list(plain_PND), dim=1))
    for n in range(N):
        at = tables.present_NS[n].nonzero().squeeze(1)
        read = tables.present_NT[n].nonzero().squeeze(1)
        predicted = tables.category_TNC[read, n].mean(0).softmax(0)
        weight = torch.ones(3)
        weight[at] = (predicted @ model.item_weight_CS)[at].softmax(0) * len(at)
        assert weight[at].mean().item() == pytest.approx(1)
        if fused:  # the ids' branch is not weighed
            weight = torch.cat([torch.ones(1), weight])
        expected = weight[:, None] * plain_PND[:, n]
        torch.testing.assert_close(tables.target_NV[n], expected.flatten())


def test_untrained_item_weights_weigh_all_streams_alike() -> None:
    model = Cammsr(N, {m: DIMS[m] for m in ("text", "image")}, C, width=16, fused=False)
    tables = model.item_tables(small_catalogue())
    torch.testing.assert_close(tables.target_NV, tables.input_NX)


def test_an_item_weight_that_rounds_to_nought_still_counts_as_a_stream() -> None:
    model = _model(content_init=False, neighbours=0)
    with torch.no_grad():
        model.item_weight_CS.copy_(torch.tensor([200.0, 0.0, -200.0]))
    tables = model.item_tables(small_catalogue())
    share = (tables.target_NV / tables.input_NX).view(N, 3, 16)[..., 0]
    torch.testing.assert_close(share[0], torch.tensor([3.0, 0.0, 0.0]))
    torch.testing.assert_close(share[4], torch.tensor([2.0, 1.0, 0.0]))  # no text: it weighs 1
    torch.testing.assert_close(share[6], torch.tensor([1.0, 2.0, 0.0]))


def test_an_item_with_no_stream_at_all_gives_finite_numbers() -> None:
    model = _model().train()
    tables = model.item_tables(small_catalogue())
    for value in (tables.input_NX, tables.target_NV, tables.guide_NT):
        assert value[8].isfinite().all()
    tables.target_NV[8].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    missing_SD = model.items.missing_SD
    assert missing_SD.grad is not None
    assert (missing_SD.grad.abs().amax(1) > 0).all()


def test_an_item_without_id_row_is_scored_by_its_content_alone() -> None:
    model, catalogue = _model(), small_catalogue()
    before = model.item_tables(catalogue).target_NV
    with torch.no_grad():
        model.items.id_table.weight.normal_()
    after = model.item_tables(catalogue).target_NV
    assert torch.equal(before[[6, 7, 8]], after[[6, 7, 8]])
    assert not torch.allclose(before[0], after[0])
    other = small_catalogue()
    other.features["text"][6] += torch.randn(5)
    assert not torch.allclose(model.item_tables(other).target_NV[6], after[6])


def test_items_do_not_know_of_each_other() -> None:
    """New items can be scored beside the old ones: an item's vector is its own."""
    model, catalogue = _model(fused=True), small_catalogue()
    together = model.item_tables(catalogue)
    for n in range(N):
        alone = model.item_tables(catalogue.take(torch.tensor([n])))
        for name, value in vars(together).items():
            one = value[:, n] if name == "category_TNC" else value[n]
            found = vars(alone)[name]
            torch.testing.assert_close(found[:, 0] if name == "category_TNC" else found[0], one)


def test_labels_count_for_the_experts_weights_and_for_nothing_else() -> None:
    model, catalogue = _model(), small_catalogue()
    told, untold = (
        model.item_tables(one) for one in (catalogue, replace(catalogue, label_NC=None))
    )
    for name, value in vars(told).items():
        assert name == "guide_NT" or torch.equal(value, vars(untold)[name])
    weight = untold.guide_NT * untold.present_NS.sum(1, keepdim=True)
    torch.testing.assert_close(weight, untold.present_NS.float())
    labelled = catalogue.label_NC.any(1) & (untold.present_NS.sum(1) > 1)
    assert torch.equal((told.guide_NT != untold.guide_NT).any(1), labelled)


def test_half_precision_features_are_welcome() -> None:
    model, catalogue = _model(), small_catalogue()
    half = replace(catalogue, features={m: f.half() for m, f in catalogue.features.items()})
    tables = model.item_tables(half)
    assert tables.target_NV.dtype == torch.float32
    torch.testing.assert_close(
        tables.target_NV, model.item_tables(catalogue).target_NV, rtol=0.05, atol=0.05
    )


def test_features_standardised_beforehand_give_the_same_tables() -> None:
    model, catalogue = _model(), small_catalogue()
    model.items.measure(catalogue)
    before = model.items.standardised(catalogue, torch.float32)
    expected, found = model.item_tables(catalogue), model.item_tables(before)
    for name, value in vars(expected).items():
        assert torch.equal(value, vars(found)[name]), name


def test_the_gradient_of_an_item_is_the_sum_over_where_it_was_seen() -> None:
    """Rows are read through an embedding, whose gradient must be that of indexing."""
    table = torch.randn(6, 4, requires_grad=True)
    at, factor = torch.tensor([[0, 2, 2], [5, 2, 0]]), torch.randn(2, 3, 4)
    (model_module._rows(table, at) * factor).sum().backward()
    expected = torch.zeros(6, 4).index_add(0, at.flatten(), factor.flatten(0, 1))
    torch.testing.assert_close(table.grad, expected)


# Histories.


@pytest.mark.parametrize("time", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_without_experts_a_history_is_scaled_items_plus_position_plus_gap(scale, time) -> None:
    model = _model(experts=0, embedding_scale=scale, time_gaps=time)
    tables, window = model.item_tables(small_catalogue()), _window()
    e_SBLD, mask_BLL = model.history(tables, window)
    x_BLSD = tables.input_NX.view(N, 3, 16)[window.item_BL]
    expected = x_BLSD * 4 if scale else x_BLSD  # the square root of 16
    expected = expected + model.position.weight[:5, None]
    if model.gap is not None:
        expected = expected + model.gap.weight[window.gap_BL][:, :, None]
    torch.testing.assert_close(e_SBLD, expected.permute(2, 0, 1, 3))
    assert mask_BLL is None


def test_experts_are_told_of_positions_weights_and_who_sees_whom() -> None:
    model, plain = _model(), _model(experts=0)
    window = _window()
    tables = model.item_tables(small_catalogue())
    plain.load_state_dict(model.state_dict(), strict=False)
    e_SBLD, _ = plain.history(tables, window)
    guide_SBL = tables.guide_NT[window.item_BL].permute(2, 0, 1)
    causal = torch.full((5, 5), float("-inf")).triu(1)
    torch.testing.assert_close(
        model.history(tables, window)[0], model.camoe(e_SBLD, guide_SBL, causal)
    )


def test_time_counts_if_asked_for_and_only_then() -> None:
    window = _window()
    other = replace(window, gap_BL=window.gap_BL + 3 * (torch.arange(5) == 2))
    for time in (True, False):
        model = _model(time_gaps=time)
        tables = model.item_tables(small_catalogue())
        differs = (model.queries(tables, window) - model.queries(tables, other)).abs()
        assert (differs[:, :2] == 0).all()
        assert (differs[:, 2:].amax(-1) > 1e-5).all() == time
        assert (differs > 0).any() == time


def test_positions_count() -> None:
    model = _model(time_gaps=False, relative_positions=False)
    window = cut(
        Events(torch.zeros(4).long(), torch.arange(4)), torch.tensor([0]), torch.tensor([4])
    )
    states = model.queries(model.item_tables(small_catalogue()), window)[0]
    assert (states[0] - states[1]).abs().max() > 1e-3


@each_part
def test_a_later_event_never_changes_an_earlier_state(changed) -> None:
    model = _model(**changed)
    tables = model.item_tables(_catalogue(model))
    times = torch.tensor([0, 5, 9, 100])
    items, other = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 7])
    one, two = (cut(Events(i, times), torch.tensor([0]), torch.tensor([4])) for i in (items, other))
    a, b = (model.queries(tables, w)[0] for w in (one, two))
    torch.testing.assert_close(a[:3], b[:3], rtol=0, atol=0)
    assert not torch.allclose(a[3], b[3])


def _four_histories() -> tuple[Events, torch.Tensor, torch.Tensor]:
    end = torch.tensor([3, 5, 9, 15])
    start = torch.tensor([0, 3, 5, 9])
    items = torch.tensor([0, 1, 0, 5, 8, 4, 3, 2, 2, 11, 10, 9, 9, 7, 6])
    return Events(items, torch.arange(15) ** 2 * 500), start, end


@each_part
def test_a_history_alone_or_in_a_padded_batch_gives_the_same_states(changed) -> None:
    model = _model(**changed)
    tables = model.item_tables(_catalogue(model))
    events, start, end = _four_histories()
    together = model.queries(tables, cut(events, start, end))
    assert together.shape == (4, 6, sum(model.score_widths))
    for row in range(4):
        own = cut(events, start[row : row + 1], end[row : row + 1])
        alone = model.queries(tables, own)[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-4, atol=1e-5)


@each_part
def test_histories_in_one_row_do_not_see_each_other(changed) -> None:
    model = _model(**changed)
    tables = model.item_tables(_catalogue(model))
    events, start, end = _four_histories()
    packed = pack(cut(events, start, end), LENGTH)
    assert len(packed.window.item_BL) == 2
    together = model.queries(tables, packed.window)
    assert together.isfinite().all()
    for one, (row, last) in enumerate(zip(packed.row_W, packed.last_W, strict=True)):
        own = cut(events, start[one : one + 1], end[one : one + 1] - 1)
        alone = model.queries(tables, own)[0]
        found = together[row, last + 1 - len(alone) : last + 1]
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


@each_part
def test_the_last_state_alone_is_that_among_all(changed) -> None:
    model = _model(**({"layers": 2} | changed))
    tables = model.item_tables(_catalogue(model))
    events, start, end = _four_histories()
    window = cut(events, start, end)
    every = model.queries(tables, window)[torch.arange(4), end - start - 1]
    torch.testing.assert_close(model.last_queries(tables, window), every, rtol=1e-4, atol=1e-5)


def test_the_last_state_of_an_empty_history_is_that_of_the_padding() -> None:
    model = _model()
    tables = model.item_tables(small_catalogue())
    events, start, _ = _four_histories()
    window = cut(events, start, torch.tensor([3, 3, 9, 15]))
    last = model.last_queries(tables, window)
    torch.testing.assert_close(last[1], model.queries(tables, window)[1, 0])
    empty = cut(events, start[:1], start[:1])
    assert model.last_queries(tables, empty).shape == (1, 48)


def test_some_streams_transformers_read_what_they_are_given() -> None:
    """As the modality swap does: each sequence goes through the Transformer of its own stream."""
    for norm in ("dyt", "layernorm", "none"):
        model = _model(input_norm=norm)
        events, start, end = _four_histories()
        window = pack(cut(events, start, end), LENGTH).window
        e_SBLD, mask_BLL = model.history(model.item_tables(small_catalogue()), window)
        for pair in ([0, 2], [2, 1]):
            given = e_SBLD[pair].flip(0)
            every = e_SBLD.clone()
            every[pair] = given
            expected = model.encode(every, mask_BLL)[pair]
            torch.testing.assert_close(model.encode(given, mask_BLL, pair), expected)


def test_dropout_works_in_training_only() -> None:
    model = _model(dropout=0.5)
    tables = model.item_tables(small_catalogue())
    assert torch.equal(model.queries(tables, _window()), model.queries(tables, _window()))
    model.train()
    once, again = (model.queries(tables, _window()) for _ in range(2))
    assert not torch.equal(once, again)


def test_what_the_transformers_read_is_dropped_after_normalisation() -> None:
    model, read = _model(dropout=0.5, experts=0).train(), []
    model.encoder.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    tables = model.item_tables(small_catalogue())
    e_SBLD, mask_BLL = model.history(tables, _window())
    model.encode(e_SBLD, mask_BLL)
    kept = read[0] != 0
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(read[0], torch.where(kept, 2 * model.input_norm(e_SBLD), 0.0))


def test_in_bfloat16_scores_are_nearly_the_same() -> None:
    for changed in ({}, PAPER):
        model = _model(**changed)
        exact = _scores(model, model.item_tables(small_catalogue()))
        with torch.autocast("cpu", torch.bfloat16):
            rough = _scores(model, model.item_tables(small_catalogue()))
        assert (rough - exact).norm() / exact.norm() < 0.03


# Scores.


def test_sasrec_scores_by_the_inner_product_of_state_and_id_embedding() -> None:
    given = ModelConfig(**PRESETS["sasrec"]["model"], width=16, heads=2, length=6, dropout=0.0)
    torch.manual_seed(0)
    model = Cammsr(N, {}, C, **given.model_dump(exclude={"modalities"})).eval()
    tables = model.item_tables(Catalogue(torch.arange(N), {}, {}))
    window, ids = _window(), model.items.id_table.weight
    e_BLD = ids[window.item_BL] * 4 + model.position.weight[:5]
    state = model.encoder(e_BLD.unsqueeze(0))[0]
    ours = model.queries(tables, window) @ tables.target_NV.T
    torch.testing.assert_close(ours, state @ ids.T)
    assert model.streams == ("id",)
    parts = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert parts == {"items", "position", "encoder", "input_scale_T"}


@each_part
def test_contributions_sum_to_the_score(changed) -> None:
    model = _model(**changed)
    tables = model.item_tables(_catalogue(model))
    state = model.queries(tables, _window())[0, :1].expand(N, -1)
    parts = model.contributions(state, tables.target_NV)
    assert parts.shape == (N, len(model.streams))
    torch.testing.assert_close(parts.sum(1), (state * tables.target_NV).sum(1))


def test_a_contribution_is_the_inner_product_of_one_stream() -> None:
    model = _model()
    tables = model.item_tables(small_catalogue())
    state = model.queries(tables, _window())[1, 3]
    parts = model.contributions(state.expand(N, -1), tables.target_NV)
    for s in range(3):
        at = slice(16 * s, 16 * (s + 1))
        torch.testing.assert_close(parts[:, s], tables.target_NV[:, at] @ state[at])


def test_what_both_branches_have_of_ids_is_the_id_s() -> None:
    model = _model(fused=True)
    tables = model.item_tables(small_catalogue())
    query = model.queries(tables, _window())[1, 3].expand(N, -1)
    parts = model.contributions(query, tables.target_NV)
    each = (query * tables.target_NV).view(N, 4, 16).sum(-1)
    torch.testing.assert_close(parts, torch.stack([each[:, :2].sum(1), *each.T[2:]], dim=1))
