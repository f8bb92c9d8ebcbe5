"""Plans: the same for every run, process and number of goes; what is drawn by the right law."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from pretended_cuda import OnCuda, pretended_cuda

from cammsr_cli.config import TrainingConfig
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.model.history_windows import Events
from cammsr_cli.model.losses import NOWHERE
from cammsr_cli.training.plan import EVEN_CANDIDATES, EVEN_POSITIONS, Corpus, Plan, Planner

ITEMS, LENGTH = 30, 9
# Seven histories of 2 to 9 inputs; the events of each lie end to end.
SIZES = torch.tensor([7, 2, 9, 5, 3, 9, 4])
START = SIZES.add(1).cumsum(0) - SIZES - 1
END = START + SIZES
EVENTS = int(END[-1]) + 1


def _corpus(sampled: bool = False, ties: bool = True) -> Corpus:
    item = torch.randint(0, ITEMS, (EVENTS,), generator=torch.Generator().manual_seed(1))
    return Corpus(
        Catalogue(torch.arange(ITEMS), {}, {}),
        Events(item, torch.arange(EVENTS) // 2 * 100),  # two and two at one time
        ties=ties,
        share_N=torch.bincount(item, minlength=ITEMS) / EVENTS,
        sampled=sampled,
        large=False,
    )


def _planner(corpus: Corpus, repeats: bool = True, **config) -> Planner:
    return Planner(corpus, TrainingConfig(**config), LENGTH, repeats)


def _goes(planner: Planner, step: int = 3, most: int = 99, **processes) -> list[Plan]:
    return list(planner.micro_batches(START, END, step, most, **processes))


def _tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a plan, however deep."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    if isinstance(value, Plan):
        value = vars(value)
    elif isinstance(value, tuple):
        value = value._asdict()  # type: ignore[attr-defined]
    if not isinstance(value, dict):
        return {}
    return {n: x for part, one in value.items() for n, x in _tensors(one, f"{name}/{part}").items()}


def _require_equal(one: Plan, other: Plan) -> None:
    ours, theirs = _tensors(one), _tensors(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.dtype == theirs[name].dtype
        assert torch.equal(value, theirs[name]), name


def _items(plan: Plan, place: torch.Tensor) -> list[int]:
    """Items of the catalogue by their places in the plan."""
    return (place if plan.item_U is None else plan.item_U.item_U[place]).tolist()


def _histories(plans: list[Plan]) -> Counter[tuple[tuple[int, int], ...]]:
    """Each history's inputs and targets, in whatever go."""
    found: Counter[tuple[tuple[int, int], ...]] = Counter()
    for plan in plans:
        real = plan.weight_M > 0
        items = _items(plan, plan.item_BL.view(-1)[plan.place_M[real]])
        targets = _items(plan, plan.target_M[real])
        within = plan.position_BL.view(-1)[plan.place_M[real]].tolist()
        history: list[tuple[int, int]] = []
        for item, target, at in zip(items, targets, within, strict=True):
            if at == 0 and history:
                found[tuple(history)] += 1
                history = []
            history.append((item, target))
        found[tuple(history)] += 1
    return found


@pytest.mark.parametrize("sampled", [False, True], ids=["all", "sampled"])
def test_a_step_hangs_on_seed_and_number_alone(sampled: bool) -> None:
    corpus = _corpus(sampled)
    torch.manual_seed(1)
    (ours,) = _goes(_planner(corpus, seed=5, negatives=8))
    torch.manual_seed(2)
    planner = _planner(corpus, seed=5, negatives=8)
    _goes(planner, step=1)  # what was planned before does not matter
    (theirs,) = _goes(planner)
    _require_equal(ours, theirs)
    for other in (_goes(planner, step=4), _goes(_planner(corpus, seed=6, negatives=8))):
        assert not torch.equal(other[0].item_BL, ours.item_BL)


