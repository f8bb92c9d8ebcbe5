"""Where a training step's time goes, and how far each stage is from what the machine could do.

    python -m benchmarks.train DATA.h5 [--preset sasrec] [--set training.batch_size=256] [--steps N]

Prints a Markdown table: milliseconds of each stage of a step, the operations it makes, and how long
those would take at the speed of a large matrix product measured in the same run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cammsr_cli.config import resolve
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.devices import resolve_device
from cammsr_cli.distributed import World
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.history_windows import shuffled_batches, training_windows
from cammsr_cli.model.items import ItemEncoder
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.spec import describe, training_items
from cammsr_cli.training import objective, plan, step
from cammsr_cli.training.loop import Trainer
from cammsr_cli.training.sizing import fitted
from cammsr_cli.training.step import PlannedStep
from cammsr_cli.training.train import make_trainer


@dataclass
class Stages:
    """Seconds and floating-point operations by stage, summed over steps.

    Attributes:
        seconds: Stage to the time it took, that of stages within it taken off.
        operations: Stage to multiplications and additions, each counted as one.
    """

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    operations: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _open: list[list[float]] = field(default_factory=list)
    count: bool = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens in the block is of stage `name`."""
        self._open.append([0.0, 0.0])
        began = self._clock()
        with FlopCounterMode(display=False) if self.count else _Nothing() as counter:
            yield
        elapsed = self._clock() - began
        operations = float(counter.get_total_flops()) if self.count else 0.0
        inner_seconds, inner_operations = self._open.pop()
        self.seconds[name].append(elapsed - inner_seconds)
        self.operations[name] += operations - inner_operations
        if self._open:
            self._open[-1][0] += elapsed
            self._open[-1][1] += operations

    def watch(self, owner: Any, attribute: str, name: str) -> Callable[[], None]:
        """Make every call of `owner.attribute` a stage; returns what undoes that."""
        plain = getattr(owner, attribute)

        @wraps(plain)
        def watched(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return plain(*arguments, **named)

        setattr(owner, attribute, watched)
        return lambda: setattr(owner, attribute, plain)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class _Nothing:
    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_total_flops(self) -> int:
        """No operations were counted."""
        return 0


WATCHED: list[tuple[Any, str, str]] = [
    (plan, "cut", "plan"),
    (plan, "deal_ties", "plan"),
    (plan.Planner, "_candidates", "plan"),
    (plan.Planner, "_go", "plan"),
    (ItemEncoder, "forward", "streams of items"),
    (Cammsr, "item_tables", "categories and weights of items"),
    (Cammsr, "history", "positions and experts"),
    (Cammsr, "encode", "Transformers"),
    (objective.Objective, "_repeats", "repeats"),
    (objective, "sampled_cross_entropy", "loss, with its gradients"),
    (objective, "category_loss", "category loss"),
    (torch.Tensor, "backward", "backward of all else"),
    (step.Stepper, "_clip", "clip"),
    (step.Stepper, "_average", "average weights"),
    (torch.optim.AdamW, "step", "optimiser"),
]


def matmul_peak(device: torch.device, dtype: torch.dtype, size: int = 2048) -> float:
    """Operations a second of a large matrix product, best of ten."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    stages = Stages(device)
    for _ in range(10):
        with stages.stage("product"):
            torch.mm(a, b)
    return 2 * size**3 / min(stages.seconds["product"])


def batches_of(trainer: Trainer, steps: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """First and one past the last input of the windows of some steps, as training draws them."""
    generator = torch.Generator().manual_seed(0)
    trainer.state.model.train()
    start_W, end_W = training_windows(trainer.start_U, trainer.end_U, trainer.length, generator)
    batches = shuffled_batches(len(end_W), trainer.config.batch_size, generator)
    for at in range(steps):
        batch = batches[at % len(batches)]
        yield start_W[batch], end_W[batch]


def planned_steps(trainer: Trainer, steps: int) -> Generator[PlannedStep, None, None]:
    """Some steps on such windows, planned as a training plans them; to be closed."""
    generator = torch.Generator().manual_seed(0)
    trainer.state.model.train()
    start_W, end_W = training_windows(trainer.start_U, trainer.end_U, trainer.length, generator)
    batches = shuffled_batches(len(end_W), trainer.config.batch_size, generator)
    return trainer.planned(start_W, end_W, [batches[at % len(batches)] for at in range(steps)])


def some_steps(trainer: Trainer, steps: int) -> Iterator[Callable[[], int]]:
    """Calls that make one step each, on batches as training draws them; events of the step."""
    for start_B, end_B in batches_of(trainer, steps):

        def one(start_B: torch.Tensor = start_B, end_B: torch.Tensor = end_B) -> int:
            trainer.step(start_B, end_B)
            return int((end_B - start_B).sum())

        yield one


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", default="cammsr")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = resolve_device(options.device)
    data = DataSet(options.data)
    config, _ = fitted(resolve(options.preset, None, options.assignments), data, device)
    spec = describe(data, config.model, options.preset)
    id_rows = [data.item_ids[item] for item in training_items(data)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            RunFolder(Path(folder)), data, config, spec, id_rows, World(0, 1, device), print
        )
    for one in some_steps(trainer, 3):
        one()
    plain, events = [], []
    for one in some_steps(trainer, options.steps):
        began = time.perf_counter()
        events.append(one())
        if device.type == "cuda":
            torch.cuda.synchronize()
        plain.append(time.perf_counter() - began)
    stages = Stages(device)
    undo = [stages.watch(*watched) for watched in WATCHED]
    for one in some_steps(trainer, options.steps):
        with stages.stage("the rest"):
            one()
    seconds = {name: sum(values) / options.steps for name, values in stages.seconds.items()}
    stages.operations.clear()
    stages.count = True
    for one in some_steps(trainer, options.steps):
        with stages.stage("the rest"):
            one()
    for back in undo:
        back()
    peak = matmul_peak(device, torch.bfloat16 if trainer.step.bfloat16 else torch.float32)
    whole = sum(seconds.values())
    print(
        f"{options.preset} on {data.path.name}, {device}, {torch.get_num_threads()} threads, "
        f"batch {config.training.batch_size}, length {config.model.length}, width "
        f"{config.model.width}: {sum(events) / sum(plain):,.0f} events/s, step "
        f"{statistics.median(plain) * 1e3:.1f} ms; measured peak {peak / 1e9:,.0f} GFlop/s"
    )
    print("\n| stage | ms | share | GFlop | floor ms | times floor |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, taken in sorted(seconds.items(), key=lambda one: -one[1]):
        operations = stages.operations[name] / options.steps
        floor = operations / peak
        times = f"{taken / floor:.1f}" if floor > 1e-5 else "–"
        print(
            f"| {name} | {taken * 1e3:.1f} | {taken / whole:.0%} | {operations / 1e9:.2f} "
            f"| {floor * 1e3:.1f} | {times} |"
        )
    total = sum(stages.operations.values()) / options.steps
    print(
        f"| all | {whole * 1e3:.1f} | | {total / 1e9:.2f} | {total / peak * 1e3:.1f} "
        f"| {whole * peak / total:.1f} |"
    )


if __name__ == "__main__":
    main()
