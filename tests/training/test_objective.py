"""One step's loss: its parts, their weights, and what may and may not influence them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional

from cammsr_cli.config import TrainingConfig
from cammsr_cli.core import sampling
from cammsr_cli.core.losses import swap_loss
from cammsr_cli.core.model import Cammsr, Catalogue
from cammsr_cli.core.windows import Events, cut
from cammsr_cli.training.objective import Corpus, Objective

N = 9
ITEMS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 2]
START, END = torch.tensor([0, 6]), torch.tensor([5, 10])  # of inputs: users own 0-5 and 6-10
PARTS = ["recommendation", "category", "swap", "balance"]


def _corpus(**changed) -> Corpus:
    torch.manual_seed(3)
    present = torch.ones(N, dtype=torch.bool)
    present[[2, 5]] = False
    labels = torch.zeros(N, 3, dtype=torch.bool)
    labels[torch.arange(7), torch.arange(7) % 3] = True
    given = {
        "catalogue": Catalogue(
            torch.arange(N),
            {"text": torch.randn(N, 4), "image": torch.randn(N, 6)},
            {"text": torch.ones(N, dtype=torch.bool), "image": present},
        ),
        "events": Events(torch.tensor(ITEMS), torch.arange(len(ITEMS)) * 60),
        "ties": False,
        "label_NC": labels,
        "multi_label": False,
        "share_N": torch.bincount(torch.tensor(ITEMS), minlength=N) / len(ITEMS),
        "sampled": False,
        "large": False,
        **changed,
    }
    return Corpus(**given)


def _sampled(**changed) -> Corpus:
    """As a large catalogue is learnt from: by a sample, drawn by how often items are targets."""
    return _corpus(sampled=True, **changed)


def _config(**changed) -> TrainingConfig:
    given = {
        "balance_weight": 0.01,
        "swap_weight": 0.05,
        "swap_share": 0.5,
        "fused_negatives": 0,
        **changed,
    }
    return TrainingConfig(**given)


def _model(**changed) -> Cammsr:
    torch.manual_seed(0)
    modalities = changed.pop("modalities", {"text": 4, "image": 6})
    sizes = {"width": 16, "layers": 1, "length": 6, "dropout": 0.0, **changed}
    model = Cammsr(N, modalities, 3, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model


def _losses(
    model: Cammsr, corpus: Corpus | None = None, config: TrainingConfig | None = None
) -> dict[str, torch.Tensor]:
    objective = Objective(model, corpus or _corpus(), config or _config())
    torch.manual_seed(11)
    parts: dict[str, torch.Tensor] = objective(START, END)
    return parts


def _require_gradients(model: Cammsr, parts: dict[str, torch.Tensor]) -> None:
    loss = torch.stack(list(parts.values())).sum()
    assert loss.isfinite()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        gradient = parameter.grad.to_dense()
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name


def test_all_parts_are_there_finite_and_reach_every_parameter() -> None:
    model = _model().train()
    parts = _losses(model)
    assert list(parts) == PARTS
    _require_gradients(model, parts)


def test_each_part_is_scaled_by_its_weight() -> None:
    model = _model()
    weights = ("category_weight", "swap_weight", "balance_weight")
    once = _losses(model, config=_config(**dict.fromkeys(weights, 1.0)))
    for weight in weights:
        scaled = _losses(model, config=_config(**{**dict.fromkeys(weights, 1.0), weight: 2.5}))
        for name, value in once.items():
            factor = 2.5 if weight.startswith(name) else 1.0
            torch.testing.assert_close(scaled[name], factor * value)


def test_a_part_of_weight_nought_is_not_computed() -> None:
    none = _config(category_weight=0.0, swap_weight=0.0, balance_weight=0.0)
    assert list(_losses(_model(), config=none)) == ["recommendation"]


@pytest.mark.parametrize(
    ("changed", "absent"),
    [
        ({"guidance": False}, {"category"}),
        ({"experts": 0}, {"balance"}),
        ({"modalities": {"text": 4}}, {"swap"}),
        ({"modalities": {}}, {"category", "swap", "balance"}),
    ],
)
def test_parts_the_model_lacks_are_left_out(changed, absent) -> None:
    for corpus in (_corpus(), _sampled()):
        assert set(_losses(_model(**changed), corpus)) == set(PARTS) - absent


def test_recommendation_is_cross_entropy_of_each_next_event_for_each_reader() -> None:
    model, corpus = _model(), _corpus()
    tables = model.item_tables(*model.item_streams(corpus.catalogue))
    expected = []
    for start, end in zip(START.tolist(), END.tolist(), strict=True):
        for at in range(start, end):  # from the history up to `at`, alone, the item at + 1
            window = cut(corpus.events, torch.tensor([start]), torch.tensor([at + 1]))
            state = model.user_states(tables, window)[0, -1]
            query, target = model.queries(state), torch.tensor(ITEMS[at + 1])
            each = [query[one] @ tables.target_NV[:, one].T for one in model.readers]
            expected.append(sum(functional.cross_entropy(score, target) for score in each))
    ours = _losses(model)["recommendation"]
    torch.testing.assert_close(ours, torch.stack(expected).mean())


def test_the_guide_is_the_prediction_never_the_label() -> None:
    model, corpus = _model(), _corpus()
    other = dataclasses.replace(corpus, label_NC=corpus.label_NC.roll(1, dims=1))
    ours, theirs = _losses(model), _losses(model, other)
    for name in ("recommendation", "swap", "balance"):
        assert torch.equal(ours[name], theirs[name])
    assert not torch.allclose(ours["category"], theirs["category"])


def test_swapping_nothing_aligns_each_state_with_itself() -> None:
    """With share 0 both views are one; only other users' states keep the loss from nought."""
    model = _model()
    same, mixed = (
        _losses(model, config=_config(swap_share=share, swap_temperature=0.01))["swap"].item()
        for share in (0.0, 1.0)
    )
    assert same <= mixed
    assert same < 0.05 * 0.7


