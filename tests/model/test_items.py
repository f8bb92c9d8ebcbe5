"""Items to streams: what is missing stays without influence; where ids begin, and who is near."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_catalogue import DIMS, N, small_catalogue, with_values

from cammsr_cli.model import device_kernels
from cammsr_cli.model import feature_projection as features_module
from cammsr_cli.model import items as items_module
from cammsr_cli.model.catalogue_tensors import Catalogue, are_new, has_content, unknown_items
from cammsr_cli.model.feature_projection import FeatureProjection
from cammsr_cli.model.items import ItemEncoder, ItemParts, Part

ALL = torch.ones(N, dtype=torch.bool)


def _bare(num_ids: int, dims: dict[str, int], **changed: Any) -> ItemEncoder:
    """Ids of width 8 alone, without neighbours or beginnings, unless something else is asked."""
    settings = {"use_id": True, "width": 8, "content_init": False, "neighbours": 0} | changed
    settings = {"fused": False, "id_dropout": 0.0} | settings
    return ItemEncoder(num_ids, dims, **settings).eval()


def _encoder(modalities=("text", "image"), **changed: Any) -> ItemEncoder:
    """All parts, of random values."""
    torch.manual_seed(0)
    settings = {"width": 16, "content_init": True, "neighbours": 3, "fused": True} | changed
    encoder = _bare(N, {m: DIMS[m] for m in modalities}, **settings)
    with_values(encoder)
    return encoder


def _same(one: ItemParts, other: ItemParts) -> None:
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


ENCODERS = {
    "whole": {},
    "no id": {"use_id": False},
    "each stream a branch": {"fused": False},
    "no neighbours": {"neighbours": 0},
    "no content start": {"content_init": False},
    "three modalities": {"modalities": ("text", "image", "video")},
    "one modality": {"modalities": ("image",)},
    "one modality, no id": {"modalities": ("text",), "use_id": False},
    "id alone": {"modalities": ()},
}
each_encoder = pytest.mark.parametrize("changed", ENCODERS.values(), ids=ENCODERS.keys())


@each_encoder
def test_an_encoder_gives_one_stream_for_the_id_and_one_for_each_modality(changed) -> None:
    encoder = _encoder(**changed)
    catalogue = small_catalogue(encoder.modalities)
    encoder.measure(catalogue)
    x_PND, present_NS = encoder(catalogue)
    assert encoder.streams == (*(["id"] if encoder.id_table else []), *encoder.modalities)
    assert x_PND.shape == (len(encoder.parts), N, 16)
    assert present_NS.shape == (N, len(encoder.streams))
    assert present_NS[8].all()  # it has nothing at all
    for name, present_N in catalogue.present.items():
        some = present_NS[:, encoder.streams.index(name)]
        assert torch.equal(some, present_N | present_NS.all(1))


def test_an_encoder_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one stream"):
        _bare(N, {}, use_id=False)


@pytest.mark.parametrize("name", ["values", "type", "clip.v2"])
def test_any_name_of_a_modality_will_do(name: str) -> None:
    assert _bare(N, {name: 4}).streams == ("id", name)


def test_the_id_stream_is_the_embedding_and_nothing_else_where_nothing_is_asked() -> None:
    encoder = _bare(N, {"text": 5})
    x_PND, present_NS = encoder(small_catalogue(("text",)))
    there = torch.tensor([0, 1, 2, 3, 4, 5, 9, 10, 11])
    assert torch.equal(x_PND[0, there], encoder.id_table.weight[there])
    assert torch.equal(x_PND[0, 6:9], encoder.missing_SD[0].expand(3, -1))
    assert present_NS[:, 0].tolist() == [True] * 6 + [False, False, True] + [True] * 3


@each_encoder
def test_what_is_stored_for_a_missing_modality_never_matters(changed) -> None:
    encoder = _encoder(**changed)
    clean, dirty = small_catalogue(encoder.modalities), small_catalogue(encoder.modalities)
    for name, present in dirty.present.items():
        dirty.features[name][~present] = 1e6 * torch.randn(int((~present).sum()), DIMS[name])
    found = []
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    for catalogue in (clean, dirty):
        encoder.load_state_dict(start)
        torch.manual_seed(1)  # the ids' beginnings are turned at random
        encoder.measure(catalogue)
        state = {name: value.clone() for name, value in encoder.state_dict().items()}
        found.append((state, encoder(encoder.beside_neighbours(catalogue))))
    (one, a), (other, b) = found
    for name, value in one.items():
        assert torch.equal(other[name], value), name
    for x, y in zip(a, b, strict=True):
        assert x is y is None or torch.equal(x, y)


@each_encoder
def test_what_is_stored_for_a_missing_modality_never_reaches_a_gradient(changed) -> None:
    def gradients(catalogue: Catalogue) -> dict[str, torch.Tensor]:
        encoder = _encoder(**changed)
        encoder(catalogue).x_PND.square().sum().backward()
        return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}

    modalities = _encoder(**changed).modalities
    dirty = small_catalogue(modalities)
    for name, present in dirty.present.items():
        dirty.features[name][~present] = 1e6
    ours, theirs = gradients(small_catalogue(modalities)), gradients(dirty)
    assert ours
    for name, gradient in ours.items():
        torch.testing.assert_close(theirs[name], gradient, msg=name)


def test_an_item_with_no_stream_at_all_is_its_learnt_vectors() -> None:
    encoder = _encoder(fused=False).train()
    x_PND, present_NS = encoder(small_catalogue())
    assert torch.equal(x_PND[:, 8], encoder.missing_SD)
    assert present_NS[8].all()
    x_PND[:, 8].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())
    assert (encoder.missing_SD.grad == 1).all()


def test_an_item_without_id_row_is_told_by_its_content_alone() -> None:
    encoder, catalogue = _encoder(), small_catalogue()
    encoder.measure(catalogue)
    before = encoder(catalogue).x_PND
    with torch.no_grad():
        encoder.id_table.weight.normal_()
    after = encoder(catalogue).x_PND
    assert torch.equal(before[:, 6:9], after[:, 6:9])
    assert not torch.allclose(before[:, 0], after[:, 0])
    other = small_catalogue()
    other.features["text"][6] += torch.randn(5)
    changed = encoder(other).x_PND
    where_it_begins_and_its_text, others = [0, 2], [1, 3]
    assert (changed[:, 6] != after[:, 6]).any(1)[where_it_begins_and_its_text].all()
    assert torch.equal(changed[others], after[others])


def test_items_take_the_id_row_they_are_given() -> None:
    encoder, catalogue = _encoder(), small_catalogue()
    encoder.measure(catalogue)
    rows = catalogue.id_row_N.clone()
    rows[[0, 1]] = torch.tensor([1, 0])
    x, y = encoder(catalogue).x_PND, encoder(replace(catalogue, id_row_N=rows)).x_PND
    assert torch.equal(x[0, [0, 1]], y[0, [1, 0]])
    assert torch.equal(x[:, 2:], y[:, 2:])


def test_items_do_not_know_of_each_other() -> None:
    """New items can be told beside the old ones: an item's vectors are its own."""
    encoder, catalogue = _encoder(), small_catalogue()
    encoder.measure(catalogue)
    catalogue = encoder.beside_neighbours(catalogue)
    together = encoder(catalogue)
    for n in range(N):
        alone = encoder(catalogue.take(torch.tensor([n])))
        torch.testing.assert_close(alone.x_PND[:, 0], together.x_PND[:, n])
        assert torch.equal(alone.present_NS[0], together.present_NS[n])


