"""One step's loss: its parts, their weights, and what may and may not influence them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, product
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional

from cammsr_cli.config import TrainingConfig
from cammsr_cli.errors import UsageError
from cammsr_cli.model import negatives as sampling
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.model.history_windows import Events, cut
from cammsr_cli.model.losses import swap_loss
from cammsr_cli.training.objective import Objective
from cammsr_cli.training.plan import Corpus, Plan, Planner

N = 9
ITEMS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 2]
START, END = torch.tensor([0, 6]), torch.tensor([5, 10])  # of inputs: users own 0-5 and 6-10
PARTS = ["recommendation", "category", "swap"]


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
            labels,
        ),
        "events": Events(torch.tensor(ITEMS), torch.arange(len(ITEMS)) * 60),
        "ties": False,
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
    return TrainingConfig(**{"swap_weight": 0.05, "branch_share": 0.0, **changed})


def _model(**changed) -> Cammsr:
    torch.manual_seed(0)
    modalities = changed.pop("modalities", {"text": 4, "image": 6})
    parts = {"fused": False, "experts": 4, "input_norm": "dyt"}
    sizes = {"width": 16, "layers": 1, "length": 6, "dropout": 0.0, **parts, **changed}
    model = Cammsr(N, modalities, 3, **sizes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model


def _planned(objective: Objective, start: torch.Tensor, end: torch.Tensor, step: int = 0) -> Plan:
    model = objective.model
    repeats = model.repeats is not None
    planner = Planner(objective.corpus, objective.config, model.length, repeats)
    (plan,) = planner.micro_batches(start, end, step, most=len(start))
    return plan


def _parts(
    objective: Objective, start: torch.Tensor, end: torch.Tensor, step: int = 0
) -> dict[str, torch.Tensor]:
    parts: dict[str, torch.Tensor] = objective(_planned(objective, start, end, step))
    return parts


def _losses(
    model: Cammsr, corpus: Corpus | None = None, config: TrainingConfig | None = None
) -> dict[str, torch.Tensor]:
    objective = Objective(model, corpus or _corpus(), config or _config())
    torch.manual_seed(11)
    return _parts(objective, START, END)


def test_the_loss_is_the_mean_weighted_by_the_targets_events() -> None:
    """Of weights that are 1 for one target alone, and of all together."""
    model = _model()

    def loss(weights: list[float]) -> float:
        weight_E = torch.tensor(weights)
        events = dataclasses.replace(_corpus().events, weight_E=weight_E)
        return float(_losses(model, _corpus(events=events))["recommendation"].detach())

    tiny = 1e-9
    targets = [at for at in range(len(ITEMS)) if at not in (0, 6)]
    alone = [loss([1.0 if at == one else tiny for at in range(len(ITEMS))]) for one in targets]
    weights = [float(at % 4 + 1) for at in range(len(ITEMS))]
    chosen = [weights[at] for at in targets]
    mean = sum(w * one for w, one in zip(chosen, alone, strict=True)) / sum(chosen)
    assert loss(weights) == pytest.approx(mean, rel=1e-4)
    even = float(_losses(model)["recommendation"].detach())
    assert loss([3.0] * len(ITEMS)) == pytest.approx(even, rel=1e-5)
    assert even == pytest.approx(sum(alone) / len(alone), rel=1e-4)


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
    weights = ("category_weight", "swap_weight")
    once = _losses(model, config=_config(**dict.fromkeys(weights, 1.0)))
    for weight in weights:
        scaled = _losses(model, config=_config(**{**dict.fromkeys(weights, 1.0), weight: 2.5}))
        for name, value in once.items():
            factor = 2.5 if weight.startswith(name) else 1.0
            torch.testing.assert_close(scaled[name], factor * value)


def test_a_part_of_weight_nought_is_not_computed() -> None:
    none = _config(category_weight=0.0, swap_weight=0.0)
    assert list(_losses(_model(), config=none)) == ["recommendation"]


@pytest.mark.parametrize(
    ("changed", "absent"),
    [
        ({"guidance": "equal"}, set()),  # categories weigh items still
        ({"item_weights": False}, set()),  # or guide the experts still
        ({"guidance": "equal", "item_weights": False}, {"category"}),
        ({"experts": 0, "item_weights": False}, {"category"}),
        ({"modalities": {"text": 4}}, set()),
        ({"modalities": {}}, {"category", "swap"}),
        ({"modalities": {}, "experts": 0}, {"category", "swap"}),
    ],
)
def test_parts_the_model_lacks_are_left_out(changed, absent) -> None:
    for corpus in (_corpus(), _sampled()):
        assert set(_losses(_model(**changed), corpus)) == set(PARTS) - absent


def _states(model: Cammsr, corpus: Corpus, start: int, end: int) -> torch.Tensor:
    """The states after each event of one history, alone: [L, X]."""
    tables = model.item_tables(corpus.catalogue)
    window = cut(corpus.events, torch.tensor([start]), torch.tensor([end]))
    return model.queries(tables, window)[0]


def test_recommendation_is_cross_entropy_of_each_next_event() -> None:
    model, corpus = _model(repeats=False), _corpus()
    target_NV = model.item_tables(corpus.catalogue).target_NV
    expected = []
    for start, end in zip(START.tolist(), END.tolist(), strict=True):
        for at in range(start, end):  # from the history up to `at`, alone, the item at + 1
            score = _states(model, corpus, start, at + 1)[-1] @ target_NV.T
            expected.append(functional.cross_entropy(score, torch.tensor(ITEMS[at + 1])))
    ours = _losses(model)["recommendation"]
    torch.testing.assert_close(ours, torch.stack(expected).mean())


# Two histories with repeats; of each position, the items before it and how long ago they were.
REPEATED = Events(torch.tensor([3, 1, 3, 3, 5, 1, 7, 7, 0, 7]), torch.arange(10) * 60)
REPEATED_START, REPEATED_END = torch.tensor([0, 6]), torch.tensor([5, 9])
AGES = [
    {3: 1},
    {1: 1, 3: 2},
    {3: 1, 1: 2},
    {3: 1, 1: 3},
    {5: 1, 3: 2, 1: 4},
    {7: 1},
    {7: 1},
    {0: 1, 7: 2},
]
NEXT = [1, 3, 3, 5, 1, 7, 0, 7]
BUCKET = {1: 0, 2: 1, 3: 1, 4: 2}


@pytest.mark.parametrize("sampled", [False, True], ids=["full", "sampled"])
@pytest.mark.parametrize("new", [False, True], ids=["all known", "some new"])
def test_the_items_of_each_position_s_own_history_have_their_bias(sampled: bool, new: bool) -> None:
    known, negative_pool = torch.arange(N), list(range(N))
    if new:  # item 2 is then no rival, and the places of those after it are others
        known[2] = -1
        negative_pool.remove(2)
    catalogue = dataclasses.replace(_corpus().catalogue, id_row_N=known)
    corpus = _corpus(catalogue=catalogue, events=REPEATED, sampled=sampled)
    model = _model()
    assert model.repeats is not None
    with torch.no_grad():
        model.repeats.weight_R.copy_(torch.tensor([-0.2, 0.3, 0.1]))
    objective = Objective(model, corpus, _config(negatives=200 * N))  # a sample has all of them
    ours = _parts(objective, REPEATED_START, REPEATED_END)["recommendation"]

    target_NV = model.item_tables(catalogue).target_NV
    states = torch.cat([_states(model, corpus, 0, 5), _states(model, corpus, 6, 9)])
    weight_R = model.repeats.weight_R.detach().clone().requires_grad_()
    each = []
    for state, ages, target in zip(states, AGES, NEXT, strict=True):
        score = list(target_NV @ state)
        for item, age in ages.items():
            score[item] = score[item] + 10 * weight_R[BUCKET[age]]
        told = torch.stack([score[item] for item in negative_pool])
        each.append(functional.cross_entropy(told, torch.tensor(negative_pool.index(target))))
    theirs = torch.stack(each).mean()
    torch.testing.assert_close(ours, theirs)
    (our_gradient,) = torch.autograd.grad(ours, [model.repeats.weight_R])
    (their_gradient,) = torch.autograd.grad(theirs, [weight_R])
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("separate", [True, False], ids=["bias separate", "bias in all gradients"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sampled", [False, True], ids=["full", "sampled"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_share_of_the_loss_is_the_branches_mean_each_by_its_score_alone(
    fused: bool, sampled: bool, share: float, separate: bool
) -> None:
    corpus = _corpus(events=REPEATED, sampled=sampled)
    model, config = _model(fused=fused), _config(negatives=200 * N, branch_share=share)
    assert model.repeats is not None
    model.repeats.separate = separate
    with torch.no_grad():
        model.repeats.weight_R.copy_(torch.tensor([-0.2, 0.3, 0.1]))
    target_NV = model.item_tables(corpus.catalogue).target_NV
    states = torch.cat([_states(model, corpus, 0, 5), _states(model, corpus, 6, 9)])
    each = []
    for state, ages, target in zip(states, AGES, NEXT, strict=True):
        parts = torch.split(target_NV * state, [16, 48] if fused else [16, 16, 16], dim=1)
        branches = [part.sum(1) for part in parts]
        bias_N = torch.zeros(N)
        for item, age in ages.items():
            bias_N = bias_N.scatter(0, torch.tensor(item), model.repeats(torch.tensor(age)))
        losses = [
            functional.cross_entropy(score, torch.tensor(target))
            for score in (
                sum(branches) + bias_N,
                *(branch + bias_N / len(branches) for branch in branches),
            )
        ]
        each.append((1 - share) * losses[0] + share * sum(losses[1:]) / len(branches))
    objective = Objective(model, corpus, config)
    ours = _parts(objective, REPEATED_START, REPEATED_END)["recommendation"]
    theirs = torch.stack(each).mean()
    torch.testing.assert_close(ours, theirs)
    if separate:
        return
    parameters = list(model.parameters())
    our_gradients, their_gradients = (
        torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (ours, theirs)
    )
    for our, their in zip(our_gradients, their_gradients, strict=True):
        assert (our is None) == (their is None)
        if our is not None:
            torch.testing.assert_close(our, their, rtol=1e-3, atol=1e-6)


def test_one_stream_has_no_loss_beside_that_of_the_score() -> None:
    model = _model(modalities={})
    ours, theirs = (_losses(model, config=_config(branch_share=share)) for share in (0.0, 0.7))
    assert torch.equal(ours["recommendation"], theirs["recommendation"])


def test_labels_move_the_category_loss_and_the_guide_of_what_histories_hold() -> None:
    """Never the items that are scored: their weights are of predicted categories."""
    model, corpus = _model(), _corpus()
    held = [0, 1, 2, 3, 4, 6, 7, 8]
    labels = corpus.catalogue.label_NC
    assert labels is not None

    def relabelled(items: list[int]) -> Corpus:
        changed = labels.clone()
        changed[items] = labels[items].roll(1, dims=1)
        return _corpus(catalogue=dataclasses.replace(corpus.catalogue, label_NC=changed))

    ours = _losses(model, corpus)
    theirs = _losses(model, relabelled([item for item in range(N) if item not in held]))
    for name in ("recommendation", "swap"):
        assert torch.equal(ours[name], theirs[name])
    assert not torch.allclose(ours["category"], theirs["category"])
    for name, value in _losses(model, relabelled(held)).items():
        assert not torch.equal(value, ours[name]), name


# --- the swap of modalities ---------------------------------------------------------------------


def _swapped_states(
    model: Cammsr, corpus: Corpus, pair: tuple[int, int], rate: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """States of two streams after the last event of each window, alone; all traded or none."""
    tables = model.item_tables(corpus.catalogue)
    found = []
    for start, end in zip(START, END, strict=True):
        window = cut(corpus.events, start[None], end[None])
        e_SBLD, mask = model.history(tables, window)
        given = e_SBLD[list(pair)[::-1] if rate else list(pair)]
        found.append(model.encode(given, mask, list(pair))[:, 0, -1])
    one, other = torch.stack(found, dim=1)
    return one, other


@pytest.mark.parametrize("rate", [0, 1])
@pytest.mark.parametrize("corpus", [_corpus(), _sampled()], ids=["full", "sampled"])
def test_swap_compares_the_streams_after_each_window_s_last_event(corpus, rate: int) -> None:
    """Equation 18, of each pair of streams: traded everywhere, or plain."""
    model = _model()
    config = _config(swap_rate=float(rate), swap_weight=1.0, swap_temperature=0.3)
    expected = sum(
        swap_loss(*_swapped_states(model, corpus, pair, rate), config.swap_temperature)
        for pair in combinations(range(3), 2)
    )
    torch.testing.assert_close(_losses(model, corpus, config)["swap"], expected)


@pytest.mark.parametrize("name", ["text-image", "image-text"])
def test_swap_can_be_of_some_pairs_alone(name: str) -> None:
    """The paper's ablation: each pair of swaps by itself."""
    model, corpus = _model(), _corpus()
    config = _config(swap_rate=1.0, swap_weight=1.0, swap_pairs=[name])
    expected = swap_loss(*_swapped_states(model, corpus, (1, 2), 1), config.swap_temperature)
    torch.testing.assert_close(_losses(model, corpus, config)["swap"], expected)
    none = _losses(model, corpus, _config(swap_weight=1.0, swap_pairs=[]))
    assert "swap" not in none


