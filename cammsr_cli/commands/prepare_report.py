"""The report that `cammsr prepare` prints at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cammsr_cli import console

if TYPE_CHECKING:
    from cammsr_cli.prepare.report import PrepareReport


def show_notes(report: PrepareReport, in_table: bool) -> None:
    """Print notes to stderr, without those that the table of decisions shows."""
    shown = {how for _, how in report.decisions} if in_table else set()
    for line in report.notes:
        if line not in shown:
            console.note(f"note: {line}")
    for name, one in report.modalities.items():
        if one.look is not None:
            console.note(f"{name}: {one.look}")
        if one.changes is not None:
            console.note(f"{name}: {one.changes} since {report.out} was last prepared")
    if report.problems_file is not None:
        unreadable = ", ".join(
            f"{one.problems:,} of {report.items:,} {name}"
            for name, one in report.modalities.items()
            if one.problems
        )
        console.note(f"unreadable: {unreadable}; listed in {report.problems_file}")


def note_what_training_needs() -> None:
    """Print why the data set cannot be used for training yet."""
    from cammsr_cli.prepare.report import HISTORY_TO_TRAIN_ON

    console.note(
        f"Nothing to train on yet: no user has {HISTORY_TO_TRAIN_ON} events, of which 2 are to "
        "learn from, 1 is to validate and 1 to test. Prepare more events, or drop fewer."
    )


def show(report: PrepareReport, dry_run: bool) -> None:
    """Print the modalities and the decisions to stdout."""
    console.result_table(
        [
            ("modality", False),
            ("made by", False),
            ("items", True),
            ("missing", True),
            ("unreadable" if not dry_run else "not found", True),
            ("to encode" if dry_run else "encoded", True),
            ("from cache", True),
            ("size", True),
        ],
        [
            [
                name,
                one.made_by,
                f"{one.present:,}",
                f"{one.missing:,}",
                f"{one.problems:,}",
                f"{one.encoded:,}",
                f"{one.cached:,}",
                "" if one.dim is None else str(one.dim),
            ]
            for name, one in report.modalities.items()
        ],
        title=f"{report.users:,} users, {report.items:,} items, {report.events:,} events, "
        f"{report.categories:,} categories",
    )
    console.result_decisions(report.decisions)
    size = None if report.bytes is None else f"{report.bytes / 1e6:,.1f} MB"
    if dry_run:
        about = "; its size is known once an encoder has run" if size is None else f", about {size}"
        console.result(f"would write {report.out}{about}")
    else:
        console.result(f"{report.out}: {size}")
