"""`cammsr evaluate`: evaluate a run on held-out events."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.commands.options import KeepSeen, MediaRoot, NewShare
from cammsr_cli.commands.pages import require_media_root, write_report_page

if TYPE_CHECKING:
    from cammsr_cli.ranking.evaluate import Evaluation
    from cammsr_cli.ranking.evaluation_details import Details
    from cammsr_cli.ranking.metrics import Estimate

EXAMPLES = [
    "cammsr evaluate run",
    "cammsr evaluate run --against baseline",
    "cammsr evaluate run --details",
    "cammsr evaluate run --per-user ranks.csv",
    "cammsr evaluate run --report report.html --media-root shop",
    "cammsr evaluate run --split validation --keep-seen --json",
]
HELP_EPILOG = epilog(EXAMPLES)


class SplitName(StrEnum):
    """The split whose held-out events are the targets."""

    TEST = "test"
    VALIDATION = "validation"


def command(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'cammsr train'.")] = Path("run"),
    data: Annotated[
        Path | None, typer.Option(help="Data set, if not the one the run was trained on.")
    ] = None,
    split: Annotated[SplitName, typer.Option(help="Which held-out events.")] = SplitName.TEST,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Another run to compare with, user by user; repeatable."),
    ] = None,
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            help="Look closer: slices, what the lists are like, what each modality is worth, and "
            "whether explanations hold.",
        ),
    ] = False,
    per_user: Annotated[
        Path | None,
        typer.Option(
            help="Write each user's held-out item, its rank and the best ten items to a .parquet, "
            ".csv or .jsonl file.",
            metavar="FILE",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a page to look at: figures, charts and what some users are recommended. "
            "One .html file, which needs no network.",
            metavar="FILE",
        ),
    ] = None,
    media_root: MediaRoot = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace --per-user and --report.")
    ] = False,
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
    from dataclasses import asdict, replace

    from cammsr_cli.devices import resolve_device
    from cammsr_cli.ranking import per_user_file
    from cammsr_cli.ranking.evaluate import evaluation_of, ranked

    require_media_root(media_root)
    if per_user is not None:
        per_user_file.require_free(per_user, force)
    if report is not None:
        from cammsr_cli.report import page

        page.require_free("--report", report, force)
    found = ranked(
        run,
        data=data,
        device=resolve_device(device),
        split=split.value,
        exclude_seen=None if keep_seen is None else not keep_seen,
        new_share=new_share,
    )
    evaluation = evaluation_of(
        found,
        data=data,
        against=against or (),
        seed=seed,
        look_closer=details or report is not None,
    )
    if per_user is not None:
        per_user_file.write_per_user(found.run, found.ranking, found.rank, per_user)
    if report is not None:
        write_report_page(report, found, evaluation, media_root)
    if not details:
        evaluation = replace(evaluation, details=None)
    for remark in evaluation.remarks:
        console.note(remark)
    if as_json:
        console.result_json({"run": str(run), **asdict(evaluation)})
    else:
        _show(evaluation, run)
        if evaluation.details is not None:
            _show_details(evaluation.details)
        if per_user is not None:
            console.result(f"{per_user}: {evaluation.users:,} users")
        if report is not None:
            console.result(f"{report}: {report.stat().st_size / 1e6:.1f} MB; open it in a browser")
        from_there = () if data is None else ("--data", data)
        console.next_command("cammsr recommend", run, *from_there, "--user USER")


def _show(evaluation: Evaluation, run: Path) -> None:
    columns = [("metric", False), (str(run), True), ("popularity", True)]
    columns += [(f"better than {other} by", True) for other in evaluation.against]
    rows = []
    for name, estimate in evaluation.model.items():
        row = [name, _interval(estimate), _interval(evaluation.popularity[name])]
        for differences in evaluation.against.values():
            difference = differences[name]
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


def _show_details(details: Details) -> None:
    console.result_table(
        [("by", False), ("slice", False), ("users", True), ("NDCG@10", True), ("Recall@10", True)],
        [
            [one.by, one.value, f"{one.users:,}", _interval(one.ndcg), f"{one.recall:.4f}"]
            for one in details.slices
        ],
        title="slices of the held-out events",
    )
    lists = details.lists
    diversity = "no categories" if lists.diversity is None else f"{lists.diversity:.1%}"
    console.result_table(
        [("the best ten of all users", False), ("", True)],
        [
            ["share of the catalogue that is in any list", f"{lists.coverage:.1%}"],
            ["Gini coefficient of how often items are listed", f"{lists.gini:.3f}"],
            ["novelty: mean -log2 of an item's share of all events", f"{lists.novelty:.2f}"],
            ["pairs within a list without a common category", diversity],
        ],
    )
    console.result_table(
        [("without", False), ("NDCG@10", True), ("lower by", True)],
        [[name, f"{one.without:.4f}", _interval(one.lost)] for name, one in details.worth.items()],
        title="what each modality is worth to this model",
    )
    if details.weights:
        streams = list(details.weights[0].weights)
        console.result_table(
            [("category", False), *((stream, True) for stream in streams)],
            [
                [one.category, *(f"{share:.0%}" for share in one.weights.values())]
                for one in details.weights
            ],
            title="what lifts recommended items, by their category",
        )
    for branch in details.experts[0].shares if details.experts else ():
        experts = details.experts[0].shares[branch]
        console.result_table(
            [("category", False), *((f"expert {at}", True) for at in range(1, len(experts) + 1))],
            [
                [one.category, *(f"{share:.0%}" for share in one.shares[branch])]
                for one in details.experts
            ],
            title=f"how much each expert of the branch {branch} counts, by category",
        )
    if details.faithfulness is not None:
        console.result(
            "explanations: taking away the modality that is said to count most moves the score "
            "more than taking away the one that is said to count least in "
            f"{details.faithfulness.share.mean:.1%} of {details.faithfulness.pairs:,} "
            "recommendations"
        )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"