@pytest.mark.parametrize(
    ("fused", "there"), [(False, "id-text, id-image, text-image"), (True, "id-all")]
)
def test_a_pair_to_swap_that_there_is_not_is_refused_with_those_there_are(fused, there) -> None:
    config = _config(swap_pairs=["text-video", "id-id"])
    with pytest.raises(UsageError, match=f"no pair text-video, id-id; there are: {there}$"):
        Objective(_model(fused=fused), _corpus(), config)


def test_without_trading_it_is_infonce_of_the_plain_states() -> None:
    model, corpus = _model(), _corpus()
    last = torch.stack(
        [
            _states(model, corpus, start, end)[-1]
            for start, end in zip(START.tolist(), END.tolist(), strict=True)
        ]
    )
    state_SBD = last.view(2, 3, 16).transpose(0, 1)
    expected = sum(
        swap_loss(state_SBD[one], state_SBD[other], 1.0) for one, other in ((0, 1), (0, 2), (1, 2))
    )
    config = _config(swap_rate=0.0, swap_weight=1.0)
    torch.testing.assert_close(_losses(model, corpus, config)["swap"], expected)


def test_each_position_trades_places_by_itself() -> None:
    """Two histories of one event, two streams: four ways to trade, all of them drawn."""
    model, corpus = _model(modalities={"text": 4}), _corpus()
    tables = model.item_tables(corpus.catalogue)
    start, end = torch.tensor([0, 6]), torch.tensor([1, 7])
    e_SBLD, _ = model.history(tables, cut(corpus.events, start, end))
    expected = []
    for traded in product([False, True], repeat=2):
        given = torch.where(torch.tensor(traded)[:, None, None], e_SBLD.flip(0), e_SBLD)
        one, other = model.encode(given, None)[:, :, -1]
        expected.append(swap_loss(one, other, 1.0).item())
    objective = Objective(model, corpus, _config(swap_weight=1.0))
    torch.manual_seed(0)
    plan = _planned(objective, start, end)
    found = {round(objective(plan)["swap"].item(), 4) for _ in range(60)}
    assert found == {round(value, 4) for value in expected}
    assert len(found) == 4


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
        return _parts(Objective(model, changed, _config()), start, end)

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
    model, config = _model(), _config(category_weight=0, swap_weight=0)
    events = Events(torch.tensor([3, 1, 4]), torch.zeros(3).long())
    start, end = torch.tensor([0]), torch.tensor([2])

    def of(order: list[int], ties: bool) -> Objective:
        given = Events(events.item_E[order], events.time_E)
        return Objective(model, _corpus(events=given, ties=ties), config)

    orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]

    def loss_of(objective: Objective, step: int = 0) -> float:
        return _parts(objective, start, end, step)["recommendation"].item()

    each = {loss_of(of(order, ties=False)) for order in orders}
    assert len(each) == 6
    dealt = of(orders[0], ties=True)
    assert {loss_of(dealt, step) for step in range(60)} == each


