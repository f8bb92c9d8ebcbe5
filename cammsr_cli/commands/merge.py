"""`cammsr merge`: join the parts of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog

if TYPE_CHECKING:
    from cammsr_cli.prepare.dataset_parts import MergeReport

EXAMPLES = ["cammsr merge shop.1-of-2.h5 shop.2-of-2.h5 --out shop.h5"]
HELP_EPILOG = epilog(EXAMPLES)


def command(
    parts: Annotated[
        list[Path], typer.Argument(help="All parts, in any order.", metavar="PART.h5...")
    ],
    out: Annotated[Path, typer.Option(help="Data set to write.")],
    force: Annotated[bool, typer.Option("--force", help="Replace --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Join the parts that 'cammsr prepare --shard' wrote.

    The result is the data set that one 'cammsr prepare' makes. The raw files are not needed.
    """
    from dataclasses import asdict

    from cammsr_cli.prepare.dataset_parts import merge_parts

    report = merge_parts(parts, out, force)
    if as_json:
        console.result_json(asdict(report))
    else:
        show(report)
    console.next_command("cammsr train", out)


def show(report: MergeReport) -> None:
    """Print the result of joining the parts."""
    if report.problems_file is not None:
        console.note(f"unreadable: {report.problems:,}; listed in {report.problems_file}")
    console.result_table(
        [("modality", False), ("items", True), ("missing", True)],
        [
            [name, f"{present:,}", f"{report.items - present:,}"]
            for name, present in report.modalities.items()
        ],
        title=f"{report.items:,} items",
    )
    console.result(f"{report.out}: {report.bytes / 1e6:,.1f} MB")
