"""Options that several commands take alike."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cammsr_cli import console
from cammsr_cli.errors import UsageError

if TYPE_CHECKING:
    from cammsr_cli.media.source import MediaSource
    from cammsr_cli.report.gallery import Gallery
    from cammsr_cli.report.thumbnails import Album

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


def require_media_root(folder: Path | None) -> None:
    """Refuse what is not a folder.

    Raises:
        UsageError: It is not.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(
            f"--media-root {folder} is not a folder",
            "Name the one that the items file's paths are relative to",
        )


def media_source(media_root: Path | None) -> MediaSource:
    """Where pictures and clips are looked for."""
    from cammsr_cli.cache_folder import cache_folder
    from cammsr_cli.media.source import MediaSource

    return MediaSource(media_root, cache_folder())


def pictures_of(gallery: Gallery, source: MediaSource, remarks: list[str]) -> Album:
    """The pictures of a page; those that cannot be shown are told among the remarks."""
    from cammsr_cli.report.thumbnails import Album

    with console.progress_bar("pictures") as progress:
        album = Album.of(gallery.pictures, source, progress)
    if missing := album.missing.total():
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in album.missing.most_common())
        remarks.append(f"{missing:,} pictures are not shown ({reasons})")
    return album


def this_command() -> str:
    """What was typed."""
    return shlex.join(["cammsr", *sys.argv[1:]])
