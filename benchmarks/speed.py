"""Speed and memory beside RecTools and RecBole: one run, one machine, one process after another.

    python -m benchmarks.speed --work FOLDER [--sets ml1m,amazon-beauty] [--only sasrec,rectools]
    python -m benchmarks.speed --work FOLDER --sets ml1m --time-to-quality

The first prints training events a second, peak memory and users ranked a second as Markdown
tables, with the ratios we hold ourselves to. The second trains our `sasrec` preset to early
stopping and prints when it and RecTools first reach 98 % of its best validation NDCG@10.
FOLDER keeps the prepared data sets, the peers' environments and every result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.data_sets import Prepared, prepared
from benchmarks.options import absolute, names_among, parser_of
from benchmarks.time_to_quality import Curve, curve_of_ours, curve_of_peer, print_curves
from benchmarks.trainings import (
    Size,
    Training,
    speed_of_ours,
    speed_of_peer,
    train_ours,
    train_peer,
)

TRAININGS = ("sasrec", "cammsr", "rectools", "recbole")

GOAL = 0.98
"""Share of our best validation NDCG@10 whose time is measured."""


@dataclass(frozen=True)
class Bar:
    """A ratio we hold ourselves to.

    Attributes:
        what: What is over what.
        ratio: As measured.
        bound: What it must be.
        at_least: Whether `bound` is the least or the most it may be.
    """

    what: str
    ratio: float
    bound: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether it is what it must be."""
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound


def bars(best: dict[str, Training]) -> list[Bar]:
    """The ratios that can be told from the best training of each name in `TRAININGS`."""
    found = []

    def add(what: str, own: str, other: str, figure: str, bound: float, at_least: bool) -> None:
        if own in best and other in best:
            ratio = getattr(best[own], figure) / getattr(best[other], figure)
            found.append(Bar(what, ratio, bound, at_least))

    speed, memory = "events_per_second", "megabytes"
    add("events/s, sasrec preset over RecTools", "sasrec", "rectools", speed, 1.5, True)
    add("events/s, sasrec preset over RecBole", "sasrec", "recbole", speed, 20, True)
    add("events/s, cammsr over RecBole's SASRec", "cammsr", "recbole", speed, 5, True)
    add("s an epoch, cammsr over sasrec preset", "cammsr", "sasrec", "epoch_seconds", 2, False)
    add("users/s, sasrec preset over RecTools", "sasrec", "rectools", "users_per_second", 2, True)
    add("peak memory, sasrec preset over RecTools", "sasrec", "rectools", memory, 1, False)
    add("peak memory, cammsr over RecTools", "cammsr", "rectools", memory, 1, False)
    return found


def print_speeds(name: str, trainings: Sequence[Training], reached: Sequence[Bar]) -> None:
    """Print the figures of one data set as Markdown tables."""
    print(f"\n{name}:\n")
    print("| | events/s | targets an epoch | s an epoch | peak MB | users ranked/s |")
    print("|---|---:|---:|---:|---:|---:|")
    for one in trainings:
        print(
            f"| {one.name} | {one.events_per_second:,.0f} | {one.targets:,} "
            f"| {one.epoch_seconds:,.1f} | {one.megabytes:,.0f} | {one.users_per_second:,.0f} |"
        )
    print("\n| ratio | measured | bar | met |\n|---|---:|---:|---|")
    for bar in reached:
        sign = "≥" if bar.at_least else "≤"
        print(f"| {bar.what} | {bar.ratio:.2f} | {sign} {bar.bound:g} | {_yes(bar.met)} |")


def speeds(
    name: str, data: Prepared, size: Size, options: argparse.Namespace
) -> Iterator[tuple[str, Training]]:
    """Train all that was asked for on one data set, each with its name in `TRAININGS`."""
    for preset in ("sasrec", "cammsr"):
        if preset in options.only:
            out = options.work / f"{name}-{preset}"
            yield preset, speed_of_ours(preset, data, out, size, options.epochs)
    for peer in ("rectools", "recbole"):
        if peer in options.only:
            yield from ((peer, one) for one in peer_speeds(peer, name, data, size, options))