# --- a sample of the catalogue ------------------------------------------------------------------


def test_a_sample_of_everything_gives_the_loss_of_everything() -> None:
    model, config = _model(), _config(negatives=50 * N)
    full, sampled = _losses(model, _corpus(), config), _losses(model, _sampled(), config)
    for name in ("recommendation", "category"):
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


@pytest.mark.parametrize("sparse", [False, True])
def test_a_sample_reaches_every_parameter(sparse: bool) -> None:
    model = _model(neighbours=0).train()
    assert model.items.id_table is not None
    model.items.id_table.sparse = sparse
    parts = _losses(model, _sampled(), _config(negatives=3))
    assert list(parts) == PARTS
    _require_gradients(model, parts)
    assert model.items.id_table.weight.grad.is_sparse == sparse


@contextmanager
def _drawing(*items: int) -> Iterator[None]:
    """Draws of the catalogue give just these items."""
    with patch.object(sampling.torch, "randint", lambda *_, **__: torch.tensor(items)):
        yield


def test_the_loss_of_a_sample_by_hand() -> None:
    """Only targets and what was drawn are told apart, others' scores corrected, one's own not."""
    model, corpus = _model(), _sampled()
    with _drawing(0, 8, 8, 0):
        objective = Objective(model, corpus, _config(negatives=8, swap_weight=0))
        parts = _parts(objective, START[1:], END[1:])
    targets = [7, 8, 0, 2]
    candidates = [0, 2, 7, 8]  # what follows the events 6-9, and what was drawn
    target_NV = model.item_tables(corpus.catalogue).target_NV
    assert model.repeats is not None
    each = []
    for at, (state, target) in enumerate(zip(_states(model, corpus, 6, 10), targets, strict=True)):
        score = target_NV @ state
        history = [6, 7, 8, 0][: at + 1]
        score[history] += model.repeats(torch.arange(at + 1, 0, -1))
        mass = sum(
            score[item].exp()
            / (1 - math.exp(-4 * corpus.share_N[item] - 4 / N) if item != target else 1)
            for item in candidates
        )
        each.append(mass.log() - score[target])
    torch.testing.assert_close(parts["recommendation"], torch.stack(each).mean())


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
            objective = Objective(model, corpus, _config(negatives=8, swap_weight=0))
            return _parts(objective, START[1:], END[1:])

    whole, part = losses_of(corpus), losses_of(_without_items(corpus, [1, 4, 5]))
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    for item in (0, 2, 3, 6, 7, 8):
        lacking = losses_of(_without_items(corpus, [item]))
        assert lacking["recommendation"].isnan(), item