def test_items_taken_from_the_catalogue_are_the_ones_asked_for() -> None:
    encoder = _encoder()
    catalogue = encoder.beside_neighbours(small_catalogue())
    chosen = torch.tensor([8, 3, 5, 3, 6])
    taken = catalogue.take(chosen)
    assert torch.equal(taken.label_NC, catalogue.label_NC[chosen])
    assert torch.equal(taken.near_NJ, catalogue.near_NJ[chosen])
    some, whole = encoder(taken), encoder(catalogue)
    torch.testing.assert_close(some.x_PND, whole.x_PND[:, chosen])
    assert torch.equal(some.present_NS, whole.present_NS[chosen])


def test_a_catalogue_moves_whole() -> None:
    catalogue = _encoder().beside_neighbours(small_catalogue())
    for features in (True, False):
        moved = catalogue.to(torch.device("cpu"), features)
        for name, value in vars(catalogue).items():
            there = getattr(moved, name)
            if isinstance(value, dict):
                assert list(there) == list(value)
                assert all(torch.equal(there[m], value[m]) for m in value)
            elif isinstance(value, torch.Tensor):
                assert torch.equal(there, value)
            else:
                assert there == value


def test_who_is_new_and_who_is_unknown() -> None:
    catalogue = small_catalogue()
    assert (~has_content(catalogue)).nonzero().flatten().tolist() == [8]
    assert are_new(catalogue).nonzero().flatten().tolist() == [6, 7]
    assert unknown_items(catalogue).tolist() == [8]
    assert unknown_items(replace(catalogue, id_row_N=torch.arange(N))) is None
    bare = small_catalogue(())
    assert not has_content(bare).any()
    assert not are_new(bare).any()
    assert unknown_items(bare).tolist() == [6, 7, 8]