def peer_speeds(
    peer: str, name: str, data: Prepared, size: Size, options: argparse.Namespace
) -> Iterator[Training]:
    """Train a peer at each of its batch sizes, in epochs cut short."""
    batches, samples = {
        "rectools": (options.rectools_batches, options.rectools_samples),
        "recbole": (options.recbole_batches, options.recbole_samples),
    }[peer]
    for batch in batches:
        out = options.work / f"{name}-{peer}-{batch}"
        steps = max(samples // batch, 1)
        limits = ("--epochs", str(options.epochs), "--max-steps", str(steps))
        batch_size = ("--batch-size", str(batch))
        yield speed_of_peer(train_peer(peer, options.envs, data, out, size, *batch_size, *limits))


def fastest(trainings: Sequence[tuple[str, Training]]) -> dict[str, Training]:
    """The training with most events a second of each name."""
    best: dict[str, Training] = {}
    for name, training in sorted(trainings, key=lambda pair: pair[1].events_per_second):
        best[name] = training
    return best


def time_to_quality(
    name: str, data: Prepared, size: Size, options: argparse.Namespace
) -> list[Curve]:
    """Train our preset to early stopping, and RecTools at its fastest batch size."""
    _, lines = train_ours(
        "sasrec", data, options.work / f"{name}-sasrec-to-end", size, device="cpu"
    )
    rates = [
        training.events_per_second
        for training in peer_speeds("rectools", name, data, size, options)
    ]
    batch = options.rectools_batches[rates.index(max(rates))]
    out = options.work / f"{name}-rectools-to-end"
    limits = ("--epochs", "10000", "--max-seconds", str(options.peer_seconds), "--validate")
    result = train_peer(
        "rectools", options.envs, data, out, size, "--batch-size", str(batch), *limits
    )
    return [
        curve_of_ours("cammsr --preset sasrec", lines, data.targets),
        curve_of_peer(speed_of_peer(result).name, result, out),
    ]


def main() -> None:
    """Measure and print."""
    options = _options()
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    size = Size(dropout=options.dropout)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    raw: dict[str, Any] = {"machine": machine, "size": asdict(size), "threads": options.threads}
    print(f"{machine}; {', '.join(f'{k} {v}' for k, v in asdict(size).items())}")
    for name in options.sets:
        data = prepared(name, options.data, options.work)
        if options.time_to_quality:
            curves = time_to_quality(name, data, size, options)
            raw[name] = [asdict(curve) for curve in curves]
            _write(options.out, raw)
            print_curves(curves, GOAL * max(curves[0].ndcg))
            continue
        trained = []
        for pair in speeds(name, data, size, options):
            trained.append(pair)
            raw[name] = [{"training": which, **asdict(one)} for which, one in trained]
            _write(options.out, raw)
        print_speeds(name, [one for _, one in trained], bars(fastest(trained)))


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__, ["ml1m", "amazon-beauty"])
    parser.add_argument("--envs", type=absolute, help="the peers' environments [WORK/envs]")
    parser.add_argument("--out", type=absolute, help="raw results as JSON [WORK/speed.json]")
    parser.add_argument("--only", type=names_among(TRAININGS), default=list(TRAININGS))
    parser.add_argument("--epochs", type=int, default=3, help="the first warms up")
    parser.add_argument("--dropout", type=float, default=Size.dropout)
    parser.add_argument("--threads", type=int, help="of every process [one a core]")
    parser.add_argument("--rectools-batches", type=_numbers, default=[32, 128, 256, 512])
    parser.add_argument("--recbole-batches", type=_numbers, default=[256, 2048])
    parser.add_argument("--rectools-samples", type=int, default=2048, help="an epoch, for speed")
    parser.add_argument("--recbole-samples", type=int, default=10240, help="an epoch, for speed")
    parser.add_argument("--time-to-quality", action="store_true")
    parser.add_argument(
        "--peer-seconds", type=float, default=3600, help="RecTools' time to quality"
    )
    options = parser.parse_args()
    options.envs = options.envs or options.work / "envs"
    options.out = options.out or options.work / "speed.json"
    return options


def _write(file: Path, raw: dict[str, Any]) -> None:
    file.write_text(json.dumps(raw, indent=2), encoding="utf-8")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _yes(met: bool) -> str:
    return "yes" if met else "no"


if __name__ == "__main__":
    main()
