"""`cammsr evaluate`: how good a run is, on held-out events."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.commands.options import KeepSeen, NewShare

if TYPE_CHECKING:
    from cammsr_cli.ranking.evaluate import Evaluation
    from cammsr_cli.ranking.metrics import Estimate

EXAMPLES = [
    "cammsr evaluate run",
    "cammsr evaluate run --against baseline",
    "cammsr evaluate run --split validation --keep-seen --json",
]
HELP_EPILOG = epilog(EXAMPLES)


class SplitName(StrEnum):
    """Which held-out event is to be found."""

    TEST = "test"
    VALIDATION = "validation"


def command(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'cammsr train'.")] = Path("run"),
    data: Annotated[
        Path | None, typer.Option(help="Data set, if not the one the run was trained on.")
    ] = None,
    split: Annotated[SplitName, typer.Option(help="Which held-out events.")] = SplitName.TEST,
    against: Annotated[
        Path | None, typer.Option(help="A second run to compare with, user by user.")
    ] = None,
    keep_seen: KeepSeen = None,
    new_share: NewShare = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how good a run is.

    The whole catalogue is ranked for every user; nothing is sampled. Recall, NDCG and MRR at 5,
    10 and 20 stand beside what recommending the most popular items gives, each with its 95 %
    bootstrap interval over users.
    """
    from dataclasses import asdict

    from cammsr_cli.devices import resolve_device
    from cammsr_cli.ranking.evaluate import evaluate

    evaluation = evaluate(
        run,
        data=data,
        device=resolve_device(device),
        split=split.value,
        exclude_seen=None if keep_seen is None else not keep_seen,
        against=against,
        new_share=new_share,
        seed=seed,
    )
    for remark in evaluation.remarks:
        console.note(remark)
    if as_json:
        console.result_json({"run": str(run), **asdict(evaluation)})
    else:
        _show(evaluation, run, against)
        from_there = () if data is None else ("--data", data)
        console.next_command("cammsr recommend", run, *from_there, "--user USER")


def _show(evaluation: Evaluation, run: Path, against: Path | None) -> None:
    columns = [("metric", False), (str(run), True), ("popularity", True)]
    if against is not None:
        columns.append((f"better than {against} by", True))
    rows = []
    for name, estimate in evaluation.model.items():
        row = [name, _interval(estimate), _interval(evaluation.popularity[name])]
        if evaluation.against is not None:
            difference = evaluation.against[name]
            relative = "" if difference.relative is None else f" ({difference.relative:+.1%})"
            row.append(
                f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]{relative}"
            )
        rows.append(row)
    seen = "excluded" if evaluation.seen_excluded else "kept"
    console.result_table(
        columns,
        rows,
        title=f"{evaluation.split}: {evaluation.users:,} users, all {evaluation.items:,} items "
        f"ranked, seen items {seen}; mean and 95 % interval",
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
