"""File names: formats of tables, parts of a table, and files that systems leave behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from cammsr_cli.data.readers.file_contents import COMPRESSIONS

Format = Literal["csv", "tsv", "jsonl", "parquet"]

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "tsv",  # any delimiter: it is detected in the first lines
    ".dat": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",  # the extension of Amazon's reviews of 2014 and 2018
    ".parquet": "parquet",
    ".inter": "tsv",  # RecBole's atomic files
    ".item": "tsv",
}
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
_PARTITION = re.compile(r"([^=]+)=(.*)")  # a folder of Hive: the column and its value
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def table_format(path: Path) -> Format | None:
    """The format of a table by its file name, or None: `reviews.jsonl.gz` is "jsonl".

    The format of a folder is the format of its parts.
    """
    if path.is_dir():
        parts = part_files(path)
        return _named_format(parts[0].name) if parts else None
    return _named_format(path.name)


def _named_format(name: str) -> Format | None:
    name = name.lower()
    for compression in COMPRESSIONS:
        name = name.removesuffix(compression)
    return FORMATS.get(Path(name).suffix)


def visible(folder: Path) -> list[Path]:
    """The entries of a folder, sorted by name, without files of systems and programs.

    Ignored are names that begin with "." or "_" (`._x.csv`, `.DS_Store`, `_SUCCESS`, `__MACOSX`),
    `Thumbs.db` and `desktop.ini`.
    """
    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.name[0] not in "._" and path.name.lower() not in _SYSTEM_FILES
        ),
        key=lambda path: path.name,
    )


def part_files(folder: Path) -> list[Path]:
    """The files of a folder of parts, as Spark and Hive write it; [] if it is another folder.

    All files must have the same format. The names of parts begin with `part`, or differ only in
    digits, or the name of the folder is that of a table (`ratings.parquet`). The names of
    subfolders are `column=value`.
    """
    files: list[Path] = []
    for path in _leaves(folder):
        # Check names first: it is fast for a folder of a million pictures, which are no parts.
        kind = _named_format(path.name)
        if kind is None or path.is_dir() or (files and kind != _named_format(files[0].name)):
            return []
        files.append(path)
    named = _named_format(folder.name) or any(path.parent != folder for path in files)
    alike = len(files) > 1 and len({re.sub(r"\d+", "", path.name) for path in files}) == 1
    parts = all(path.name.lower().startswith("part") for path in files)
    return files if named or alike or parts else []


def _leaves(folder: Path) -> Iterator[Path]:
    """Yield the entries of a folder and of its partitions, without the partition folders."""
    for path in visible(folder):
        if _PARTITION.fullmatch(path.name) and path.is_dir():
            yield from _leaves(path)
        else:
            yield path


def partition(folder: Path, file: Path) -> dict[str, str | None]:
    """The columns and values that are encoded in the names of a part's folders."""
    names = file.relative_to(folder).parent.parts
    matches = (match for name in names if (match := _PARTITION.fullmatch(name)))
    return {one[1]: None if one[2] == _NO_VALUE else unquote(one[2]) for one in matches}
