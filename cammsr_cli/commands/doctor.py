"""`cammsr doctor`: check whether this machine has everything that is needed."""

from __future__ import annotations

from typing import Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.errors import CammsrError

EXAMPLES = ["cammsr doctor", "cammsr doctor --json"]
HELP_EPILOG = epilog(EXAMPLES)


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine: versions, device, threads, encoders, weights, cache, disk.

    Says what to mend. The exit code is 0 if all is well, and 1 otherwise. Nothing is downloaded.
    """
    from dataclasses import asdict

    from cammsr_cli.doctor import examine

    found = []
    for one in examine():
        found.append(one)
        if not as_json:
            console.result(f"{'ok' if one.mend is None else 'MEND':6}{one.what}: {one.says}")
            if one.mend is not None:
                console.result(f"      {one.mend}")
    if as_json:
        console.result_json([{**asdict(one), "ok": one.mend is None} for one in found])
    faults = [one.what for one in found if one.mend is not None]
    if faults:
        raise CammsrError(f"to be mended: {', '.join(faults)}")
