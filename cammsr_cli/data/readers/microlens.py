"""Folders as MicroLens publishes them: pairs, titles, and pictures and clips named by item id."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from cammsr_cli.data.readers.columns import CANDIDATES, item_column, normalised
from cammsr_cli.data.readers.file_contents import Reading, read_text
from cammsr_cli.data.readers.file_names import table_format, visible
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.tables import (
    INTERACTION_NAMES,
    ITEM_NAMES,
    SourceTables,
    Table,
    blank_note,
    counted,
    named_table,
    open_table,
)
from cammsr_cli.errors import UsageError

FOLDERS = {"image": ("covers", "images", "posters"), "video": ("videos", "clips", "trailers")}
EXTENSIONS = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"),
    "video": (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v"),
}


def find_microlens(
    folder: Path, columns: Mapping[Path, list[str]], reading: Reading
) -> SourceTables | None:
    """Read a folder with pairs, titles, and media files that are named by their item's id.

    The pairs are a table of users, items and timestamps. The titles are a table of items and
    titles, with or without a header. The media are in folders whose names end in `covers`
    (`images`, `posters`) and `videos` (`clips`, `trailers`).

    Returns:
        The tables, or None if there are no such pairs or no such media, or if the table of titles
        has a column of media.

    Raises:
        UsageError: Several tables hold titles.
        CammsrError: A file is broken.
    """
    media = {field: _media_folder(folder, endings) for field, endings in FOLDERS.items()}
    pairs = _pairs(folder, columns)
    if not any(media.values()) or pairs is None:
        return None
    titles = _titles_file(folder, columns)
    interactions = open_table(pairs, reading)
    paired = clean_ids(interactions, item_column(interactions.frame.columns, "interactions"))
    known = {*paired.drop_nulls().to_list()}
    listed = _titles(titles, columns[titles], reading, known) if titles else None
    if listed is not None and _names_media(listed.frame.columns):
        return None
    items, media_notes = _with_media(folder, interactions, listed, media)
    return SourceTables(
        interactions, items, notes=("read as a MicroLens folder (--format microlens)", *media_notes)
    )


def _media_folder(folder: Path, endings: Sequence[str]) -> Path | None:
    """The subfolder whose name has one of the endings; the order of the endings decides."""
    inside = [path for path in visible(folder) if path.is_dir()]
    for ending in endings:
        for path in inside:
            if path.name.lower().endswith(ending):
                return path
    return None


def _pairs(folder: Path, columns: Mapping[Path, list[str]]) -> Path | None:
    """The only table of users and items, or the one named as interactions or pairs."""
    tables = {path: names for path, names in columns.items() if _has(names, "user", "item")}
    if len(tables) > 1:
        named = [path for path in tables if "pairs" in path.name.lower()]
        return named_table(folder, tables, INTERACTION_NAMES) or (named[0] if named else None)
    return next(iter(tables), None)


def _titles_file(folder: Path, columns: Mapping[Path, list[str]]) -> Path | None:
    titles = [path for path, names in columns.items() if _is_titles(path, names)]
    if len(titles) > 1:
        known = named_table(folder, dict.fromkeys(titles), ITEM_NAMES)
        if known is None:
            raise UsageError(
                f"{folder} holds several files of titles: {', '.join(p.name for p in titles)}",
                "Move all but one of them out of the folder.",
            )
        return known
    return titles[0] if titles else None


def _names_media(columns: Sequence[str]) -> bool:
    names = {normalised(column) for column in columns}
    return any(names & set(CANDIDATES["items"][field]) for field in FOLDERS)


def _has(columns: Sequence[str], *fields: str) -> bool:
    names = {normalised(column) for column in columns}
    return all(names & set(CANDIDATES["interactions"][field]) for field in fields)


def _is_titles(path: Path, columns: Sequence[str]) -> bool:
    if _has(columns, "user"):
        return False
    if table_format(path) in ("csv", "tsv") and "title" in path.name.lower():
        return True
    names = {normalised(column) for column in columns}
    content = {name for field in CANDIDATES["items"] for name in CANDIDATES["items"][field]}
    content -= set(CANDIDATES["items"]["item"])
    known = path.name.lower().partition(".")[0] in ITEM_NAMES or not content.isdisjoint(names)
    return known and not names.isdisjoint(CANDIDATES["items"]["item"])


def _titles(path: Path, columns: Sequence[str], reading: Reading, known: Collection[str]) -> Table:
    """Read columns `item` and `title`; lines without a header are split at the first delimiter.

    A quoted title may extend over several lines, unless one of them begins with the id of an item
    in `known`. In that case the two quotes do not belong together.
    """
    names = {normalised(column) for column in columns}
    if names & set(CANDIDATES["items"]["item"]):
        return open_table(path, reading)
    separator = "," if table_format(path) == "csv" else "\t"
    text = read_text(path, reading.encoding_of(path)).replace("\r\n", "\n")
    lines = text.removesuffix("\n").split("\n")
    rows: list[tuple[str, str]] = []
    blank, at = 0, 0
    while at < len(lines):
        item, _, title = lines[at].partition(separator)
        end = _end_of_quotes(lines, at, title, separator, known)
        title = "\n".join([title, *lines[at + 1 : end]])
        if item.strip() or title.strip():
            rows.append((item.strip().strip('"'), _unquoted(title)))
        else:
            blank += 1
        at = end
    frame = pl.DataFrame(rows, schema={"item": pl.String, "title": pl.String}, orient="row")
    return Table(path, frame, "rows", notes=blank_note(path, blank))


def _end_of_quotes(
    lines: Sequence[str], at: int, title: str, separator: str, known: Collection[str]
) -> int:
    """The number of the line after the last line of a title that begins on line `at`."""
    if not title.startswith('"') or _closes(title[1:]):
        return at + 1
    for end in range(at + 1, len(lines)):
        if lines[end].partition(separator)[0].strip().strip('"') in known:
            break
        if _closes(lines[end]):
            return end + 1
    return at + 1


def _closes(text: str) -> bool:
    """Whether text within quotes ends with the closing quote, not with a doubled quote."""
    text = text.rstrip()
    return (len(text) - len(text.rstrip('"'))) % 2 == 1


def _unquoted(title: str) -> str:
    """Remove the quoting of a field, if it is quoted."""
    title = title.strip()
    if len(title) > 1 and title[0] == title[-1] == '"':
        return next(csv.reader(io.StringIO(title, newline="")), [""])[0]
    return title


def _with_media(
    folder: Path,
    interactions: Table,
    listed: Table | None,
    media: Mapping[str, Path | None],
) -> tuple[Table, list[str]]:
    """Add media to the titles, and items of the pairs that have a picture or clip but no title."""
    frame = listed.frame if listed is not None else pl.DataFrame({"item": []}, {"item": pl.String})
    column = item_column(frame.columns, "items")
    pair_column = item_column(interactions.frame.columns, "interactions")
    titled = Table(interactions.path, frame, "rows") if listed is None else listed
    ids = clean_ids(titled, column).to_list()
    found = {field: _by_id(place, EXTENSIONS[field]) for field, place in media.items() if place}
    named = {item for files in found.values() for item in files}
    paired = clean_ids(interactions, pair_column).unique(maintain_order=True)
    known_ids = set(ids)
    extra = [item for item in paired if item in named and item not in known_ids]
    frame = frame.with_columns(pl.Series(column, ids, dtype=pl.String))
    frame = pl.concat([frame, pl.DataFrame({column: extra}, {column: pl.String})], how="diagonal")
    notes = []
    items = [*ids, *extra]
    for field, files in found.items():
        paths = [
            files[item].relative_to(folder).as_posix() if item in files else None for item in items
        ]
        frame = frame.with_columns(pl.Series(field, paths, dtype=pl.String))
        without = len(set(files) - set(items))
        if without:
            notes.append(f"{counted(without, f'file of {field}s')} of no known item")
    return replace(titled, frame=frame), notes


def _by_id(folder: Path, extensions: Sequence[str]) -> dict[str, Path]:
    """Map item ids to files; of several files, the one whose extension comes first is used."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        suffix = path.suffix.lower()
        if suffix in extensions and not path.name.startswith("."):
            other = found.get(path.stem)
            if other is None or extensions.index(suffix) < extensions.index(other.suffix.lower()):
                found[path.stem] = path
    return found
