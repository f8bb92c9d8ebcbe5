"""All that trains, ranks and recommends, on a GPU that is only pretended: see pretended_cuda.py."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pretended_cuda as pretended_device
import pytest
import torch
from pretended_cuda import Asked, OnCuda, WrongDeviceError, pretended_cuda
from safetensors.torch import load_file
from toy_data import write_toy_data

from cammsr_cli.config import resolve
from cammsr_cli.data.splits import TEST
from cammsr_cli.distributed import World
from cammsr_cli.errors import CammsrError, Terminated
from cammsr_cli.ranking.by_category import experts_by_category, weights_by_category
from cammsr_cli.ranking.evaluate import ranking_of
from cammsr_cli.ranking.full_ranking import evaluation_cases, model_ranks
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run
from cammsr_cli.training.objective import Objective
from cammsr_cli.training.plan import Plan
from cammsr_cli.training.reports import StepReport
from cammsr_cli.training.step import PlannedStep, Stepper
from cammsr_cli.training.train import Listener, resume, train

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PRESETS = ("cammsr", "paper", "sasrec")
WAYS = {
    "full": [],
    "sampled": ["training.sampled_softmax_above=0", "training.negatives=20"],
    "lazy": [
        "training.sampled_softmax_above=0",
        "training.sparse_adam_above=0",
        "training.negatives=20",
    ],
}
# Dropout draws other numbers on a GPU than on a CPU.
STILL = [
    "model.dropout=0",
    "model.width=8",
    "model.layers=1",
    "training.batch_size=16",
    "training.epochs=1",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some four steps an epoch."""
    return write_toy_data(tmp_path_factory.mktemp("data") / "toy.h5", users=40, items=24)


def _nothing(_: object) -> None:
    pass


def _train(
    data: Path,
    run: Path,
    preset: str,
    way: str,
    device: torch.device,
    *settings: str,
    on_step: Callable[[StepReport], None] = _nothing,
) -> list[float]:
    """The recommendation loss of each step."""
    losses: list[float] = []

    def step(report: StepReport) -> None:
        losses.append(float(report.losses["recommendation"]))
        on_step(report)

    config = resolve(preset, None, [*STILL, "training.precision=float32", *WAYS[way], *settings])
    listener = Listener(_nothing, _nothing, step, _nothing)
    world = World(0, 1, device)
    train(data, run, config, preset=preset, world=world, listener=listener)
    return losses


def _metrics(run: Path) -> list[tuple[float, float]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(line["ndcg"], line["losses"]["recommendation"]) for line in map(json.loads, lines)]


# --- the pretended device itself ----------------------------------------------------------------


def test_what_cuda_refuses_is_refused() -> None:
    with pretended_cuda():
        x = torch.arange(6.0).view(2, 3).to("cuda")
        assert x.device.type == "cuda"
        assert (x * 2 + torch.tensor(1.0)).tolist() == [
            [1, 3, 5],
            [7, 9, 11],
        ]  # a number may lie here
        for mixed in (
            lambda: x + torch.ones(3),
            lambda: torch.cat([x, torch.ones(1, 3)]),
            lambda: x.index_copy(0, torch.tensor([1]), x[:1]),
            lambda: torch.nn.functional.embedding(torch.tensor([1]), x),
            lambda: x.numpy(),
            lambda: np.asarray(x),
            lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
        ):
            with pytest.raises(WrongDeviceError):
                mixed()
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.cuda.get_rng_state(torch.device("cuda", 1))