# Ids: hidden ones, those of content streams, where they begin, and their neighbours.


def test_id_dropout_hides_the_asked_share_in_training_only() -> None:
    encoder = _bare(2000, {"text": 5}, id_dropout=0.3).train()
    catalogue = Catalogue(
        torch.arange(2000), {"text": torch.randn(2000, 5)}, {"text": torch.ones(2000).bool()}
    )
    torch.manual_seed(0)
    x_PND, present_NS = encoder(catalogue)
    hidden = ~present_NS[:, 0]
    assert 0.26 < hidden.float().mean() < 0.34
    assert torch.equal(x_PND[0, hidden], encoder.missing_SD[0].expand_as(x_PND[0, hidden]))
    assert torch.equal(x_PND[0, ~hidden], encoder.id_table.weight[~hidden])
    assert encoder.eval()(catalogue).present_NS.all()


def test_id_dropout_spares_items_that_have_nothing_else() -> None:
    encoder = _bare(200, {"text": 4}, id_dropout=0.5).train()
    catalogue = Catalogue(
        torch.arange(200), {"text": torch.randn(200, 4)}, {"text": torch.zeros(200).bool()}
    )
    assert torch.equal(encoder(catalogue).x_PND[0], encoder.id_table.weight)


def test_id_dropout_spares_only_those() -> None:
    encoder = _bare(400, {"text": 4, "image": 2}, id_dropout=0.5).train()
    has = {"text": torch.arange(400) < 100, "image": torch.arange(400) % 400 < 200}
    features = {"text": torch.randn(400, 4), "image": torch.randn(400, 2)}
    present = encoder(Catalogue(torch.arange(400), features, has)).present_NS
    assert present[200:, 0].all()
    for some in (present[:100, 0], present[100:200, 0]):
        assert 0.3 < some.float().mean() < 0.7


def test_without_content_no_id_is_ever_hidden() -> None:
    encoder = _bare(50, {}, id_dropout=0.9).train()
    assert torch.equal(
        encoder(Catalogue(torch.arange(50), {}, {})).x_PND[0], encoder.id_table.weight
    )


def test_a_hidden_id_stands_where_it_would_have_begun() -> None:
    encoder = _encoder(id_dropout=0.999, neighbours=0, fused=False)
    catalogue = replace(small_catalogue(), id_row_N=torch.arange(N))
    encoder.measure(catalogue)
    begun = encoder(replace(catalogue, id_row_N=torch.full((N,), -1)))
    hidden = encoder.train()(catalogue)
    with_content = has_content(catalogue)
    assert torch.equal(hidden.x_PND[0, with_content], begun.x_PND[0, with_content])
    assert torch.equal(hidden.x_PND[0, 8], encoder.id_table.weight[8])  # it has nothing else
    assert hidden.present_NS[:, 0].all()


def test_parts_are_the_ids_branch_and_that_of_all_streams() -> None:
    together = (Part(0, 0), Part(1, 0), Part(1, 1), Part(1, 2))
    each = (Part(0, 0), Part(1, 1), Part(2, 2))
    assert (_encoder().parts, _encoder().branches) == (together, 2)
    assert (_encoder(fused=False).parts, _encoder(fused=False).branches) == (each, 3)
    for fused in (False, True):
        assert _encoder(modalities=(), fused=fused).parts == (Part(0, 0),)
    no_id = _encoder(use_id=False)
    assert (no_id.parts, no_id.branches) == ((Part(0, 0), Part(0, 1)), 1)


