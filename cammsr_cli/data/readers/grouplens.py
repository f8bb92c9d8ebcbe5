"""MovieLens folders as GroupLens publishes them, in the three layouts of the releases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from cammsr_cli.data.readers.columns import listed
from cammsr_cli.data.readers.file_contents import Reading, decode, read_content, read_text
from cammsr_cli.data.readers.tables import SourceTables, Table, open_table
from cammsr_cli.errors import CammsrError

LAYOUTS = ("ratings.csv + movies.csv", "ratings.dat + movies.dat", "u.data + u.item")

# Genres of ml-100k in the order of its flags, used if `u.genre` is missing.
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
_RATING_COLUMNS = ("user", "item", "rating", "timestamp")
_FIRST_FLAG = 5  # column of `u.item`, after id, title, two dates and a URL


def find_grouplens(folder: Path, reading: Reading | None = None) -> SourceTables | None:
    """Read a MovieLens folder; None if it is another folder.

    The known layouts are `ratings.csv` + `movies.csv` (ml-latest, ml-20m and later), `ratings.dat`
    + `movies.dat` (ml-1m, ml-10m), both with `tags` if there are any, and `u.data` + `u.item`
    (ml-100k).

    Args:
        folder: The folder.
        reading: How to read its files. If it names no encoding, items and tags of ml-100k and
            ml-1m that are not UTF-8 are read as ISO-8859-1.

    Raises:
        CammsrError: A file is broken; the message gives the place.
    """
    readers: tuple[tuple[str, str, Callable[[Path, Reading], SourceTables]], ...] = (
        ("ratings.csv", "movies.csv", _open_csv),
        ("ratings.dat", "movies.dat", _open_dat),
        ("u.data", "u.item", _open_100k),
    )
    for ratings, movies, reader in readers:
        if (folder / ratings).is_file() and (folder / movies).is_file():
            note = "read as a MovieLens release (--format movielens)"
            return replace(reader(folder, reading or Reading()), notes=(note,))
    return None


def _open_csv(folder: Path, reading: Reading) -> SourceTables:
    tags = folder / "tags.csv"
    return SourceTables(
        interactions=open_table(folder / "ratings.csv", reading),
        items=open_table(folder / "movies.csv", reading),
        tags=_named_tags(open_table(tags, reading)) if tags.is_file() else None,
    )


def _named_tags(table: Table) -> Table:
    wanted = {"userId": "user", "movieId": "item", "tag": "tag"}
    missing = [column for column in wanted if column not in table.frame.columns]
    if missing:
        raise CammsrError(
            f"{table.path}: no column {', '.join(missing)} "
            f"(its columns: {listed(table.frame.columns)})",
            "Restore GroupLens's file, or move it out of the folder.",
        )
    return Table(table.path, table.frame.select(list(wanted)).rename(wanted), table.layout)


def _open_dat(folder: Path, reading: Reading) -> SourceTables:
    movies = folder / "movies.dat"
    rows = _split_lines(movies, reading, 3, _split_movie, "MovieID::Title::Genres")
    tags = folder / "tags.dat"
    tag_rows = _tag_rows(tags, reading) if tags.is_file() else None
    return SourceTables(
        interactions=_ratings(folder / "ratings.dat", reading, b"::"),
        items=_table(movies, ("item", "title", "category"), rows),
        tags=None if tag_rows is None else _table(tags, ("user", "item", "tag"), tag_rows),
    )


def _split_movie(line: str) -> Sequence[str]:
    item, _, rest = line.partition("::")
    title, *genres = rest.rsplit("::", 1)
    return (item, title, *genres)


def _tag_rows(path: Path, reading: Reading) -> list[tuple[str, str, str]]:
    def split(line: str) -> Sequence[str]:
        user, item, *rest = line.split("::", 2)
        return (user, item, *"".join(rest).rsplit("::", 1))

    form = "UserID::MovieID::Tag::Timestamp"
    return [(user, item, tag) for user, item, tag, _ in _split_lines(path, reading, 4, split, form)]


def _open_100k(folder: Path, reading: Reading) -> SourceTables:
    movies = folder / "u.item"
    genres = _genres(folder / "u.genre", reading)
    width = _FIRST_FLAG + len(genres)
    form = f"id|title|dates|address and {len(genres)} genre flags"
    rows = [
        (
            fields[0],
            fields[1],
            "|".join(
                genre
                for genre, flag in zip(genres, fields[_FIRST_FLAG:], strict=True)
                if flag == "1" and genre != "unknown"
            ),
        )
        for fields in _split_lines(movies, reading, width, lambda line: line.split("|"), form)
    ]
    return SourceTables(
        interactions=_ratings(folder / "u.data", reading, b"\t"),
        items=_table(movies, ("item", "title", "category"), rows),
    )


def _genres(path: Path, reading: Reading) -> Sequence[str]:
    """Genre names from `u.genre` ("Action|1"); the known list if the file is missing."""
    if not path.is_file():
        return GENRES
    return [line.partition("|")[0] for line in _lines(path, reading) if line.strip()]


def _ratings(path: Path, reading: Reading, separator: bytes) -> Table:
    """Read user, item, rating and timestamp without a header; the delimiter is 1 or 2 bytes."""
    content = read_text(path, reading.encoding_of(path)).encode().replace(separator, b"\t").rstrip()
    if not content:
        raise CammsrError(f"{path} is empty", "Download the file again.")
    try:
        frame = pl.read_csv(
            content,
            separator="\t",
            has_header=False,
            schema=dict.fromkeys(_RATING_COLUMNS, pl.String),
            quote_char=None,
        )
    except pl.exceptions.PolarsError:
        _check_lines(path, content, separator)
        raise
    if any(frame.null_count().row(0)):
        _check_lines(path, content, separator)
    return Table(path, frame, "headerless")


def _check_lines(path: Path, content: bytes, separator: bytes) -> None:
    """Raise an error about the first malformed line; there is none if a field is only empty."""
    form = separator.decode().join(_RATING_COLUMNS)
    for number, line in enumerate(decode(path, content).split("\n"), 1):
        if line.count("\t") != len(_RATING_COLUMNS) - 1:
            raise CammsrError(
                f"{path}, line {number}: not of the form {form!r}", "Download the file again."
            )


def _split_lines(
    path: Path, reading: Reading, width: int, split: Callable[[str], Sequence[str]], form: str
) -> list[Sequence[str]]:
    """Split every line into fields; each line must have `width` fields."""
    rows: list[Sequence[str]] = []
    for number, line in enumerate(_lines(path, reading), 1):
        fields = split(line)
        if len(fields) != width:
            raise CammsrError(
                f"{path}, line {number}: not of the form {form!r}", "Download the file again."
            )
        rows.append(fields)
    return rows


def _lines(path: Path, reading: Reading) -> list[str]:
    """Read the lines of a small file: UTF-8 in ml-10m, ISO-8859-1 in ml-100k and ml-1m."""
    if (encoding := reading.encoding_of(path)) is not None:
        text = read_text(path, encoding)
    else:
        content = read_content(path)
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = decode(path, content, "iso-8859-1")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise CammsrError(f"{path} is empty", "Download the file again.")
    return lines


def _table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    frame = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
    return Table(path, frame, "headerless")
