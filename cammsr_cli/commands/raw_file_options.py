"""Options of `cammsr prepare` about raw files and devices, converted from text to values."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from cammsr_cli.errors import UsageError

if TYPE_CHECKING:
    from cammsr_cli.data.categories import Level
    from cammsr_cli.data.event_conditions import Condition
    from cammsr_cli.data.readers.file_contents import Reading


class OrderName(StrEnum):
    """The order of a user's events."""

    TIME = "time"
    FILE = "file"


class DuplicatesName(StrEnum):
    """Which events are duplicates, and which of them is kept."""

    EXACT = "exact"
    FIRST = "first"
    LAST = "last"
    KEEP = "keep"


class CatalogueName(StrEnum):
    """Which items of the items file are kept."""

    ALL = "all"
    RATED = "rated"


class FormatChoice(StrEnum):
    """The format of raw files."""

    AMAZON_2014 = "amazon-2014"
    AMAZON_2018 = "amazon-2018"
    AMAZON_2023 = "amazon-2023"
    MOVIELENS = "movielens"
    RECBOLE = "recbole"
    MICROLENS = "microlens"
    MIND = "mind"
    PLAIN = "plain"


class DtypeName(StrEnum):
    """The dtype of stored vectors."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


class EngineName(StrEnum):
    """The engine that runs the encoders."""

    LOCAL = "local"
    RAY = "ray"


class PrecisionName(StrEnum):
    """The precision of encoders."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def negatives(texts: Sequence[str] | None) -> tuple[Condition, ...] | None:
    """Parse `--negative`; None if it is not given, so that negative kinds are detected by name."""
    from cammsr_cli.data.event_conditions import Condition

    if texts is None:
        return None
    return tuple(Condition.parse(text, "--negative") for text in texts if text)


def pairs(option: str, texts: Sequence[str], form: str) -> dict[str, str]:
    """Parse texts of the form `NAME=VALUE`.

    Raises:
        UsageError: A text has another form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise UsageError(f"{option} {text}: write {form}")
        if name in found:
            raise UsageError(f"{option} {name} is given twice")
        found[name] = value
    return found


def reading_of(
    source: Path,
    encodings: Sequence[str],
    columns: Sequence[str],
    missing: Sequence[str] | None,
    tables: Sequence[str],
    query: str | None,
) -> Reading:
    """Combine the options about single files and about all files."""
    from cammsr_cli.data.readers.databases import DATABASES
    from cammsr_cli.data.readers.file_contents import MISSING, Reading, checked_encoding

    of_all = [text for text in encodings if "=" not in text]
    if len(of_all) > 1:
        raise UsageError(f"--encoding is given twice: {', '.join(of_all)}", "Write FILE=NAME.")
    of_files = pairs("--encoding", [text for text in encodings if "=" in text], "FILE=NAME")
    holders = [text if "=" in text else f"{source.name}={text}" for text in tables]
    if query is not None and source.suffix.lower() not in DATABASES:
        raise UsageError(
            f"--query: {source} is no database", f"SOURCE is one of {', '.join(DATABASES)}."
        )
    if tables and query is not None and source.name in pairs("--table", holders, "[FILE=]NAME"):
        raise UsageError("--table and --query: give one of them")
    named = [text if "=" in text else f"{source.name}={text}" for text in columns]
    return Reading(
        encoding=checked_encoding(of_all[0]) if of_all else None,
        encodings={file: checked_encoding(name) for file, name in of_files.items()},
        columns={
            file: _column_names(names)
            for file, names in pairs("--columns", named, "FILE=NAME,NAME,…").items()
        },
        tables=pairs("--table", holders, "[FILE=]NAME"),
        queries={} if query is None else {source.name: query},
        missing=MISSING if missing is None else frozenset(missing) - {""},
    )


def _column_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if len(set(names)) < len(names) or "" in names:
        raise UsageError(f"--columns {text}: give each column a name of its own")
    return names


def level_of(text: str | None) -> Level | None:
    """Parse `--category-level`.

    Raises:
        UsageError: The text is not a level.
    """
    if text is None:
        return None
    if text == "all":
        return "all"
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(f"--category-level {text}: write a level from 1, or all")
    return int(text)


def beside(source: Path, items: Path | None) -> Path:
    """The default folder of media: the folder of the file that names them."""
    from cammsr_cli.data.readers.containers import holder_of

    named_in = items or source
    named_in = holder_of(named_in) or named_in
    return named_in if named_in.is_dir() else named_in.parent


def spare_cores() -> int:
    """The default number of worker processes: one per core, without the core that feeds the model.

    At least one and at most eight.
    """
    from cammsr_cli.encoding.engine import processors

    return max(1, min(8, processors() - 1))


def devices_of(names: str, engine: EngineName) -> str:
    """The available devices, separated by commas; for Ray, the kind of device of all nodes."""
    from cammsr_cli.devices import resolve_device

    if engine is EngineName.RAY:
        if names not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--engine ray --device {names}: write cpu or cuda, one for all nodes")
        return "cuda" if names == "cuda" else "cpu"
    return ",".join(str(resolve_device(name)) for name in names.split(","))