def test_planning_leaves_torch_s_own_random_numbers_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    _goes(_planner(_corpus(sampled=True)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("sampled", [False, True], ids=["all", "sampled"])
@pytest.mark.parametrize(("size", "most"), [(1, 3), (2, 99), (3, 1), (9, 2)])
def test_goes_and_processes_share_one_step(sampled: bool, size: int, most: int) -> None:
    """The same histories, ties dealt alike, told from the same candidates, with shares of 1."""
    planner = _planner(_corpus(sampled), negatives=8)
    (whole,) = _goes(planner)
    shared = [_goes(planner, most=most, rank=rank, size=size) for rank in range(size)]
    assert len({len(micro_batches) for micro_batches in shared}) == 1  # all make as many goes
    plans = [plan for micro_batches in shared for plan in micro_batches]
    assert _histories([plan for plan in plans if plan.share]) == _histories([whole])
    assert sum(plan.share for plan in plans) == pytest.approx(1)
    for plan in plans:
        real = plan.weight_M > 0
        assert plan.weight_M.sum().item() == pytest.approx(1)
        assert len(plan.weight_M[real].unique()) == 1
        if plan.share:
            assert plan.share == pytest.approx(int(real.sum()) / int(SIZES.sum()))
        if plan.candidate_C is not None:
            assert whole.candidate_C is not None
            told = _items(plan, plan.candidate_C)
            assert told == _items(whole, whole.candidate_C)
            assert plan.correction_C is not None
            assert torch.equal(plan.correction_C, whole.correction_C)


@pytest.mark.parametrize("sampled", [False, True], ids=["all", "sampled"])
@pytest.mark.parametrize(("size", "most"), [(1, 99), (1, 3), (3, 1)])
def test_targets_have_the_weight_of_their_events(sampled: bool, size: int, most: int) -> None:
    """Events are dealt anew among ties, and rows filled: each weight goes with its item."""
    corpus = _corpus(sampled)
    item = torch.arange(EVENTS) % ITEMS
    of_item = torch.rand(ITEMS, generator=torch.Generator().manual_seed(2)) + 0.1
    events = replace(corpus.events, item_E=item, weight_E=of_item[item])
    planner = _planner(replace(corpus, events=events), negatives=8)
    plans = [p for rank in range(size) for p in _goes(planner, most=most, rank=rank, size=size)]
    total = 0.0
    for plan in plans:
        real = plan.weight_M > 0
        assert plan.weight_M.sum().item() == pytest.approx(1)
        weight = of_item[_items(plan, plan.target_M[real])]
        assert plan.weight_M[real].tolist() == pytest.approx((weight / weight.sum()).tolist())
        total += float(weight.sum()) if plan.share else 0.0
    for plan in plans:
        real = plan.weight_M > 0
        own = float(of_item[_items(plan, plan.target_M[real])].sum())
        assert plan.share == pytest.approx(own / total if plan.share else 0)


@pytest.mark.parametrize("sampled", [False, True], ids=["all", "sampled"])
def test_positions_and_their_numbers_lead_to_one_another(sampled: bool) -> None:
    (plan,) = _goes(_planner(_corpus(sampled), negatives=8))
    assert len(plan.place_M) % EVEN_POSITIONS == 0
    real = (plan.weight_M > 0).nonzero().squeeze(1)
    assert torch.equal(plan.number_X[plan.place_M[real]], real)
    padding = torch.ones_like(plan.number_X, dtype=torch.bool)
    padding[plan.place_M[real]] = False
    assert padding.any()
    assert not plan.weight_M[plan.number_X[padding]].any()
    # What stands last in each history.
    ends = Counter(plan.position_BL.view(-1)[plan.last_W].tolist())
    assert ends == Counter((SIZES - 1).tolist())


def test_a_target_that_is_no_candidate_has_the_place_of_one_without_part() -> None:
    (plan,) = _goes(_planner(_corpus(sampled=True), negatives=4))
    assert plan.candidate_C is not None
    assert plan.correction_C is not None
    assert plan.counted_U is not None
    assert plan.item_U is not None
    assert len(plan.candidate_C) % EVEN_CANDIDATES == 0
    told = plan.correction_C > NOWHERE
    candidates = set(_items(plan, plan.candidate_C[told]))
    assert len(candidates) == int(told.sum()) <= 4
    real = plan.weight_M > 0
    targets = _items(plan, plan.target_M[real])
    assert not set(targets) <= candidates
    for target, own in zip(targets, plan.own_M[real].tolist(), strict=True):
        assert bool(told[own]) == (target in candidates)
        if target in candidates:
            assert _items(plan, plan.candidate_C[own][None]) == [target]
    wanted = plan.item_U.item_U[plan.counted_U > 0].tolist()
    assert wanted == sorted(set(wanted))
    assert candidates | set(targets) <= set(wanted)


@pytest.mark.parametrize("repeats", [False, True])
def test_it_is_known_what_has_been_seen_only_if_that_is_asked(repeats: bool) -> None:
    (plan,) = _goes(_planner(_corpus(), repeats))
    assert (plan.seen is not None) == repeats


def test_ties_are_dealt_with_every_order_about_equally_often() -> None:
    events = Events(torch.arange(4), torch.zeros(4).long())
    planner = _planner(replace(_corpus(), events=events))
    found = Counter(
        tuple(plan.item_BL.view(-1)[:3].tolist())
        for step in range(2400)
        for plan in planner.micro_batches(torch.tensor([0]), torch.tensor([3]), step, 9)
    )
    assert len(found) == 24
    # 100 of each expected, with a standard deviation of 10.
    assert all(abs(count - 100) < 50 for count in found.values()), found


@pytest.mark.parametrize("sampled", [False, True], ids=["all", "sampled"])
def test_a_gpu_is_sent_one_copy_that_nobody_waits_for(sampled: bool) -> None:
    (plan,) = _goes(_planner(_corpus(sampled)))
    with pretended_cuda() as asked:
        there = plan.to(torch.device("cuda"))
        assert not asked.waits
        assert sum(asked.launches.values()) == 1
    for name, value in _tensors(there).items():
        ours = _tensors(plan)[name]
        assert isinstance(value, OnCuda), name
        assert value.dtype == ours.dtype
        assert torch.equal(value.inner, ours), name
    assert there.share == plan.share
