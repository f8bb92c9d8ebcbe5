"""One step's loss: its parts, their weights, and what may and may not influence them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from cammsr_cli.config import TrainingConfig
from cammsr_cli.core.losses import swap_loss
from cammsr_cli.core.model import Cammsr, Catalogue
from cammsr_cli.core.windows import Events, cut
from cammsr_cli.training.objective import Labels, Objective

N = 9
ITEMS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 2]
START, END = torch.tensor([0, 6]), torch.tensor([5, 10])  # of inputs: users own 0-5 and 6-10


def _objective(**changed) -> Objective:
    torch.manual_seed(3)
    present = torch.ones(N, dtype=torch.bool)
    present[[2, 5]] = False
    labels = torch.zeros(N, 3)
    labels[torch.arange(7), torch.arange(7) % 3] = 1
    given = {"balance_weight": 0.01, "swap_weight": 0.05, "swap_share": 0.5, **changed}
    return Objective(
        Catalogue(
            torch.arange(N),
            {"text": torch.randn(N, 4), "image": torch.randn(N, 6)},
            {"text": torch.ones(N, dtype=torch.bool), "image": present},
        ),
        Events(torch.tensor(ITEMS), torch.arange(len(ITEMS)) * 60),
        Labels(labels, multi_label=False),
        TrainingConfig(**given),
    )


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


def _losses(objective: Objective, model: Cammsr) -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    return objective.losses(model, START, END)


def test_all_parts_are_there_finite_and_reach_every_parameter() -> None:
    model = _model().train()
    parts = _losses(_objective(), model)
    assert list(parts) == ["recommendation", "category", "swap", "balance"]
    loss = torch.stack(list(parts.values())).sum()
    assert loss.isfinite()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_each_part_is_scaled_by_its_weight() -> None:
    model = _model()
    weights = ("category_weight", "swap_weight", "balance_weight")
    once = _losses(_objective(**dict.fromkeys(weights, 1.0)), model)
    for weight in weights:
        scaled = _losses(_objective(**{**dict.fromkeys(weights, 1.0), weight: 2.5}), model)
        for name, value in once.items():
            factor = 2.5 if weight.startswith(name) else 1.0
            torch.testing.assert_close(scaled[name], factor * value)


def test_a_part_of_weight_nought_is_not_computed() -> None:
    none = _objective(category_weight=0.0, swap_weight=0.0, balance_weight=0.0)
    assert list(_losses(none, _model())) == ["recommendation"]


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
    parts = _losses(_objective(), _model(**changed))
    assert set(parts) == {"recommendation", "category", "swap", "balance"} - absent


def test_recommendation_is_cross_entropy_of_each_next_event() -> None:
    model, objective = _model(), _objective()
    tables = model.item_tables(*model.item_streams(objective.catalogue))
    expected = []
    for start, end in zip(START.tolist(), END.tolist(), strict=True):
        for at in range(start, end):  # from the history up to `at`, alone, the item at + 1
            window = cut(objective.events, torch.tensor([start]), torch.tensor([at + 1]))
            state = model.user_states(tables, window)[0, -1]
            score = model.queries(state) @ tables.target_NV.T
            expected.append(functional.cross_entropy(score, torch.tensor(ITEMS[at + 1])))
    ours = _losses(objective, model)["recommendation"]
    torch.testing.assert_close(ours, torch.stack(expected).mean())


def test_the_guide_is_the_prediction_never_the_label() -> None:
    model, objective = _model(), _objective()
    other = dataclasses.replace(
        objective, labels=Labels(objective.labels.label_NC.roll(1, dims=1), multi_label=False)
    )
    ours, theirs = _losses(objective, model), _losses(other, model)
    for name in ("recommendation", "swap", "balance"):
        assert torch.equal(ours[name], theirs[name])
    assert not torch.allclose(ours["category"], theirs["category"])


def test_swapping_nothing_aligns_each_state_with_itself() -> None:
    """With share 0 both views are one; only other users' states keep the loss from nought."""
    model = _model()
    same = _losses(_objective(swap_share=0.0, swap_temperature=0.01), model)["swap"]
    mixed = _losses(_objective(swap_share=1.0, swap_temperature=0.01), model)["swap"]
    assert same.item() <= mixed.item()
    assert same.item() < 0.05 * 0.7


def test_swap_compares_the_states_after_each_window_s_last_event() -> None:
    model, objective = _model(), _objective(swap_share=1.0, swap_weight=1.0)
    x, present = model.item_streams(objective.catalogue)
    views = []
    for streams in ((x, present), model.swapped(x, present, 1)):  # two modalities: one other seat
        tables = model.item_tables(*streams)
        alone = [cut(objective.events, START[u : u + 1], END[u : u + 1]) for u in range(len(START))]
        views.append(torch.stack([model.user_states(tables, w)[0, -1] for w in alone]))
    target = objective.events.item_E[END]
    expected = swap_loss(*views, target, objective.config.swap_temperature)
    torch.testing.assert_close(_losses(objective, model)["swap"], expected)


def test_the_step_needs_no_event_beyond_the_last_target() -> None:
    """What comes after a window's last target - validation, test - never matters."""
    model, objective = _model(), _objective()
    cut_off = dataclasses.replace(
        objective,
        events=Events(
            torch.cat([objective.events.item_E, torch.tensor([8, 8])]),
            torch.cat([objective.events.time_E, torch.tensor([10**6, 10**7])]),
        ),
    )
    ours, theirs = _losses(objective, model), _losses(cut_off, model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    other = dataclasses.replace(
        objective, events=Events(objective.events.item_E.clone(), objective.events.time_E)
    )
    other.events.item_E[5] = 8  # the first window's last target
    assert _losses(other, model)["recommendation"] != ours["recommendation"]
