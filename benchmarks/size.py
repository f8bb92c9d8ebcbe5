"""Cost against size: time an event and memory of training, from 10^4 items to 10^6.

    python -m benchmarks.size --work FOLDER [--plot docs/images/size.svg] [--steps 20]

The plot needs matplotlib, which the extra `bench` brings.

Each size is a synthetic data set, written as `cammsr prepare` writes one, and a process of its own
that opens it and trains some steps under sampled softmax. Items are drawn by a power law; histories
have 100 events; each item has one category of 50 and a vector of 128 float16 numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

SIZES = [(10**4, 10**6), (10**5, 10**6), (10**5, 10**7), (10**6, 10**7), (10**6, 10**8)]
"""Items and events, from small to large."""

HISTORY, DIM, CATEGORIES = 100, 128, 50


@dataclass(frozen=True)
class Cost:
    """What one size costs.

    Attributes:
        items: N.
        events: E.
        open_seconds: From the file to the first step.
        epoch_seconds: Drawing an epoch's batches, once an epoch.
        step_seconds: Mean time of a step.
        events_per_step: Mean training targets of a step.
        open_megabytes: Resident memory before the first step.
        peak_megabytes: Most of it, at any time.
    """

    items: int
    events: int
    open_seconds: float
    epoch_seconds: float
    step_seconds: float
    events_per_step: float
    open_megabytes: float
    peak_megabytes: float

    @property
    def microseconds_per_event(self) -> float:
        """Of training, the drawing of batches spread over the epoch's events."""
        return 1e6 * (self.epoch_seconds / self.events + self.step_seconds / self.events_per_step)


def write_synthetic(path: Path, items: int, events: int) -> None:
    """A data set of the given size, the same at each call."""
    from cammsr_cli.data.corpus import Corpus
    from cammsr_cli.data.dataset import ModalityInfo
    from cammsr_cli.data.dataset_write import ModalityVectors, write_dataset

    random = np.random.default_rng(0)
    users = events // HISTORY
    share = 1 / np.arange(1, items + 1) ** 0.8
    drawn = np.searchsorted(np.cumsum(share / share.sum()), random.random(events, np.float32))
    part = np.zeros((users, HISTORY), np.uint8)
    part[:, -2:] = (1, 2)
    corpus = Corpus(
        user_ids=[f"u{user}" for user in range(users)],
        item_ids=[f"i{item}" for item in range(items)],
        fields={},
        item_rows=[None] * items,
        listed_rows=0,
        category_names=[f"c{category}" for category in range(CATEGORIES)],
        category_indptr=np.arange(items + 1, dtype=np.int64),
        category_index=(np.arange(items) % CATEGORIES).astype(np.int32),
        event_indptr=np.arange(users + 1, dtype=np.int64) * HISTORY,
        event_item=np.minimum(drawn, items - 1).astype(np.int32),
        event_time=np.tile(np.arange(HISTORY, dtype=np.int64), users),
        event_part=part.reshape(-1),
        sources={},
        notes=[],
    )
    values = random.standard_normal((items, DIM), np.float32).astype(np.float16)
    info = ModalityInfo(DIM, "synthetic", f"synthetic {items}", ())
    write_dataset(path, corpus, {"text": ModalityVectors(values, np.ones(items, np.bool_), info)})