def test_waits_and_launches_are_counted() -> None:
    with pretended_cuda() as asked:
        x = torch.arange(6.0, device="cuda").view(2, 3)
        asked.clear()
        y = (x * 2)[0].unsqueeze(0) + 1
        assert asked == Asked(asked.launches)
        assert asked.launches == {"aten.mul.Tensor": 1, "aten.add.Tensor": 1}
        waiting: list[Callable[[], Any]] = [
            lambda: float(x[0, 0]),
            lambda: x.tolist(),
            lambda: x.nonzero(),
            lambda: x[x > 1],
            lambda: x[[0, 1]],
            lambda: x[torch.tensor([0])],
            lambda: x.cpu(),
            lambda: torch.tensor([1, 2], device="cuda"),
            lambda: torch.unique(x),
            lambda: torch.repeat_interleave(x[0].long()),
        ]
        for number, wait in enumerate(waiting):
            asked.clear()
            wait()
            assert sum(asked.waits.values()) == 1, number
        asked.clear()
        torch.ones(3).to("cuda", non_blocking=True)
        torch.ones(2, 3, dtype=torch.int64).copy_(x, non_blocking=True)
        assert not asked.waits
        assert y.tolist() == [[1, 3, 5]]


def test_gradients_are_those_of_the_cpu() -> None:
    found = []
    for device in (CPU, GPU):
        with pretended_cuda():
            torch.manual_seed(0)
            model = torch.nn.Sequential(
                torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1)
            ).to(device)
            x = torch.ones(5, 3).to(device) * torch.arange(5.0).to(device)[:, None]
            (model(x).square().sum() + model(2 * x).sum()).backward()
            grads = [weight.grad for weight in model.parameters()]
            found.append([g.inner if isinstance(g, OnCuda) else g for g in grads])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


# --- the project on it --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "way"), [(p, w) for p in PRESETS for w in WAYS if p == "cammsr" or w != "sampled"]
)
def test_a_training_mixes_no_devices_and_learns_as_on_a_cpu(
    data: Path, tmp_path: Path, preset: str, way: str
) -> None:
    """From raw features to the finished run: measuring, steps, validation and checkpoints."""
    still = ["model.id_dropout=0"]
    ours = _train(data, tmp_path / "cpu", preset, way, CPU, *still)
    with pretended_cuda():
        theirs = _train(data, tmp_path / "cuda", preset, way, GPU, *still)
    assert theirs == pytest.approx(ours, rel=1e-4)
    assert len(ours) >= 3
    for theirs, ours in zip(_metrics(tmp_path / "cuda"), _metrics(tmp_path / "cpu"), strict=True):
        # Of one user in this many the rank may differ, where two scores are as good as alike.
        assert theirs == (pytest.approx(ours[0], abs=0.01), pytest.approx(ours[1], rel=1e-3))


def test_bfloat16_trains_as_float32_does_but_for_its_digits(data: Path, tmp_path: Path) -> None:
    with pretended_cuda():
        ours, theirs = (
            _train(data, tmp_path / p, "cammsr", "full", GPU, f"training.precision={p}")
            for p in ("float32", "bfloat16")
        )
    assert ours != theirs
    assert theirs == pytest.approx(ours, rel=0.02)


