"""`cammsr tune`: search for settings that suit a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog

EXAMPLES = [
    "cammsr tune shop.h5 --out search --trials 20",
    "cammsr tune shop.h5 --out short --minutes 60 --set training.epochs=30",
    "cammsr tune shop.h5 --out sizes --search model.dropout=0.1..0.6 --search model.width=32,64",
]
HELP_EPILOG = epilog(EXAMPLES)


def command(
    data: Annotated[Path, typer.Argument(help="Data set made by 'cammsr prepare'.")],
    out: Annotated[Path, typer.Option(help="Folder of the search; one that is there goes on.")],
    trials: Annotated[int, typer.Option(min=1, help="Trainings in all.")] = 20,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin no training after so many minutes.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            help="What to search, as section.key=low..high or section.key=a,b,c; repeatable. "
            "If not given: learning rate, batch size, length, both dropouts, category weight."
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="Where settings start.")] = "cammsr",
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting for all trainings; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print all trials as JSON.")] = False,
) -> None:
    """Search for good settings by validation NDCG@10; the test split is never looked at.

    Needs the extra: pip install 'cammsr[tune]'. A search that was stopped goes on when it is
    started again with the same --out and settings.
    """
    from dataclasses import asdict

    from cammsr_cli.config import resolve

    resolve(preset, config, assignments or [])  # report errors before loading large packages

    from cammsr_cli.devices import resolve_device
    from cammsr_cli.distributed import joined
    from cammsr_cli.training.tune import DEFAULT_SEARCH, Range, tune

    ranges = [Range.parse(one) for one in search or DEFAULT_SEARCH]
    with joined(resolve_device(device)) as world:
        found = tune(
            data,
            out,
            lambda more: resolve(preset, config, [*(assignments or []), *more]),
            ranges,
            preset=preset,
            trials=trials,
            minutes=minutes,
            world=world,
            note=console.note,
        )
    if as_json:
        console.result_json(
            {**asdict(found), "settings": str(found.settings), "run": str(found.run)}
        )
    else:
        columns = [("trial", True), ("NDCG@10", True), ("", False), ("settings", False)]
        console.result_table(
            columns,
            [
                (
                    str(one.number),
                    "" if one.ndcg is None else f"{one.ndcg:.4f}",
                    one.state,
                    " ".join(f"{name}={_short(value)}" for name, value in one.settings.items()),
                )
                for one in found.trials
            ],
        )
    console.next_command("cammsr train", data, "--config", found.settings)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