def measure(path: Path, items: int, events: int, steps: int) -> Cost:
    """Open the data set and make some steps, in this process."""
    began = time.perf_counter()
    import torch

    from cammsr_cli.config import resolve
    from cammsr_cli.data.dataset import DataSet
    from cammsr_cli.distributed import World
    from cammsr_cli.model.history_windows import shuffled_batches, training_windows
    from cammsr_cli.runs.folder import RunFolder
    from cammsr_cli.runs.spec import describe, training_items
    from cammsr_cli.training.sizing import fitted
    from cammsr_cli.training.train import make_trainer

    given = resolve(
        "cammsr",
        None,
        [
            "training.sampled_softmax_above=0",
            "training.sparse_adam_above=0",
            "training.batch_size=128",
        ],
    )
    data = DataSet(path)
    config, _ = fitted(given, data, torch.device("cpu"))
    spec = describe(data, config.model, "cammsr")
    id_rows = [data.item_ids[item] for item in training_items(data)]
    world = World(0, 1, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(RunFolder(Path(folder)), data, config, spec, id_rows, world, print)
    opened, memory = time.perf_counter() - began, resident_megabytes()
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    start_W, end_W = training_windows(trainer.start_U, trainer.end_U, trainer.length, generator)
    batches = shuffled_batches(len(end_W), trainer.config.batch_size, generator)
    drawing = time.perf_counter() - began
    trainer.state.model.train()
    seconds, targets = [], []
    for batch in batches[: steps + 3]:
        began = time.perf_counter()
        trainer.step(start_W[batch], end_W[batch])
        seconds.append(time.perf_counter() - began)
        targets.append(int((end_W[batch] - start_W[batch]).sum()))
    return Cost(
        items=items,
        events=events,
        open_seconds=opened,
        epoch_seconds=drawing,
        step_seconds=float(np.mean(seconds[3:])),
        events_per_step=float(np.mean(targets[3:])),
        open_megabytes=memory,
        peak_megabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def resident_megabytes() -> float:
    """Memory of this process that is in RAM now, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def in_a_process_of_its_own(path: Path, items: int, events: int, steps: int) -> Cost:
    """`measure`, where nothing else has used memory yet."""
    out = path.with_suffix(".json")
    arguments = [sys.executable, __file__, "--measure", path, items, events, steps, out]
    command = [str(argument) for argument in arguments]
    process = os.posix_spawn(command[0], command, os.environ)
    if os.waitpid(process, 0)[1]:
        sys.exit(f"failed at {items:,} items and {events:,} events")
    return Cost(**json.loads(out.read_text()))


def draw(costs: list[Cost], path: Path) -> None:
    """Time an event and memory against size, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    size = [cost.events for cost in costs]
    labels = [f"$10^{len(str(cost.items)) - 1}$" for cost in costs]
    for axes, values, title in (
        (left, [cost.microseconds_per_event for cost in costs], "µs an event"),
        (right, [cost.peak_megabytes for cost in costs], "peak memory, MB"),
    ):
        axes.loglog(size, values, "o")
        for x, y, label in zip(size, values, labels, strict=True):
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=8)
        axes.set_xlabel("events (labels: items)")
        axes.set_title(title, fontsize=10)
        axes.grid(True, which="both", alpha=0.2)
    left.set_ylim(1, 1000)
    figure.savefig(path)


def main() -> None:
    """Write, measure, print."""
    if sys.argv[1:2] == ["--measure"]:
        data, *sizes, out = sys.argv[2:]
        cost = measure(Path(data), *(int(size) for size in sizes))
        Path(out).write_text(json.dumps(asdict(cost)))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="for the data sets; 2 GB")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    costs = []
    for items, events in SIZES:
        path = options.work / f"synthetic-{items}-{events}.h5"
        if not path.is_file():
            write_synthetic(path, items, events)
        costs.append(in_a_process_of_its_own(path, items, events, options.steps))
        print(f"measured {items:,} items, {events:,} events", file=sys.stderr)
    print(
        "| items | events | open s | draw s | step ms | events a step | µs an event | MB | peak |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for one in costs:
        print(
            f"| {one.items:,} | {one.events:,} | {one.open_seconds:.1f} | {one.epoch_seconds:.2f} "
            f"| {one.step_seconds * 1e3:.0f} | {one.events_per_step:,.0f} "
            f"| {one.microseconds_per_event:.1f} | {one.open_megabytes:,.0f} "
            f"| {one.peak_megabytes:,.0f} |"
        )
    scale = np.array([[1.0, one.items, one.events] for one in costs])
    peaks = np.array([one.peak_megabytes for one in costs])
    base, item, event = np.linalg.lstsq(scale / peaks[:, None], np.ones(len(costs)), rcond=None)[0]
    times = [one.microseconds_per_event for one in costs]
    print(
        f"\nslowest over fastest, time an event: {max(times) / min(times):.2f}; peak memory = "
        f"{base:,.0f} MB + {item * 2**20:,.0f} bytes an item + {event * 2**20:.1f} bytes an event"
    )
    if options.plot:
        draw(costs, options.plot)


if __name__ == "__main__":
    main()