def test_the_fused_branch_has_ids_of_its_own_beside_the_same_content() -> None:
    catalogue = small_catalogue()
    both, none = _encoder(fused=True), _encoder(fused=False)
    assert both.id_table.weight.shape == (N, 2 * 16)
    assert none.id_table.weight.shape == (N, 16)
    for encoder in (both, none):
        encoder.load_state_dict(both.state_dict() | {"id_table.weight": encoder.id_table.weight})
        encoder.measure(catalogue)
    x_PND, present_NS = both(catalogue)
    features_PND, there_NS = none(catalogue)
    assert torch.equal(present_NS, there_NS)
    torch.testing.assert_close(x_PND[2:], features_PND[1:])
    own = both.id_table.weight.view(N, 2, 16)
    for n in (0, 5, 11):
        near = both.near_RJ[n]
        torch.testing.assert_close(x_PND[:2, n], own[n] + own[near].mean(0))
    assert (x_PND[1, 6:9] == 0).all()  # new items have none


def test_ids_are_hidden_from_the_branch_of_all_streams_alone() -> None:
    encoder, catalogue = _encoder(id_dropout=0.999, neighbours=0), small_catalogue()
    shown, _ = encoder(catalogue)
    hidden, present_NS = encoder.train()(catalogue)
    assert torch.equal(hidden[[0, 2, 3]], shown[[0, 2, 3]])
    assert (hidden[1, :8] == 0).all()
    assert shown[1, :6].any(1).all()
    assert present_NS[:6, 0].all()


def test_ids_begin_where_their_content_is() -> None:
    torch.manual_seed(0)
    told = torch.randn(200, 3)  # what there is to tell, and a nuisance
    features = {"text": told @ torch.randn(3, 5), "image": torch.randn(200, 7) * 1e-3}
    has = {"text": torch.ones(200, dtype=torch.bool), "image": torch.arange(200) % 2 == 0}
    rows = torch.arange(200) - 20  # the first twenty are new
    catalogue = Catalogue(rows.clamp(min=-1), features, has)
    encoder = _bare(180, {"text": 5, "image": 7}, content_init=True)
    with torch.no_grad():
        encoder.id_table.weight.zero_()
    encoder.measure(catalogue)
    begun, present = encoder(catalogue)
    assert torch.equal(begun[0, 20:], encoder.id_table.weight)
    assert present[:, 0].all()
    torch.testing.assert_close(begun[0, 20:].std(0).mean(), torch.tensor(0.02), rtol=0.2, atol=0)
    near = torch.cdist(begun[0], begun[0]).fill_diagonal_(9).argmin(1)
    far = torch.cdist(told, told)
    assert far[torch.arange(200), near].mean() < 0.5 * far.mean()  # the new ones too
    plain = _bare(180, {"text": 5, "image": 7})
    before = plain.id_table.weight.clone()
    plain.measure(catalogue)
    assert torch.equal(plain.id_table.weight, before)
    x_PND, present = plain(catalogue)
    assert torch.equal(x_PND[0, :20], plain.missing_SD[0].expand(20, -1))
    assert not present[:20, 0].any()


def test_the_beginning_is_added_to_the_ids_own_stream_alone() -> None:
    encoder = _bare(N, {"text": 5}, content_init=True, fused=True)
    catalogue = small_catalogue(("text",))
    before = encoder.id_table.weight.clone()
    encoder.measure(catalogue)
    added = encoder.id_table.weight - before
    begun = encoder(replace(catalogue, id_row_N=torch.full((N,), -1))).x_PND[0]
    known = torch.tensor([0, 1, 2, 3, 5, 9, 10, 11])  # with an id and a text
    torch.testing.assert_close(added[known, :8], begun[known])
    assert begun[known].any(1).all()
    assert not added[:, 8:].any()
    assert not added[[4, 6, 7, 8]].any()


@pytest.mark.parametrize("items", [0, 1, 2, 5])
def test_ids_begin_somewhere_however_few_items_there_are(items: int) -> None:
    has = {"text": torch.arange(6) < items}
    catalogue = Catalogue(torch.arange(6), {"text": torch.randn(6, 5)}, has)
    encoder = _bare(6, {"text": 5}, width=16, content_init=True, neighbours=10)
    encoder.measure(catalogue)
    assert encoder.id_table.weight.isfinite().all()
    assert encoder.id_table.weight.abs().max() < 1
    assert encoder(catalogue).x_PND.isfinite().all()