@pytest.mark.parametrize("corpus", [_corpus(), _sampled()], ids=["full", "sampled"])
def test_swap_compares_the_states_after_each_window_s_last_event(corpus: Corpus) -> None:
    model, config = _model(), _config(swap_share=1.0, swap_weight=1.0)
    plain = model.item_streams(corpus.catalogue)
    views = []
    for streams in (plain, model.swapped(plain, 1)):  # two modalities: one other seat
        tables = model.item_tables(*streams)
        alone = [cut(corpus.events, START[u : u + 1], END[u : u + 1]) for u in range(len(START))]
        views.append(
            torch.stack([model.user_states(tables, w)[0, -1, : model.width] for w in alone])
        )
    target = corpus.events.item_E[END]
    expected = swap_loss(*views, target, config.swap_temperature)
    torch.testing.assert_close(_losses(model, corpus, config)["swap"], expected)


@pytest.mark.parametrize("corpus", [_corpus(), _sampled()], ids=["full", "sampled"])
@pytest.mark.parametrize("ties", [False, True], ids=["as they are", "dealt"])
def test_the_step_needs_no_event_beyond_the_last_target(corpus: Corpus, ties: bool) -> None:
    """What comes after a window's last target - validation, test - never matters."""
    model = _model()
    # Both windows end before the last event: 0-3 with target 4, 6-8 with target 9.
    start, end = START, END - 1
    corpus = dataclasses.replace(corpus, ties=ties)

    def losses_of(item: torch.Tensor, time: torch.Tensor) -> dict[str, torch.Tensor]:
        changed = dataclasses.replace(corpus, events=Events(item, time))
        torch.manual_seed(11)
        parts: dict[str, torch.Tensor] = Objective(model, changed, _config())(start, end)
        return parts

    item, time = corpus.events.item_E, corpus.events.time_E
    ours = losses_of(item, time)
    others, later = item.clone(), time.clone()
    others[[5, 10]] = 8
    later[5] = later[4]  # as if bought with the last target
    later[10] = 10**8
    theirs = losses_of(others, later)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    others[4] = 8  # the first window's last target
    assert losses_of(others, later)["recommendation"] != ours["recommendation"]


