"""What each room of the package may import: the table in CONTRIBUTING.md, held to."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cammsr_cli"

SHARED = {"errors", "files", "locks", "devices", "distributed", "config", "console"}

MAY_IMPORT = {
    "model": set[str](),
    "data.readers": {"errors"},
    "data": {"data.readers"},
    "media": {"errors", "files"},
    "encoding": {"media", "data.readers"},
    "plugins": {"encoding"},
    "prepare": {"plugins", "encoding", "media", "data", "data.readers"},
    "runs": {"model", "data"},
    "ranking": {"runs", "model", "data", "data.readers", "plugins", "encoding"},
    "report": {"ranking", "runs", "data", "media", "encoding"},
    "training": {"ranking", "runs", "model", "data"},
    "export": {"ranking", "runs", "model", "data"},
}

NOT_NAMES = set(
    [
        "told",
        "tell",
        "tells",
        "asked",
        "asks",
        "asking",
        "rival",
        "rivals",
        "goes",
        "dealt",
        "deal",
        "had",
        "became",
        "apart",
        "within",
        "lacking",
        "begun",
    ]
)
"""Words of a private dialect that names had before; the field has terms (CONTRIBUTING.md)."""

STANDS_ALONE = {"model", "data.readers", "media"}
"""Rooms that may not even import all of what everybody shares."""


def room(module: str) -> str:
    """`data.readers.tables` is in the room `data.readers`, `errors` a room of its own."""
    parts = module.split(".")
    return "data.readers" if parts[:2] == ["data", "readers"] else parts[0]


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            first, _, rest = node.module.partition(".")
            if first == "cammsr_cli":
                names = [rest] if rest else [alias.name for alias in node.names]
                found |= {name for name in names if not name.startswith("__")}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.partition(".")[2]
                for alias in node.names
                if alias.name.startswith("cammsr_cli.")
            }
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return found


def files_of(name: str) -> list[Path]:
    """The files of a room; `data` is without its readers."""
    folder = PACKAGE / name.replace(".", "/")
    return [
        path
        for path in folder.rglob("*.py")
        if room(".".join(path.relative_to(PACKAGE).with_suffix("").parts)) == name
    ]


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(name: str) -> None:
    allowed = MAY_IMPORT[name] | {name} | (set() if name in STANDS_ALONE else SHARED)
    files = files_of(name)
    assert files
    for path in files:
        above = {module for module in imported(path) if room(module) not in allowed}
        assert not above, f"{path.relative_to(PACKAGE)} imports {', '.join(sorted(above))}"


def test_every_folder_is_a_room_with_rules() -> None:
    folders = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert folders - {"commands"} == {name for name in MAY_IMPORT if "." not in name}


def test_nobody_imports_the_commands_but_the_app() -> None:
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in ("commands", "app.py"):
            assert not any(room(module) == "commands" for module in imported(path)), place


def test_contributing_tells_the_same() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `cammsr_cli/([a-z/]+)/` \|[^|]*\| ([^|]*) \|$", text, re.M))
    told = {
        name.replace("/", "."): set(re.findall(r"`([a-z.]+)`", may)) for name, may in rows.items()
    }
    told.pop("commands")
    assert told == {name: rooms - SHARED for name, rooms in MAY_IMPORT.items()}


def test_names_are_the_field_s_words() -> None:
    """A name is what a function, a class, an argument or a variable is called."""
    found = []
    for folder in (PACKAGE, PACKAGE.parent / "encoders" / "cammsr_encoders"):
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                name = getattr(node, "name", None) or getattr(node, "arg", None)
                if isinstance(node, ast.Name):
                    name = node.id
                words = set(re.split("_+", name.lower())) if isinstance(name, str) else set()
                # A stream's `tell` is Python's word.
                if words & NOT_NAMES and (path.name, name) != ("checksums.py", "tell"):
                    found.append(f"{path.name}: {name}")
    assert not found
