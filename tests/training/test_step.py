"""One step: the same in one go or in many, within any memory; what it moves and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from cammsr_cli.config import TrainingConfig
from cammsr_cli.distributed import World
from cammsr_cli.errors import CammsrError
from cammsr_cli.model import negatives as sampling
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.catalogue_tensors import Catalogue, Needed
from cammsr_cli.model.history_windows import Events
from cammsr_cli.training.checkpoints import TrainingState
from cammsr_cli.training.objective import Objective
from cammsr_cli.training.plan import Corpus, Plan, Planner
from cammsr_cli.training.step import Stepper, averaged_copy, optimizers_of

ITEMS, USERS, EVENTS = 20, 10, 80
ALONE = World(0, 1, torch.device("cpu"))
# Ten histories of 1 to 7 inputs; the events of each lie end to end.
LENGTH = torch.tensor([7, 1, 3, 5, 2, 7, 4, 6, 1, 3])
START = LENGTH.add(1).cumsum(0) - LENGTH - 1
END = START + LENGTH


def _corpus(sampled: bool = False) -> Corpus:
    generator = torch.Generator().manual_seed(1)
    item = torch.randint(0, ITEMS, (EVENTS,), generator=generator)
    labels = torch.eye(4).repeat(5, 1).bool()
    labels[3] = False
    has_image = torch.arange(ITEMS) % 3 > 0
    return Corpus(
        Catalogue(
            torch.arange(ITEMS),
            {
                "text": torch.randn(ITEMS, 5, generator=generator),
                "image": torch.randn(ITEMS, 3, generator=generator),
            },
            {"text": torch.ones(ITEMS).bool(), "image": has_image},
            labels,
        ),
        Events(item, torch.arange(EVENTS) * 100),
        ties=False,
        share_N=torch.bincount(item, minlength=ITEMS) / EVENTS,
        sampled=sampled,
        large=sampled,
    )


def _stepper(sampled: bool = False, sparse: bool | None = None, **changed) -> Stepper:
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 1, "length": 8, "dropout": 0, "id_dropout": 0, "experts": 4}
    model = Cammsr(ITEMS, {"text": 5, "image": 3}, 4, neighbours=0, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    assert model.items.id_table is not None
    model.items.id_table.sparse = sampled if sparse is None else sparse
    given = {"batch_size": 128, "clip_norm": 1e9, **changed}
    config = TrainingConfig(**given)
    state = TrainingState(model.train(), averaged_copy(model), optimizers_of(model, config))
    notes: list[str] = []
    stepper = Stepper(
        state, Objective(model, _corpus(sampled), config), config, ALONE, notes.append
    )
    stepper.notes = notes  # type: ignore[attr-defined]
    return stepper


def _gradients(stepper: Stepper) -> dict[str, Tensor]:
    found = {}
    for name, parameter in stepper.state.model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.to_dense().clone()
    return found


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _require_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], atol: float = 1e-6) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=atol, msg=name)


def _require_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(theirs[name], value), name


# --- in one go or in many -----------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 9, 10, 64])
def test_a_batch_in_parts_gives_the_gradient_and_the_losses_of_the_whole(micro_batch: int) -> None:
    whole, parts = _stepper(), _stepper(micro_batch=micro_batch)
    ours, theirs = whole(START, END), parts(START, END)
    assert list(ours) == ["recommendation", "category"]
    _require_close(ours, theirs)
    _require_close(_gradients(whole), _gradients(parts))


def test_a_sample_of_everything_in_parts_gives_the_same_gradient_too() -> None:
    given = {"negatives": 50 * ITEMS, "sampled": True}
    whole, parts = _stepper(**given), _stepper(**given, micro_batch=3)
    _require_close(whole(START, END), parts(START, END))
    _require_close(_gradients(whole), _gradients(parts))


def test_the_gradient_is_that_of_the_mean_over_positions() -> None:
    """Not over windows, of which some are short: each position counts alike."""
    stepper = _stepper(category_weight=0)
    together = stepper(START, END)["recommendation"]
    alone = [
        _stepper(category_weight=0)(START[w : w + 1], END[w : w + 1]) for w in range(len(START))
    ]
    sums = sum(part["recommendation"] * length for part, length in zip(alone, LENGTH, strict=True))
    torch.testing.assert_close(together, sums / LENGTH.sum())


def test_each_step_begins_with_a_gradient_of_nought() -> None:
    once, twice = _stepper(learning_rate=1e-12), _stepper(learning_rate=1e-12)
    once(START, END)
    twice(START, END)
    twice(START, END)
    _require_close(_gradients(once), _gradients(twice))


# --- memory -------------------------------------------------------------------------------------


class _Small(nn.Module):
    """A device on which no more than `room` windows fit."""

    def __init__(self, objective: nn.Module, room: int, error: Exception, spare: int = 0) -> None:
        super().__init__()
        self.objective = objective
        self.room = room
        self.error = error
        self.spare = spare
        self.asked: list[int] = []

    def forward(self, plan: Plan) -> dict[str, Tensor]:
        windows = len(plan.last_W)
        self.asked.append(windows)
        if windows > self.room and len(self.asked) > self.spare:
            raise self.error
        parts: dict[str, Tensor] = self.objective(plan)
        return parts


NO_ROOM = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.94 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]


@pytest.mark.parametrize("error", NO_ROOM, ids=["cuda", "cpu", "mps", "cublas", "cudnn"])
def test_out_of_memory_the_batch_is_cut_and_the_step_is_the_same(error: Exception) -> None:
    roomy, tight = _stepper(), _stepper()
    small = tight.module = _Small(tight.module, 2, error)
    _require_close(roomy(START, END), tight(START, END))
    _require_close(_gradients(roomy), _gradients(tight))
    assert small.asked == [10, 5, 2, 2, 2, 2, 2]
    assert tight.micro_batch == 2
    assert tight.state.progress.step == 1
    notes = tight.notes
    assert len(notes) == 2
    assert "out of memory with 10 histories at once: going on with 5" in notes[0]
    assert "out of memory with 5 histories at once: going on with 2" in notes[1]
    tight(START, END)  # it has learnt what fits
    assert small.asked[7:] == [2] * 5
    assert len(notes) == 2


def test_out_of_memory_halfway_leaves_nothing_of_the_first_try_behind() -> None:
    roomy, tight = _stepper(), _stepper(micro_batch=4)
    small = tight.module = _Small(tight.module, 2, NO_ROOM[0], spare=1)
    _require_close(roomy(START, END), tight(START, END))
    assert small.asked == [4, 4, 2, 2, 2, 2, 2]  # the first part of the first try came through
    _require_close(_gradients(roomy), _gradients(tight))


def test_a_single_history_that_does_not_fit_is_an_error_with_a_way_out() -> None:
    stepper = _stepper()
    stepper.module = _Small(stepper.module, 0, NO_ROOM[0])
    before = _weights(stepper.state.model)
    with pytest.raises(CammsrError, match="does not hold a single history") as caught:
        stepper(START, END)
    assert "--set" in (caught.value.hint or "")
    assert stepper.state.progress.step == 0
    _require_equal(before, _weights(stepper.state.model))


@pytest.mark.parametrize("error", NO_ROOM[:1] + NO_ROOM[3:4], ids=["cuda", "cublas"])
def test_no_room_for_the_optimiser_s_state_is_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Made in the first step, when all that smaller goes would save has been given back."""
    stepper = _stepper()
    weights = sum(weight.numel() for weight in stepper.state.model.parameters())

    def give_out(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch.optim.AdamW, "_init_group", give_out)  # makes the two moments
    with pytest.raises(CammsrError, match=f"does not hold {weights:,} weights") as caught:
        stepper(START, END)
    assert "--set model.width" in (caught.value.hint or "")
    assert caught.value.__cause__ is error
    assert stepper.state.progress.step == 0