def _on_a_line(*places: float) -> Catalogue:
    """Items whose text says where they are on half a circle; no place, no text, no neighbours."""
    angle = torch.tensor(places)
    text = torch.stack([angle.cos(), angle.sin()], dim=1).nan_to_num()
    return Catalogue(torch.arange(len(places)), {"text": text}, {"text": ~angle.isnan()})


def _neighbours(catalogue: Catalogue, number: int, ids: int, **settings: Any) -> ItemEncoder:
    encoder = _bare(ids, {"text": 2}, neighbours=number, **settings)
    projection = encoder.projections[0]
    assert isinstance(projection, FeatureProjection)
    projection.measure = lambda *_: None  # the angles as they are
    encoder.measure(catalogue)
    return encoder


@pytest.mark.parametrize("at_once", [1, 12, 10**6])
def test_neighbours_are_the_items_whose_content_has_the_largest_cosine(
    monkeypatch, at_once
) -> None:
    monkeypatch.setitem(device_kernels.COSINES_AT_ONCE, "cpu", at_once)
    catalogue = _on_a_line(0.0, 0.1, 0.3, 2.0, 2.1, float("nan"))
    encoder = _neighbours(catalogue, 2, ids=6)
    assert encoder.near_RJ is not None
    assert encoder.near_RJ.tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2], [-1, -1]]
    ids = encoder.id_table.weight
    expected = torch.stack([ids[i] + ids[near].mean(0) for i, near in enumerate(encoder.near_RJ)])
    expected[5] = ids[5]
    torch.testing.assert_close(encoder(catalogue).x_PND[0], expected)


def test_a_hidden_id_and_a_new_one_still_stand_beside_their_neighbours() -> None:
    catalogue = _on_a_line(0.0, 0.1, 0.3, float("nan"))
    catalogue = replace(catalogue, id_row_N=torch.tensor([0, 1, -1, 2]))
    encoder = _neighbours(catalogue, 1, ids=3, id_dropout=0.999)
    ids, unknown = encoder.id_table.weight, encoder.missing_SD[0]
    near = encoder.beside_neighbours(catalogue)
    x_PND, present_NS = encoder(near)
    expected = [ids[0] + ids[1], ids[1] + ids[0], unknown + ids[1], ids[2]]
    torch.testing.assert_close(x_PND[0], torch.stack(expected))
    assert present_NS[:, 0].tolist() == [True, True, True, True]
    # A new item whose neighbours are not known has no id, and an id that is hidden is as if new.
    assert encoder(catalogue).present_NS[:, 0].tolist() == [True, True, False, True]
    x_PND, present_NS = encoder.train()(near)
    expected = [unknown + ids[1], unknown + ids[0], unknown + ids[1], ids[2]]
    torch.testing.assert_close(x_PND[0], torch.stack(expected))
    assert present_NS[:, 0].all()


def test_where_there_are_too_few_neighbours_the_mean_is_of_those() -> None:
    catalogue = _on_a_line(0.0, 0.1, float("nan"))
    encoder = _neighbours(catalogue, 3, ids=3)
    assert encoder.near_RJ.tolist() == [[1, -1, -1], [0, -1, -1], [-1, -1, -1]]
    ids = encoder.id_table.weight
    expected = torch.stack([ids[0] + ids[1], ids[0] + ids[1], ids[2]])
    torch.testing.assert_close(encoder(catalogue).x_PND[0], expected)


def test_an_encoder_of_ids_alone_has_nothing_to_measure_and_no_neighbours() -> None:
    encoder, catalogue = _encoder(()), small_catalogue(())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    encoder.measure(catalogue)
    assert encoder.beside_neighbours(catalogue) is catalogue
    after = encoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_new_item_is_where_its_neighbours_are_and_is_nobody_s_neighbour() -> None:
    catalogue = _on_a_line(0.0, 2.0, 0.04, 0.1, 2.1)
    catalogue = replace(catalogue, id_row_N=torch.tensor([0, 1, -1, 2, 3]))
    encoder = _neighbours(catalogue, 2, ids=4)
    assert encoder.near_RJ.tolist() == [[2, 1], [3, 2], [0, 1], [1, 2]]
    alone = encoder(catalogue).x_PND[0]
    seen = encoder(encoder.beside_neighbours(catalogue)).x_PND[0]
    ids = encoder.id_table.weight
    torch.testing.assert_close(seen[2], encoder.missing_SD[0] + (ids[0] + ids[2]) / 2)
    others = torch.tensor([0, 1, 3, 4])
    assert torch.equal(seen[others], alone[others])


