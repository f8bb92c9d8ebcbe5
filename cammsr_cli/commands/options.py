"""Options that several commands take alike."""

from __future__ import annotations

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
