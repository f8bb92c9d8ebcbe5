"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NewShare = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Share of the best 20 places that new items have, over all users. "
        "[default: their share of the catalogue]",
    ),
]

KeepSeen = Annotated[
    bool | None,
    typer.Option(
        "--keep-seen/--exclude-seen",
        help="Whether items that a user already has stay in the ranking. [default: they stay where "
        "users take items again: in 1 % of the training events or more]",
    ),
]

MediaRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder that the items' pictures and clips are relative to, to show them. What was "
        "downloaded is found without it.",
        metavar="FOLDER",
    ),
]
