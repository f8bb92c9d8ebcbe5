"""`cammsr encoders`: which encoders are installed."""

from __future__ import annotations

from typing import Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog

EXAMPLES = ["cammsr encoders", "cammsr encoders --json"]
HELP_EPILOG = epilog(EXAMPLES)


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the installed encoders.

    Broken ones stand there with the reason.

    An encoder is a plugin: any installed package can bring one. How to write one is told in
    encoders/README.md.
    """
    from dataclasses import asdict

    from cammsr_cli.features.registry import find_encoders

    found = find_encoders()
    if as_json:
        console.result_json([asdict(entry) for entry in found.values()])
        return
    console.result_table(
        [
            ("encoder", False),
            ("modality", False),
            ("reads", False),
            ("package", False),
            ("state", False),
        ],
        [
            [
                entry.name,
                entry.modality or "",
                ", ".join(entry.fields),
                f"{entry.distribution} {entry.version}",
                "ready" if entry.broken is None else f"broken: {entry.broken}",
            ]
            for entry in found.values()
        ],
    )
