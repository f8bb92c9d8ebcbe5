"""The HTML pages that `evaluate` and `recommend` write."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cammsr_cli import console
from cammsr_cli.errors import UsageError

if TYPE_CHECKING:
    from cammsr_cli.media.source import MediaSource
    from cammsr_cli.ranking.evaluate import Evaluation, Ranked
    from cammsr_cli.ranking.recommend import Recommender
    from cammsr_cli.ranking.recommendations import RecommendedList
    from cammsr_cli.ranking.sessions import Sessions
    from cammsr_cli.report.gallery import Gallery
    from cammsr_cli.report.thumbnails import Album


def require_few(users: int) -> None:
    """Raise if there are more users than a gallery shows.

    Raises:
        UsageError: There are more users.
    """
    from cammsr_cli.report.gallery import USERS_AT_MOST

    if users > USERS_AT_MOST:
        raise UsageError(
            f"--html shows {USERS_AT_MOST} users at most, and these are {users:,}",
            "Name fewer, or write a table of all: --out recommendations.parquet",
        )


def write_report_page(
    file: Path, found: Ranked, evaluation: Evaluation, media_root: Path | None
) -> None:
    """Write the detailed report of an evaluation; print notes about what is missing in it."""
    from cammsr_cli.report import evaluation as report
    from cammsr_cli.report.gallery import of_sample

    remarks: list[str] = []
    source = media_source(media_root)
    gallery = of_sample(found, remarks, source.find)
    album = pictures_of(gallery, source, remarks)
    report.write(file, found, evaluation, gallery, album, this_command())
    for remark in remarks:
        console.note(remark)


def write_gallery_page(
    file: Path,
    recommender: Recommender,
    sessions: Sessions,
    lists: list[RecommendedList],
    source: MediaSource,
    remarks: list[str],
) -> None:
    """Write the gallery of some users and their explained lists; add what is missing to remarks."""
    from cammsr_cli.report.gallery import of_lists
    from cammsr_cli.report.page import write_gallery

    if recommender.choice.until is not None:
        sessions = sessions.until(recommender.choice.until)
    gallery = of_lists(recommender, sessions, lists)
    album = pictures_of(gallery, source, remarks)
    write_gallery(file, gallery, album, "What we recommend, and why", this_command())


def require_media_root(folder: Path | None) -> None:
    """Raise if a path is given that is not a folder.

    Raises:
        UsageError: The path is not a folder.
    """
    if folder is not None and not folder.is_dir():
        raise UsageError(
            f"--media-root {folder} is not a folder",
            "Name the one that the items file's paths are relative to",
        )


def media_source(media_root: Path | None) -> MediaSource:
    """The source of pictures and clips."""
    from cammsr_cli.cache_folder import cache_folder
    from cammsr_cli.media.source import MediaSource

    return MediaSource(media_root, cache_folder())


def pictures_of(gallery: Gallery, source: MediaSource, remarks: list[str]) -> Album:
    """The pictures of a page; pictures that cannot be shown are added to the remarks."""
    from cammsr_cli.report.thumbnails import Album

    with console.progress_bar("pictures") as progress:
        album = Album.of(gallery.pictures, source, progress)
    if missing := album.missing.most_common():
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in missing)
        remarks.append(f"pictures not shown: {reasons}")
    return album


def this_command() -> str:
    """The command line of this process."""
    return shlex.join(["cammsr", *sys.argv[1:]])
