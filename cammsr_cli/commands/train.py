"""`cammsr train`: train a model on a data set and write a run folder."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.errors import UsageError, typed

if TYPE_CHECKING:
    from cammsr_cli.training.reports import EpochReport, StepReport
    from cammsr_cli.training.train import Started

EXAMPLES = [
    "cammsr train shop.h5 --out run",
    "cammsr train shop.h5 --out baseline --preset sasrec --set training.epochs=5",
    "cammsr train shop.h5 --out published --preset paper --set model.router=linear",
    "cammsr train --list-settings",
]
HELP_EPILOG = epilog(EXAMPLES)


def command(
    data: Annotated[
        Path | None, typer.Argument(help="Data set made by 'cammsr prepare'.", metavar="DATA.h5")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the run.")] = Path("run"),
    preset: Annotated[
        str,
        typer.Option(
            help="Where settings start: cammsr, the best that is known; paper, the model as "
            "published; or sasrec (ids alone, the baseline)."
        ),
    ] = "cammsr",
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, as in a run's config.yaml.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, as section.key=value; repeatable."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of every random number [default: 0].")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the run in --out.")] = False,
    list_settings: Annotated[
        bool, typer.Option("--list-settings", help="Show every setting with its default and exit.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train a model on a prepared data set.

    Stops by itself when validation NDCG@10 no longer gets better, and keeps the best weights.
    A run that was killed goes on with --resume.
    """
    from dataclasses import asdict

    from cammsr_cli.config import described, resolve

    if list_settings and as_json:
        names = ("setting", "default", "help")
        console.result_json([dict(zip(names, one, strict=True)) for one in described()])
        return
    if list_settings:
        console.result_table(
            [("setting", False), ("default", False), ("what it does", False)], described()
        )
        return
    if data is None:
        raise UsageError("which data set? Name the file that 'cammsr prepare' wrote", EXAMPLES[0])
    if resume and (force or config or assignments or seed is not None or preset != "cammsr"):
        raise UsageError(
            "--resume goes on with the settings the run began with: "
            "leave out --force, --preset, --config, --set and --seed"
        )
    seeds = [] if seed is None else [f"training.seed={seed}"]
    settings = resolve(preset, config, [*(assignments or []), *seeds])

    from cammsr_cli.devices import resolve_device
    from cammsr_cli.distributed import joined
    from cammsr_cli.training import train as training

    with joined(resolve_device(device)) as world:
        display = _Display(f"cammsr train {typed(data)} --out {typed(out)} --resume", world.leads)
        listener = training.Listener(display.start, display.epoch, display.step, display.note)
        with display.interrupted():
            if resume:
                outcome = training.resume(data, out, world=world, listener=listener)
            else:
                outcome = training.train(
                    data, out, settings, preset=preset, world=world, force=force, listener=listener
                )
    if not world.leads:
        return
    if as_json:
        console.result_json({"run": str(out), **asdict(outcome)})
    else:
        console.result(
            f"{out}: best validation NDCG@10 {outcome.best_ndcg:.4f} in epoch "
            f"{outcome.best_epoch} of {outcome.epochs}"
        )
    console.next_command("cammsr evaluate", out)


class _Display:
    """The progress of a training on stderr: one line per epoch, and the progress within an epoch.

    Args:
        resume: The command that resumes this training.
        talks: Whether this process prints.
    """

    SECONDS_BETWEEN_STEPS = 10.0
    """The interval between lines about the progress within a long epoch."""

    def __init__(self, resume: str, talks: bool) -> None:
        self.epochs = 0
        self.resume = resume
        self.talks = talks
        self.seconds: list[float] = []
        self.said = time.monotonic()
        self.stepped = False

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Print how to resume if the training is interrupted after its first step."""
        try:
            yield
        except KeyboardInterrupt:
            if self.stepped:
                self.note(f"stopped; go on with: {self.resume}")
            raise

    def note(self, words: str) -> None:
        if self.talks:
            console.note(words)

    def start(self, started: Started) -> None:
        streams = ", ".join(["id", *started.spec.feature_dims])
        resumed = f"; resumed after epoch {started.resumed_epoch}, step {started.resumed_step}"
        self.note(
            f"{started.parameters:,} parameters on {started.device}; streams: {streams}"
            + ("; sampled softmax" if started.sampled else "")
            + (resumed if started.resumed_step else "")
        )
        self.epochs = started.epochs
        self.said = time.monotonic()

    def step(self, report: StepReport) -> None:
        self.stepped = True
        if not self.talks or time.monotonic() - self.said < self.SECONDS_BETWEEN_STEPS:
            return
        self.said = time.monotonic()
        losses = " ".join(f"{name} {float(value):.3f}" for name, value in report.losses.items())
        self._line(
            f"epoch {report.epoch:3d}  {report.share:4.0%} done  {losses}  "
            f"{report.events_per_second:,.0f} events/s"
        )

    def epoch(self, report: EpochReport) -> None:
        if not self.talks:
            return
        self.said = time.monotonic()
        self.seconds.append(report.seconds)
        typical = sum(self.seconds[-10:]) / len(self.seconds[-10:])
        left = _clock(typical * (self.epochs - report.epoch))
        losses = " ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
        star = "*" if report.best_epoch == report.epoch else " "
        self._line(
            f"epoch {report.epoch:3d}{star} NDCG@10 {report.ndcg:.4f} (best {report.best_ndcg:.4f})"
            f"  {losses}  {report.events_per_second:,.0f} events/s  at most {left} left"
        )

    @staticmethod
    def _line(words: str) -> None:
        sys.stderr.write(words + "\n")
        sys.stderr.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
