"""One optimisation step: as many micro-batches as the device needs, on one process or many."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer, SparseAdam

from cammsr_cli.config import TrainingConfig
from cammsr_cli.devices import is_out_of_memory
from cammsr_cli.distributed import World
from cammsr_cli.errors import CammsrError
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.device_kernels import most_on
from cammsr_cli.training.checkpoints import TrainingState
from cammsr_cli.training.objective import Objective
from cammsr_cli.training.plan import PackedPlan, Plan, Planner
from cammsr_cli.training.sharding import RowShardedTable, large_table, local_part

STEPS_UNREAD = {"cpu": 1, "cuda": 20}
"""Largest number of steps with unchecked gradients: a check makes the host wait for the GPU."""

STEPS_AHEAD = {"cpu": 0, "cuda": 3}
"""Number of steps that a thread plans ahead. The host can plan while a GPU computes; on a CPU,
planning and computing would compete for the same cores."""


@dataclass(frozen=True)
class PlannedStep:
    """A planned step.

    Attributes:
        start_W: int64 first event of each of its windows, for all processes, on the host.
        end_W: int64 one past the last input of each.
        most: Largest number of windows in a micro-batch.
        micro_batches: Plans of this process's micro-batches.
    """

    start_W: Tensor
    end_W: Tensor
    most: int
    micro_batches: list[Plan | PackedPlan]


def optimizers_of(model: Cammsr, config: TrainingConfig) -> list[Optimizer]:
    """AdamW for all weights; SparseAdam for an id table with sparse gradients.

    Plain Adam updates every row of the table at each step, even without a gradient. With a million
    items that costs more than the step itself. A table that is sharded over processes is still
    updated by AdamW: each process updates its own shard only, which takes a GPU a few milliseconds
    at most.
    """
    table = large_table(model)
    if table is None:
        return [_adam(model.parameters(), config)]
    others = [weight for weight in model.parameters() if weight is not table.weight]
    if isinstance(table, RowShardedTable):
        return [_adam(others, config), _adam([table.weight], config)]
    return [_adam(others, config), SparseAdam([table.weight], lr=config.learning_rate)]


def _adam(weights: Iterable[Tensor], config: TrainingConfig) -> AdamW:
    return AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def averaged_copy(model: Cammsr) -> Cammsr:
    """A copy of the model for the moving average; a large id table is shared with the model.

    Each step uses only few rows of such a table. Averaging all rows at each step would cost more
    than the step.
    """
    shared = large_table(model)
    if shared is not None:
        model.items.id_table = None  # removed during the copy: two tables may not fit in memory
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    if shared is not None:
        model.items.id_table = copied.items.id_table = shared
    return copied


def diverged(message: str, config: TrainingConfig) -> CammsrError:
    """Make the error for a diverged training from `message` and advice for the user."""
    return CammsrError(
        message,
        f"Try a smaller step: --set training.learning_rate={config.learning_rate / 3:.1e}",
    )


class Stepper:
    """Performs optimisation steps.

    Args:
        state: The training state that the steps update.
        objective: The objective to minimise, over `state.model`.
        config: Settings of the training.
        world: The processes that share each batch.
        note: Receives a message when micro-batches must shrink to fit the device's memory.
    """

    def __init__(
        self,
        state: TrainingState,
        objective: Objective,
        config: TrainingConfig,
        world: World,
        note: Callable[[str], None],
    ) -> None:
        self.state = state
        self.config = config
        self.world = world
        self.note = note
        self.micro_batch = config.micro_batch or config.batch_size
        self.bfloat16 = config.precision == "bfloat16"
        self.planner = Planner(
            objective.corpus, config, state.model.length, state.model.repeats is not None
        )
        self._unread: list[tuple[Tensor, dict[str, Tensor]]] = []
        self.module: nn.Module = objective
        if world.size > 1:
            sharded = [
                name
                for name, weight in objective.named_parameters()
                if local_part(weight) is not weight
            ]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
                objective, sharded
            )
            # Buffers are computed before training, equal in all processes, and never change.
            self.module = DistributedDataParallel(objective, broadcast_buffers=False)

    def planned(self, start_W: Tensor, end_W: Tensor, step: int) -> PlannedStep:
        """Plan a step on the windows `[start, end)`; in any thread, at any time before the step.

        Args:
            start_W: int64 first event of each window, on the host, the same in every process.
            end_W: int64 one past its last input.
            step: Number of the step.
        """
        most, world = self.micro_batch, self.world
        micro_batches = self.planner.micro_batches(
            start_W, end_W, step, most, world.rank, world.size
        )
        on_gpu = world.device.type == "cuda"
        return PlannedStep(
            start_W, end_W, most, [plan.packed() if on_gpu else plan for plan in micro_batches]
        )

    def __call__(self, start_W: Tensor, end_W: Tensor) -> dict[str, Tensor]:
        """Plan and perform the next step on the windows `[start, end)`; see `make`."""
        return self.make(self.planned(start_W, end_W, self.state.progress.step))

    def make(self, planned: PlannedStep) -> dict[str, Tensor]:
        """Perform the next step.

        Args:
            planned: The planned step. It is planned again if the size of micro-batches has changed
                because memory ran out.

        Returns:
            The weighted parts of the loss of the whole batch, detached.

        Raises:
            CammsrError: The gradient is not finite, or the device's memory is too small for a
                single window or for the optimiser's state.
        """
        while True:
            try:
                if planned.most != self.micro_batch:
                    step = self.state.progress.step
                    planned = self.planned(planned.start_W, planned.end_W, step)
                losses = self._gradient(planned.micro_batches)
                break
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                largest = min(self.micro_batch, -(-len(planned.start_W) // self.world.size))
            # Outside the handler: its traceback would keep the tensors of the step alive.
            self._make_room(largest)
        self._update(losses)
        return losses

    def _gradient(self, micro_batches: Sequence[Plan | PackedPlan]) -> dict[str, Tensor]:
        """Compute the gradients of the batch's mean loss in `grad`; return the loss's parts."""
        for optimizer in self.state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        world = self.world
        sums: dict[str, Tensor] = {}
        for at, go in enumerate(micro_batches):
            # The mean over positions covers the whole batch, over all micro-batches and processes.
            weights = {"recommendation": go.share * world.size}
            with nullcontext() if at == len(micro_batches) - 1 else self._unsynchronised():
                with self._autocast():
                    parts = self.module(go.to(world.device))
                parts = {
                    name: _times(value, weights.get(name, 1 / len(micro_batches)))
                    for name, value in parts.items()
                }
                reduce(torch.add, parts.values()).backward()
            for name, value in parts.items():
                sums[name] = sums[name] + value.detach() if at else value.detach()
        if len(micro_batches) == 1 and micro_batches[0].names_rows:
            self._require_no_count()
        if world.size == 1:
            return sums
        whole = world.sum(torch.stack(list(sums.values()))) / world.size
        return dict(zip(sums, whole, strict=True))

    def _require_no_count(self) -> None:
        """Mark the id table's sparse gradient as coalesced: its rows are sorted and unique.

        It is created coalesced, but torch loses the flag when it stores the gradient (torch 2.15).
        Torch would then sort and count the rows again, twice a step, and each time the host would
        wait for the GPU.
        """
        table = large_table(self.state.model)
        if table is not None and table.weight.grad is not None and table.weight.grad.is_sparse:
            table.weight.grad._coalesced_(True)

    def _update(self, losses: dict[str, Tensor]) -> None:
        self._unread.append((self._clip(), losses))
        if len(self._unread) >= most_on(self.world.device, STEPS_UNREAD):
            self.require_finite(1)
        self._move()
        self.state.progress.step += 1
        self._average()

    def require_finite(self, under_way: int = 0) -> None:
        """Check the gradient norms of all steps since the last check.

        Args:
            under_way: Number of these steps that have not updated the weights yet.

        Raises:
            CammsrError: A norm is NaN or infinite. The weights are then unusable and must not be
                saved.
        """
        unread, self._unread = self._unread, []
        if not unread:
            return
        norms = torch.stack([norm for norm, _ in unread]).tolist()
        for at, (norm, (_, losses)) in enumerate(zip(norms, unread, strict=True)):
            if not math.isfinite(norm):
                step = self.state.progress.step + under_way - len(unread) + at + 1
                parts = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
                raise diverged(
                    f"training diverged at step {step}: the gradient is not "
                    f"finite (loss parts: {parts})",
                    self.config,
                )

    def _move(self) -> None:
        """Update the weights; the first call creates the optimisers' state.

        Raises:
            CammsrError: The device's memory does not hold that state. Smaller micro-batches would
                not help: their memory is already free at this point.
        """
        try:
            for optimizer in self.state.optimizers:
                optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            weights = sum(weight.numel() for weight in self.state.model.parameters())
            raise CammsrError(
                f"the device's memory does not hold {weights:,} weights with their gradients and "
                "the optimiser's two values for each",
                "Make the model smaller: --set model.width=32; or train where there is more "
                "memory: --device cpu",
            ) from error

    def _clip(self) -> Tensor:
        """Clip the gradient to the norm `clip_norm`; return its norm before clipping."""
        every = [_values(w) for w in self.state.model.parameters() if w.grad is not None]
        grads = [local_part(grad) for grad in every]
        # Each process has a part of a sharded gradient; the other gradients are equal in all.
        parts = [own for own, grad in zip(grads, every, strict=True) if own is not grad]
        alike = [own for own, grad in zip(grads, every, strict=True) if own is grad]
        norm = torch.nn.utils.get_total_norm(alike)
        if parts:
            norm = (
                self.world.sum(torch.nn.utils.get_total_norm(parts).square())
                .add(norm.square())
                .sqrt()
            )
        scale = (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, scale)
        return norm

    @torch.no_grad()
    def _average(self) -> None:
        """Update the moving average of the weights; its decay grows up to `ema_decay`."""
        step = self.state.progress.step
        decay = min(self.config.ema_decay, step / (step + 10))
        pairs = [
            (slow, weight)
            for slow, weight in zip(
                self.state.averaged.parameters(), self.state.model.parameters(), strict=True
            )
            if slow is not weight
        ]
        torch._foreach_lerp_([slow for slow, _ in pairs], [fast for _, fast in pairs], 1 - decay)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bfloat16)

    def _unsynchronised(self) -> nullcontext[None]:
        """Context without gradient synchronisation, for all but the last micro-batch of a step."""
        if isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()  # type: ignore[return-value]
        return nullcontext()

    def _make_room(self, largest: int) -> None:
        """Halve the micro-batch after the device ran out of memory with `largest` windows at once.

        Raises:
            CammsrError: `largest` is 1, or there are several processes: the others would not know
                of the change.
        """
        if largest == 1:
            raise CammsrError(
                "the device's memory does not hold a single history",
                "Make it smaller: --set model.length=50, or --set model.width=32",
            )
        if self.world.size > 1:
            raise CammsrError(
                f"the device's memory does not hold {largest} histories at once",
                f"Hold fewer: --set training.micro_batch={largest // 2}",
            )
        self.micro_batch = largest // 2
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()
        self.note(
            f"out of memory with {largest} histories at once: going on with "
            f"{self.micro_batch} at a time, in batches of the same size"
        )


def _values(weight: Tensor) -> Tensor:
    """The gradient of a weight; for a sparse one, the values of the coalesced gradient."""
    grad = weight.grad
    assert grad is not None
    if not grad.is_sparse:
        return grad
    weight.grad = grad.coalesce()  # no copy, unless it sums several micro-batches
    return weight.grad._values()


def _times(value: Tensor, factor: float) -> Tensor:
    """Multiply; return `value` itself if the factor is 1."""
    return value if factor == 1 else value * factor