def test_attention_is_never_left_to_cudnn(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rounds rates of dropout, and plans anew for each shape."""
    plain, allowed = pretended_device._attention, []

    def looked_at(*given: Any, **named: Any) -> torch.Tensor:
        flags = torch.backends.cuda
        allowed.append((flags.cudnn_sdp_enabled(), flags.mem_efficient_sdp_enabled()))
        return plain(*given, **named)

    monkeypatch.setattr(pretended_device, "_attention", looked_at)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with pretended_cuda():
        _train(data, tmp_path / "run", "sasrec", "full", GPU)
    assert set(allowed) == {(False, True)}
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained on the pretended GPU; its catalogue is about to have new items."""
    folder = tmp_path_factory.mktemp("on cuda") / "run"
    with pretended_cuda():
        _train(data, folder, "cammsr", "full", GPU)
    return folder


def _ranks(run: Path, device: torch.device) -> list[int]:
    loaded = load_run(RunFolder(run), None, device)
    asked = evaluation_cases(loaded.data, TEST)
    return model_ranks(loaded.model, loaded.catalogue, loaded.events, asked, False).tolist()


def test_evaluation_on_either_device_finds_the_same_ranks(run: Path) -> None:
    with pretended_cuda():
        theirs = _ranks(run, GPU)
    assert _ranks(run, CPU) == theirs


def test_weights_and_experts_by_category_are_the_same_on_either_device(run: Path) -> None:
    found = []
    for device in (CPU, GPU):
        with pretended_cuda():
            loaded = load_run(RunFolder(run), None, device)
            ranking = ranking_of(loaded, evaluation_cases(loaded.data, TEST))
            weights = weights_by_category(loaded, ranking, ranking.top(5))
            found.append((weights, experts_by_category(loaded, ranking)))
    (our_weights, our_experts), (their_weights, their_experts) = found
    for ours, theirs in zip(our_weights, their_weights, strict=True):
        assert ours.weights == pytest.approx(theirs.weights, abs=1e-4)
    for own, other in zip(our_experts, their_experts, strict=True):
        assert own.events == other.events
        for branch, shares in own.shares.items():
            assert shares == pytest.approx(other.shares[branch], abs=1e-4)


@pytest.mark.parametrize("index", ["exact", "faiss"])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_recommendations_on_either_device_are_the_same(
    run: Path, index: str, exclude_seen: bool
) -> None:
    if index == "faiss":
        pytest.importorskip("faiss")
    found = []
    for device in (CPU, GPU):
        with pretended_cuda():
            loaded = load_run(RunFolder(run), None, device)
            recommender = Recommender(loaded, exclude_seen=exclude_seen)
            recommender.choose_index(index, 10, 5)
            found.append(recommender.answers(np.arange(10), 5))
    ours, theirs = found
    assert ours.item_UK.tolist() == theirs.item_UK.tolist()
    np.testing.assert_allclose(ours.score_UK, theirs.score_UK, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.weight_UKS, theirs.weight_UKS, rtol=1e-3, atol=1e-4)


def test_neighbours_of_new_items_are_found_where_the_model_is(data: Path, run: Path) -> None:
    ids = RunFolder(run).item_ids()
    found = []
    for device in (CPU, GPU):
        with pretended_cuda():
            loaded = load_run(RunFolder(run), None, device)
            new = loaded.catalogue.id_row_N.clone()
            new[:5] = -1
            catalogue = type(loaded.catalogue)(
                new, loaded.catalogue.features, loaded.catalogue.present
            )
            near = loaded.model.items.beside_neighbours(catalogue).near_NJ
            assert near is not None
            assert near.device.type == device.type
            found.append(near.tolist())
    assert found[0] == found[1]
    assert len(found[0]) >= len(ids)
    assert all(max(row) >= 0 for row in found[0][:5])


@pytest.mark.parametrize(
    ("first", "then", "way"), [(CPU, GPU, "full"), (GPU, CPU, "lazy"), (GPU, GPU, "full")], ids=str
)
def test_a_training_goes_on_on_another_device(
    data: Path, tmp_path: Path, first: torch.device, then: torch.device, way: str
) -> None:
    """Stopped in the middle of an epoch, with nothing left to chance but what both draw alike."""
    still = ["model.id_dropout=0", "training.shuffle_ties=false", "training.negatives=4000"]
    run, straight = tmp_path / "run", tmp_path / "straight"
    undisturbed = _train(data, straight, "cammsr", way, CPU, *still)

    def stop(report: StepReport) -> None:
        if report.step == 3:
            raise Terminated

    saving = [*still, "training.checkpoint_minutes=1e-9"]
    losses: list[float] = []
    with pretended_cuda():
        with pytest.raises(Terminated):
            _train(data, run, "cammsr", way, first, *saving, on_step=stop)
        listener = Listener(
            _nothing, _nothing, lambda r: losses.append(float(r.losses["recommendation"])), _nothing
        )
        resume(data, run, world=World(0, 1, then), listener=listener)
    assert losses == pytest.approx(undisturbed[2:], rel=1e-3 if way == "full" else 0.02)


def test_features_of_a_large_catalogue_stay_on_a_gpu_that_has_room(
    data: Path, tmp_path: Path
) -> None:
    """Else the plan of each step brings those it needs; and either way the host waits for none."""
    found, brought, waits = [], [], Counter[str]()
    plain = Objective.forward

    def forward(objective: Objective, plan: Plan) -> dict[str, torch.Tensor]:
        assert plan.item_U is not None
        brought.append({n: f.device.type for n, f in plan.item_U.features.items()})
        before = asked.waits.copy()
        parts = plain(objective, plan)
        waits.update(asked.waits - before)
        return parts

    for free in (2**34, 100):
        with pretended_cuda(free=free) as asked, patch.object(Objective, "forward", forward):
            found.append(_train(data, tmp_path / f"{free}", "cammsr", "lazy", GPU))
    steps = len(found[0])
    assert brought[:steps] == [{}] * steps
    assert brought[steps:] == [{"text": "cuda", "image": "cuda"}] * steps
    assert found[0] == found[1]
    assert not waits


@pytest.mark.parametrize("way", ["full", "lazy"])
def test_a_value_that_is_no_number_is_noticed_late_and_never_kept(
    data: Path, tmp_path: Path, way: str
) -> None:
    """The host looks at a GPU's gradients only now and then, and before anything is kept."""
    run, models = tmp_path / "run", []
    plain = Stepper.make

    def spoilt(stepper: Stepper, planned: PlannedStep) -> dict[str, torch.Tensor]:
        models.append(stepper.state.model)
        if len(models) == 5:  # in the second epoch
            with torch.no_grad():
                models[0].position.weight.mul_(float("nan"))
        return plain(stepper, planned)

    with (
        pretended_cuda(),
        patch.object(Stepper, "make", spoilt),
        pytest.raises(CammsrError, match=r"diverged at step 5: .*recommendation nan"),
    ):
        _train(data, run, "cammsr", way, GPU, "training.epochs=3")
    assert len(models) == 6  # it had gone on
    assert len(_metrics(run)) == 1
    (kept,) = (run / "checkpoints").glob("step-*")
    weights = load_file(kept / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())
    with pretended_cuda():  # from there a training can go on
        listener = Listener(_nothing, _nothing, _nothing, _nothing)
        resume(data, run, world=World(0, 1, GPU), listener=listener)
    assert RunFolder(run).finished


# --- how much a step asks of a device -----------------------------------------------------------

BOUNDS = {
    ("cammsr", "full"): (0, 440),
    ("cammsr", "repeats"): (0, 580),
    ("cammsr", "sampled"): (0, 460),
    ("cammsr", "lazy"): (0, 490),
    ("paper", "full"): (0, 850),
    ("paper", "lazy"): (0, 900),
    ("sasrec", "full"): (0, 160),
    ("sasrec", "sampled"): (0, 170),
    ("sasrec", "lazy"): (0, 190),
}
"""Most waits and launches of a step, a little above what they were when this was written."""


@pytest.mark.parametrize(("preset", "way"), BOUNDS, ids=lambda one: one)
def test_waits_and_launches_of_a_step_do_not_become_more(
    data: Path, tmp_path: Path, preset: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A steady step, the loop around it counted too."""
    if way != "repeats":  # of data as most are; what repeats costs the loss's forward pass again
        monkeypatch.setattr("cammsr_cli.runs.spec.REPEATS_FROM", 2.0)
    counted: list[tuple[int, int]] = []
    steady: Counter[str] = Counter()
    with pretended_cuda() as asked:

        def count(_: StepReport) -> None:
            counted.append((sum(asked.waits.values()), sum(asked.launches.values())))
            steady.clear()
            steady.update(asked.waits)
            asked.clear()

        config = resolve(
            preset,
            None,
            [*STILL, "training.precision=float32", "training.batch_size=16", *WAYS.get(way, [])],
        )
        listener = Listener(_nothing, _nothing, count, _nothing)
        world = World(0, 1, GPU)
        train(data, tmp_path / "run", config, preset=preset, world=world, listener=listener)
    waits, launches = (max(one) for one in zip(*counted[1:3], strict=True))
    print(f"{preset} {way}: {waits} waits, {launches} launches a step")
    print(*(f"  {n} {why}" for why, n in steady.most_common()), sep="\n")
    most_waits, most_launches = BOUNDS[preset, way]
    assert waits <= most_waits
    assert launches <= most_launches