def test_other_errors_of_the_optimiser_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper = _stepper()

    def fail(*_: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(stepper.state.optimizers[0], "step", fail)
    with pytest.raises(RuntimeError, match="no such kernel"):
        stepper(START, END)


def test_other_errors_are_passed_on() -> None:
    stepper = _stepper()
    stepper.module = _Small(stepper.module, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        stepper(START, END)
    assert stepper.notes == []


# --- what is not a number -----------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [False, True], ids=["full", "sampled"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_ends_the_training(value: float, sampled: bool) -> None:
    stepper = _stepper(sampled, learning_rate=0.03)
    stepper(START, END)
    model = stepper.state.model
    with torch.no_grad():
        model.position.weight[0, 0] = value
    before = _weights(model), _weights(stepper.state.averaged)
    with pytest.raises(CammsrError, match=r"diverged at step 2: .*recommendation") as caught:
        stepper(START, END)
    assert caught.value.hint == ("Try a smaller step: --set training.learning_rate=1.0e-02")
    assert stepper.state.progress.step == 1
    for ours, theirs in zip(before, (model, stepper.state.averaged), strict=True):
        for name, weight in ours.items():
            assert torch.equal(theirs.state_dict()[name].nan_to_num(), weight.nan_to_num()), name


class _Loud(nn.Module):
    """An objective whose gradient is finite, and too long to be measured."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, plan: Plan) -> dict[str, Tensor]:
        return {name: value * 1e25 for name, value in self.objective(plan).items()}


def test_a_gradient_without_end_ends_the_training() -> None:
    stepper = _stepper()
    stepper.module = _Loud(stepper.module)
    before = _weights(stepper.state.model)
    with pytest.raises(CammsrError, match="diverged at step 1"):
        stepper(START, END)
    _require_equal(before, _weights(stepper.state.model))


# --- clipping -----------------------------------------------------------------------------------


def _norm(gradients: dict[str, Tensor]) -> float:
    return sum(float(g.double().square().sum()) for g in gradients.values()) ** 0.5


@pytest.mark.parametrize("micro_batch", [0, 3])
@pytest.mark.parametrize("sampled", [False, True], ids=["full", "sampled"])
def test_a_long_gradient_is_cut_to_length_and_keeps_its_direction(
    sampled: bool, micro_batch: int
) -> None:
    found = []
    for clip in (1e9, 0.01):
        stepper = _stepper(sampled, clip_norm=clip, negatives=8, micro_batch=micro_batch)
        torch.manual_seed(4)
        stepper(START, END)
        found.append(_gradients(stepper))
    whole, clipped = found
    norm = _norm(whole)
    assert norm > 0.1
    assert _norm(clipped) == pytest.approx(0.01, rel=1e-3)
    for name, gradient in whole.items():
        torch.testing.assert_close(
            clipped[name], gradient * (0.01 / norm), rtol=1e-3, atol=1e-9, msg=name
        )


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_sparse_gradients_are_cut_as_dense_ones_are(micro_batch: int) -> None:
    found = []
    for sparse in (False, True):
        stepper = _stepper(True, sparse, clip_norm=0.05, negatives=8, micro_batch=micro_batch)
        torch.manual_seed(4)
        stepper(START, END)
        grad = stepper.state.model.items.id_table.weight.grad
        assert grad.is_sparse == sparse
        found.append(_gradients(stepper))
    _require_close(*found)


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_fifty_steps_with_named_rows_are_those_of_torch_s_own_gradients(micro_batch: int) -> None:
    """The plan names the rows of the id table, so that nobody has to count them on a GPU."""
    plain, losses = Planner._needed, []
    for named in (True, False):

        def needed(planner: Planner, item_U: Tensor, named: bool = named) -> Needed:
            found = plain(planner, item_U)
            return found if named else found._replace(met=None)

        given = {"negatives": 8, "learning_rate": 0.01, "micro_batch": micro_batch}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Planner, "_needed", needed)
            stepper = _stepper(True, clip_norm=0.5, **given)
            # Some items are new: they have no row, and begin where their content places them.
            stepper.planner.id_row_N[5:9] = -1
            stepper.planner.new_N[5:9] = True
            stepper.module.catalogue.id_row_N[5:9] = -1
            torch.manual_seed(4)
            steps = [stepper(START, END)["recommendation"] for _ in range(50)]
            losses.append([float(loss) for loss in steps])
            grad = stepper.state.model.items.id_table.weight.grad
            assert grad.is_coalesced()
            row = grad.indices()[0]
            assert torch.equal(row, row.unique())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0][-1] < 0.8 * losses[0][0]


def test_a_short_gradient_is_left_as_it_is() -> None:
    free, held = _stepper(clip_norm=1e9), _stepper(clip_norm=1e3)
    free(START, END)
    held(START, END)
    _require_equal(_gradients(free), _gradients(held))


# --- the id table of a large catalogue ----------------------------------------------------------


@contextmanager
def _drawing(*items: int) -> Iterator[None]:
    """Draws of the catalogue give just these items."""
    with patch.object(sampling.torch, "randint", lambda *_, **__: torch.tensor(items)):
        yield


def _met(stepper: Stepper, window: slice) -> set[int]:
    """Items that the events of some windows show, targets with them."""
    spans = zip(START[window].tolist(), END[window].tolist(), strict=True)
    item = stepper.module.corpus.events.item_E.tolist()
    return {item[at] for start, end in spans for at in range(start, end + 1)}


def test_rows_that_a_step_does_not_meet_keep_their_values() -> None:
    stepper = _stepper(True)
    table = stepper.state.model.items.id_table.weight
    first, second = slice(1, 3), slice(3, 5)
    for window, drawn in ((first, 11), (second, 12), (first, 13)):
        before = table.detach().clone()
        with _drawing(drawn):
            stepper(START[window], END[window])
        met = _met(stepper, window) | {drawn}
        assert 2 < len(met) < ITEMS - 5
        moved = (table != before).any(1).nonzero().squeeze(1).tolist()
        assert moved == sorted(met)


def test_a_dense_table_moves_as_plain_adam_moves_it() -> None:
    ours, theirs = _stepper(learning_rate=0.01, weight_decay=0.1), _stepper()
    adam = torch.optim.AdamW(theirs.state.model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        ours(START, END)
        adam.zero_grad()
        (plan,) = theirs.planner.micro_batches(START, END, 0, most=len(START))
        parts = theirs.module(plan)
        (parts["recommendation"] + parts["category"]).backward()
        adam.step()
    one, other = _weights(ours.state.model), _weights(theirs.state.model)
    # The softmax of attention is blind to the keys' bias: its gradient is noise, which Adam scales.
    for weights in (one, other):
        weights["encoder.blocks.0.query_key_value.bias_SO"][:, 16:32] = 0
        weights["camoe.router.linear.bias_SO"][:, 4:8] = 0
    _require_close(one, other, atol=2e-5)  # each weight has moved by some 0.03


def test_every_weight_is_moved_by_just_one_optimizer() -> None:
    for sampled in (False, True):
        state = _stepper(sampled).state
        moved = [
            id(parameter)
            for optimizer in state.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        assert sorted(moved) == sorted(id(parameter) for parameter in state.model.parameters())
        assert len(state.optimizers) == 1 + sampled


def test_a_large_table_is_shared_with_the_averaged_model() -> None:
    state = _stepper(True).state
    assert state.averaged.items.id_table.weight is state.model.items.id_table.weight
    others = [
        (slow, fast)
        for slow, fast in zip(state.averaged.parameters(), state.model.parameters(), strict=True)
        if slow is not fast
    ]
    assert len(others) == len(list(state.model.parameters())) - 1
    assert not any(slow.requires_grad for slow, _ in others)
    assert all(fast.requires_grad for fast in state.model.parameters())
    small = _stepper().state
    assert small.averaged.items.id_table.weight is not small.model.items.id_table.weight


# --- the moving average -------------------------------------------------------------------------


@pytest.mark.parametrize("sampled", [False, True], ids=["full", "sampled"])
def test_the_average_by_hand(sampled: bool) -> None:
    """It keeps min(average, step / (step + 10)) of what it was at each step."""
    stepper = _stepper(sampled, ema_decay=0.14, learning_rate=0.01)
    model, averaged = stepper.state.model, stepper.state.averaged
    expected = _weights(averaged)
    for kept in (1 / 11, 0.14, 0.14):  # 2 / 12 and 3 / 13 are more than 0.14
        stepper(START, END)
        for name, weight in model.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * weight
        if sampled:
            expected["items.id_table.weight"] = model.items.id_table.weight.detach()
        _require_close(expected, _weights(averaged))


def test_an_average_of_nought_is_the_last_weights() -> None:
    stepper = _stepper(ema_decay=0.0)
    for _ in range(2):
        stepper(START, END)
    _require_close(_weights(stepper.state.model), _weights(stepper.state.averaged))


# --- precision ----------------------------------------------------------------------------------


def test_bfloat16_is_for_products_alone() -> None:
    exact, rough = (_stepper(precision=p) for p in ("float32", "bfloat16"))
    losses = [stepper(START, END) for stepper in (exact, rough)]
    ours, theirs = _gradients(exact), _gradients(rough)
    assert all(gradient.dtype == torch.float32 for gradient in theirs.values())
    off = _norm({name: theirs[name] - gradient for name, gradient in ours.items()}) / _norm(ours)
    assert 0 < off < 0.03
    assert losses[1]["recommendation"].dtype == torch.float32
    torch.testing.assert_close(
        losses[1]["recommendation"], losses[0]["recommendation"], rtol=0.01, atol=0
    )
    assert all(p.dtype == torch.float32 for p in rough.state.model.parameters())