def test_a_sample_s_item_drawn_by_nobody_gets_no_gradient() -> None:
    model, corpus = _model(neighbours=0), _sampled()
    assert model.items.id_table is not None
    model.items.id_table.sparse = True
    with _drawing(3, 3, 3, 3):
        config = _config(negatives=8, swap_weight=0)
        parts = _parts(Objective(model, corpus, config), START[1:], END[1:])
    torch.stack(list(parts.values())).sum().backward()
    met = model.items.id_table.weight.grad.coalesce().indices()[0].tolist()
    assert met == [0, 2, 3, 6, 7, 8]


def test_categories_are_learnt_of_the_items_in_the_sample() -> None:
    model, corpus = _model(), _sampled()
    weights = {"category_weight": 1.0, "swap_weight": 0.0, "negatives": 8}
    with _drawing(3, 3, 3, 3):
        objective = Objective(model, corpus, _config(**weights))
        ours = _parts(objective, START[1:], END[1:])["category"]
    needed = torch.tensor([0, 2, 3, 6, 7, 8])
    catalogue = corpus.catalogue.take(needed)
    tables = model.item_tables(catalogue)
    assert catalogue.label_NC is not None
    kept = catalogue.label_NC.any(1)  # 7 and 8 have none
    assert kept.tolist() == [True, True, True, True, False, False]
    each = [
        functional.binary_cross_entropy_with_logits(
            tables.category_TNC[stream, item], catalogue.label_NC[item].float()
        )
        for item in kept.nonzero().squeeze(1).tolist()
        for stream in range(3)
        if tables.present_NT[item, stream]
    ]
    assert len(each) == 11  # item 2 has no image
    torch.testing.assert_close(ours, torch.stack(each).mean())


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
        catalogue=Catalogue(id_row, features, {"text": here, "image": here}, known.label_NC),
        events=Events(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 3, 0, 2]), torch.arange(11) * 60),
    )
    model = _model(use_id=False)
    for one in features.values():
        one.requires_grad_()
    config = _config(negatives=4096)  # the sample, too, holds every item
    loss = _losses(model, corpus, config)["recommendation"]
    moved = torch.autograd.grad(loss, [*features.values(), model.items.missing_SD])
    assert not moved[0][8].any()
    assert not moved[1][8].any()
    assert moved[2].any() == (not content)  # an item without content is described by these
    assert (moved[0][:8] != 0).any(1).all()