def test_a_catalogue_without_new_items_needs_no_neighbours_of_its_own() -> None:
    catalogue = _on_a_line(0.0, 2.0, 0.04)
    assert _neighbours(catalogue, 2, ids=3).beside_neighbours(catalogue) is catalogue


# Features.


def test_projection_standardises_columns_and_lets_scale_not_matter() -> None:
    catalogue = small_catalogue()
    scaled = replace(catalogue, features={m: f * 300 + 20 for m, f in catalogue.features.items()})
    encoder = _encoder()
    ids = encoder.id_table.weight.clone()
    torch.manual_seed(1)  # the ids' beginnings are turned at random
    encoder.measure(catalogue)
    before = encoder(catalogue).x_PND
    encoder.id_table.weight.data.copy_(ids)
    torch.manual_seed(1)
    encoder.measure(scaled)
    torch.testing.assert_close(encoder(scaled).x_PND, before, rtol=1e-3, atol=1e-4)
    assert [p.mean.shape for p in encoder.projections] == [(5,), (7,)]  # text, image
    assert {"projections.0.mean", "projections.1.scale"} <= set(encoder.state_dict())


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
        monkeypatch.setattr(features_module, "MEASURED_ROWS", most)
        monkeypatch.setattr(items_module, "MEASURED_ROWS", most)
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
    encoder, catalogue = _encoder(), small_catalogue()
    half = replace(catalogue, features={m: f.half() for m, f in catalogue.features.items()})
    found = encoder(half).x_PND
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, encoder(catalogue).x_PND, rtol=0.05, atol=0.05)
    encoder.measure(half)
    assert encoder(half).x_PND.isfinite().all()


def test_features_standardised_beforehand_give_the_same_streams(monkeypatch) -> None:
    monkeypatch.setattr(items_module, "MEASURED_ROWS", 3)  # in several parts
    encoder, catalogue = _encoder(), small_catalogue()
    encoder.measure(catalogue)
    catalogue = encoder.beside_neighbours(catalogue)
    before = encoder.standardised(catalogue, torch.float32)
    assert before.standardised
    assert not torch.equal(before.features["text"], catalogue.features["text"])
    some = torch.tensor([5, 0, 6, 2])
    for given, made in ((catalogue, before), (catalogue.take(some), before.take(some))):
        # Where ids begin is then a product of other rows, which rounds otherwise.
        for a, b in zip(encoder(made), encoder(given), strict=True):
            torch.testing.assert_close(a, b)
    assert before.to(torch.device("cpu")).standardised
    halved = encoder.standardised(catalogue, torch.bfloat16)
    assert halved.features["image"].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(halved).x_PND
    torch.testing.assert_close(rough, encoder(catalogue).x_PND, rtol=0.02, atol=0.01)


def _only_text(features: torch.Tensor) -> Catalogue:
    n = len(features)
    there = torch.ones(n, dtype=torch.bool)
    return Catalogue(torch.full((n,), -1), {"text": features}, {"text": there})


def test_a_feature_of_one_column_tells_items_apart() -> None:
    encoder = _bare(0, {"text": 1}, use_id=False)
    catalogue = _only_text(torch.randn(8, 1))
    encoder.measure(catalogue)
    assert len(encoder(catalogue).x_PND[0].unique(dim=0)) == 8


def test_a_column_constant_in_training_does_not_drown_a_new_item() -> None:
    torch.manual_seed(0)
    encoder = _bare(0, {"text": 16}, use_id=False, width=16)
    seen = torch.randn(50, 16)
    seen[:, 0] = 0
    encoder.measure(_only_text(seen))
    new = torch.randn(2, 16)
    new[:, 0] = 0.1
    x = encoder(_only_text(new)).x_PND[0]
    assert torch.cosine_similarity(x[0], x[1], dim=0).item() < 0.99


@each_encoder
def test_every_parameter_gets_a_gradient(changed) -> None:
    encoder = _encoder(**changed).train()
    catalogue = small_catalogue(encoder.modalities)
    encoder.measure(catalogue)
    encoder(catalogue).x_PND.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