def test_tied_events_are_dealt_anew_inputs_and_target_together() -> None:
    """Three events at one time: any of them may be the target of any other."""
    model, config = _model(), _config(category_weight=0, swap_weight=0, balance_weight=0)
    events = Events(torch.tensor([3, 1, 4]), torch.zeros(3).long())
    start, end = torch.tensor([0]), torch.tensor([2])

    def of(order: list[int], ties: bool) -> Objective:
        given = Events(events.item_E[order], events.time_E)
        return Objective(model, _corpus(events=given, ties=ties), config)

    orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    each = {of(order, ties=False)(start, end)["recommendation"].item() for order in orders}
    assert len(each) == 6
    dealt = of(orders[0], ties=True)
    torch.manual_seed(0)
    assert {dealt(start, end)["recommendation"].item() for _ in range(60)} == each


# --- a sample of the catalogue ------------------------------------------------------------------


def test_a_sample_of_everything_gives_the_loss_of_everything() -> None:
    model, config = _model(), _config(negatives=50 * N)
    full, sampled = _losses(model, _corpus(), config), _losses(model, _sampled(), config)
    for name in ("recommendation", "category", "balance"):
        torch.testing.assert_close(sampled[name], full[name], msg=name)


def test_a_sample_of_everything_gives_the_gradient_of_everything() -> None:
    gradients = []
    for corpus in (_corpus(), _sampled()):
        model = _model()
        parts = _losses(model, corpus, _config(negatives=50 * N, swap_weight=0))
        torch.stack(list(parts.values())).sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("corpus", [_corpus(), _sampled()], ids=["full", "sampled"])
