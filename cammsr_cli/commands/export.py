"""`cammsr export`: export a run to files that a service can read without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.commands.options import KeepSeen, NewShare

EXAMPLES = ["cammsr export run --out exported"]
HELP_EPILOG = epilog(EXAMPLES)


def command(
    run: Annotated[Path, typer.Argument(help="Run folder made by 'cammsr train'.")],
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")],
    data: Annotated[
        Path | None,
        typer.Option(help="Data set, if not the one the run was trained on: a newer one, say."),
    ] = None,
    keep_seen: KeepSeen = None,
    new_share: NewShare = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the export in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a run as files for your own service: vectors, and an encoder of histories.

    The inner product of a user's and an item's vector is the score, so that any vector index gives
    the recommendations. items.npy and users.npy have the vectors, the .parquet files of these names
    have them with ids, user_encoder.pt2 turns a history into a user vector with torch alone, and
    export.json says what there is.
    """
    from dataclasses import asdict

    from cammsr_cli.export.run import export

    with console.progress_bar("users") as progress:
        done = export(
            run,
            out,
            data=data,
            exclude_seen=None if keep_seen is None else not keep_seen,
            new_share=new_share,
            force=force,
            progress=progress,
        )
    for remark in done.remarks:
        console.note(remark)
    if as_json:
        console.result_json(asdict(done))
        return
    about = done.about
    console.result(
        f"{done.out}: {about.items:,} items, {about.users:,} users, vectors of {about.width} "
        f"values, {done.bytes / 1e6:,.1f} MB; seen items are {about.seen_items}"
    )
    console.result(f"user_encoder.pt2  sha256 {done.encoder_sha256}")
    if about.users_left_out:
        console.note(
            f"{about.users_left_out:,} users have no event that the model knows, and no vector: "
            "give them the items of largest popularity"
        )
    if about.items_left_out:
        console.note(
            f"{about.items_left_out:,} items have neither training events nor content, and no "
            "vector"
        )
