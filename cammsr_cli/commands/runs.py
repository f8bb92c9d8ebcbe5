"""`cammsr runs`: compare run folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog

EXAMPLES = ["cammsr runs", "cammsr runs run baseline", "cammsr runs run baseline --json"]
HELP_EPILOG = epilog(EXAMPLES)


def command(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders, or folders that hold some [default: the current one]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List and compare run folders: preset, data, validation, epochs, size, settings.

    Best validation NDCG@10 first. Figures of runs on different data sets do not compare, which is
    said. Settings are those that differ from the preset's, or between the runs.
    """
    from dataclasses import asdict

    from cammsr_cli.runs.comparison import different_settings, summarise_runs

    runs = summarise_runs(folders or [Path()])
    if as_json:
        console.result_json([asdict(one) for one in runs])
        return
    names = different_settings(runs)
    console.result_table(
        [
            ("run", False),
            ("preset", False),
            ("data", False),
            ("NDCG@10", True),
            ("best epoch", True),
            ("size", True),
            ("settings", False),
        ],
        [
            [
                one.run,
                one.preset if one.fault is None else "cannot be read",
                Path(one.data).name,
                "" if one.best_ndcg is None else f"{one.best_ndcg:.4f}",
                f"{one.best_epoch or 0} of {one.epochs}" + ("" if one.finished else ", unfinished"),
                f"{one.bytes / 1e6:,.1f} MB",
                ", ".join(
                    f"{name}={value}"
                    for name, value in {**(one.changed or {}), **(one.chosen or {})}.items()
                    if name in names
                ),
            ]
            for one in runs
        ],
    )
    for one in runs:
        if one.fault is not None:
            console.note(f"{one.run}: {one.fault}")
    if len({one.data_content for one in runs if one.fault is None}) > 1:
        console.note("these runs were trained on different data sets: their figures do not compare")