def test_the_fused_items_reader_has_a_sample_of_its_own(corpus: Corpus) -> None:
    """Of everything it gives the loss of everything; of less, the ids' reader keeps its own."""
    model = _model()
    full, same, less = (
        _losses(model, corpus, _config(negatives=50 * N, fused_negatives=few))
        for few in (0, 50 * N, 2)
    )
    torch.testing.assert_close(same["recommendation"], full["recommendation"])
    assert less["recommendation"] != full["recommendation"]
    gradients = []
    for few in (0, 2):
        model = _model(id_dropout=0.0)
        config = _config(negatives=50 * N, fused_negatives=few, swap_weight=0)
        _losses(model, corpus, config)["recommendation"].backward()
        assert model.id_sequence is not None
        gradients.append([p.grad for p in model.id_sequence.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_sample_reaches_every_parameter(sparse: bool) -> None:
    model = _model(id_neighbours=0).train()
    assert model.id_table is not None
    model.id_table.sparse = sparse
    parts = _losses(model, _sampled(), _config(negatives=3))
    assert list(parts) == PARTS
    _require_gradients(model, parts)
    assert model.id_table.weight.grad.is_sparse == sparse


@contextmanager
def _drawing(*items: int) -> Iterator[None]:
    """Draws of the catalogue give just these items."""
    with patch.object(sampling.torch, "randint", lambda *_, **__: torch.tensor(items)):
        yield


def test_the_loss_of_a_sample_by_hand() -> None:
    """Only targets and what was drawn are told apart, others' scores corrected, one's own not."""
    model, corpus = _model(), _sampled()
    with _drawing(0, 8, 8, 0):
        parts = Objective(model, corpus, _config(negatives=8, swap_weight=0))(START[1:], END[1:])
    targets = [7, 8, 0, 2]
    candidates = [0, 2, 7, 8]  # what follows the events 6-9, and what was drawn
    tables = model.item_tables(*model.item_streams(corpus.catalogue))
    states = model.user_states(tables, cut(corpus.events, START[1:], END[1:]))[0]
    each = []
    for state, target in zip(states, targets, strict=True):
        for reader in model.readers:
            score = tables.target_NV[:, reader] @ model.queries(state)[reader]
            mass = sum(
                score[item].exp()
                / (1 - math.exp(-4 * corpus.share_N[item] - 4 / N) if item != target else 1)
                for item in candidates
            )
            each.append(mass.log() - score[target])
    torch.testing.assert_close(parts["recommendation"], torch.stack(each).sum() / len(targets))


def _without_items(corpus: Corpus, unneeded: list[int]) -> Corpus:
    """Reading the features of some items gives nothing that could pass unnoticed."""
    features = {m: f.clone() for m, f in corpus.catalogue.features.items()}
    for values in features.values():
        values[unneeded] = float("nan")
    return dataclasses.replace(
        corpus, catalogue=dataclasses.replace(corpus.catalogue, features=features)
    )


def test_a_sample_reads_only_the_features_of_items_it_needs() -> None:
    # The second window reads 6, 7, 8, 0, its targets are 7, 8, 0, 2; and 3 is drawn.
    model, corpus = _model(), _sampled()

    def losses_of(corpus: Corpus) -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        with _drawing(3, 3, 3, 3):
            parts: dict[str, torch.Tensor] = Objective(
                model, corpus, _config(negatives=8, swap_weight=0)
            )(START[1:], END[1:])
        return parts

    whole, part = losses_of(corpus), losses_of(_without_items(corpus, [1, 4, 5]))
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    for item in (0, 2, 3, 6, 7, 8):
        lacking = losses_of(_without_items(corpus, [item]))
        assert lacking["recommendation"].isnan(), item


def test_a_sample_s_item_drawn_by_nobody_gets_no_gradient() -> None:
    model, corpus = _model(id_neighbours=0), _sampled()
    assert model.id_table is not None
    model.id_table.sparse = True
    with _drawing(3, 3, 3, 3):
        config = _config(negatives=8, swap_weight=0)
        parts = Objective(model, corpus, config)(START[1:], END[1:])
    torch.stack(list(parts.values())).sum().backward()
    met = model.id_table.weight.grad.coalesce().indices()[0].tolist()
    assert met == [0, 2, 3, 6, 7, 8]


def test_categories_are_learnt_of_the_items_in_the_sample() -> None:
    model, corpus = _model(), _sampled()
    weights = {"category_weight": 1.0, "swap_weight": 0.0, "negatives": 8}
    with _drawing(3, 3, 3, 3):
        ours = Objective(model, corpus, _config(**weights))(START[1:], END[1:])["category"]
    needed = torch.tensor([0, 2, 3, 6, 7, 8])
    logits = model.item_tables(*model.item_streams(corpus.catalogue)).fused.category_NC[needed]
    labels = corpus.label_NC[needed]
    kept = labels.any(1)  # 7 and 8 have none
    assert kept.tolist() == [True, True, True, True, False, False]
    expected = functional.cross_entropy(logits[kept], labels[kept].float())
    torch.testing.assert_close(ours, expected)


def test_features_may_lie_in_memory_of_half_precision() -> None:
    model, corpus = _model(), _sampled()
    half = {m: f.half() for m, f in corpus.catalogue.features.items()}
    catalogue = dataclasses.replace(corpus.catalogue, features=half)
    ours = _losses(model, corpus)
    theirs = _losses(model, dataclasses.replace(corpus, catalogue=catalogue))
    torch.testing.assert_close(ours["recommendation"], theirs["recommendation"], rtol=0.01, atol=0)


@pytest.mark.parametrize("sampled", [False, True], ids=["whole", "sampled"])
@pytest.mark.parametrize("content", [False, True], ids=["unknown", "known"])
def test_an_item_that_training_never_met_is_no_rival_if_its_content_is_known(
    content: bool, sampled: bool
) -> None:
    known = _corpus().catalogue
    features = {name: values.clone() for name, values in known.features.items()}
    id_row = torch.arange(N)
    id_row[8] = -1
    here = torch.ones(N, dtype=torch.bool)
    here[8] = content
    corpus = _corpus(
        sampled=sampled,
        large=True,  # features as they are, so that what moves them can be asked
        catalogue=Catalogue(id_row, features, {"text": here, "image": here}),
        events=Events(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 3, 0, 2]), torch.arange(11) * 60),
    )
    model = _model(use_id=False)
    for one in features.values():
        one.requires_grad_()
    config = _config(negatives=4096)  # the sample, too, holds every item
    loss = _losses(model, corpus, config)["recommendation"]
    moved = torch.autograd.grad(loss, [*features.values(), model.missing_SD])
    assert not moved[0][8].any()
    assert not moved[1][8].any()
    assert moved[2].any() == (not content)  # an item without content is described by these
    assert (moved[0][:8] != 0).any(1).all()
