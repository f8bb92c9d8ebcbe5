"""`cammsr info`: show the content and the origin of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog

EXAMPLES = ["cammsr info shop.h5", "cammsr info shop.h5 --verify", "cammsr info shop.h5 --json"]
HELP_EPILOG = epilog(EXAMPLES)


def command(
    data: Annotated[Path, typer.Argument(help="Data set.", metavar="DATA.h5")],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every byte first, and compare it with its checksum."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a data set holds.

    Counts; how the raw files were read; each modality with its encoder, its weights' revision, the
    item fields it read, how many items have it, how many lack it, and how many of these had a text
    or a file that could not be decoded; the fingerprint of all that decided the vectors; and the
    raw files with their SHA-256. Files that were missing or refused are listed by
    `cammsr prepare`.
    """
    from dataclasses import asdict

    from cammsr_cli.data.summary import summarise

    summary = summarise(data, verify)
    for remark in summary.remarks:
        console.note(remark)
    if as_json:
        console.result_json(asdict(summary))
        return
    console.result_table(
        [("what", False), ("count", True)],
        [[name, f"{count:,}"] for name, count in summary.counts.items()],
        title=str(data),
    )
    console.result_table(
        [
            ("modality", False),
            ("items", True),
            ("missing", True),
            ("undecodable", True),
            ("size", True),
            ("type", False),
            ("encoder", False),
            ("weights", False),
            ("fields", False),
        ],
        [
            [
                name,
                f"{one.present:,}",
                f"{one.missing:,}",
                "" if one.undecodable is None else f"{one.undecodable:,}",
                str(one.dim),
                one.dtype,
                one.encoder,
                one.weights or "",
                ", ".join(one.fields),
            ]
            for name, one in summary.modalities.items()
        ],
    )
    console.result_decisions(summary.decisions)
    for name, one in summary.modalities.items():
        console.result(f"fingerprint of {name}  {one.fingerprint}")
    for name, digest in summary.sources.items():
        console.result(f"source {name}  sha256 {digest}")
    console.result(f"content {summary.content}  ({summary.tool})")
    if verify:
        console.result("verified: every byte is as it was written")
