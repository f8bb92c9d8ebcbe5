"""What `--json` prints fulfils the schemas in docs/reference/schemas, and they are the code's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import PROJECT
from jsonschema import Draft202012Validator

from cammsr_cli.json_schemas import as_text, schemas

FOLDER = PROJECT / "docs" / "reference" / "schemas"

HOW = f"write them anew: python -m cammsr_cli.json_schemas {FOLDER.relative_to(PROJECT)}"


def test_the_files_are_those_of_the_code() -> None:
    found = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert found == {name: as_text(schema) for name, schema in schemas().items()}, HOW


def test_each_is_a_schema_that_lists_all_fields() -> None:
    for name, schema in schemas().items():
        Draft202012Validator.check_schema(schema)
        assert '"additionalProperties": false' in as_text(schema), name
        assert '"$ref"' not in as_text(schema) or "$defs" in schema, name


def test_the_page_lists_every_schema() -> None:
    page = (PROJECT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    for name in schemas():
        assert f"](schemas/{name}.json)" in page


@pytest.fixture(scope="module")
def workplace(
    make_shop: ModuleType, cammsr: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small shop with a run."""
    folder = tmp_path_factory.mktemp("schemas")
    make_shop.make_shop(folder / "shop", items=30, users=40, events_per_user=6, seed=1)
    answer = cammsr("prepare", folder / "shop", "--out", folder / "shop.h5", "--encoder", "text")
    assert answer.code == 0, answer.err
    answer = cammsr(
        "train", folder / "shop.h5", "--out", folder / "run", "--set", "training.epochs=1"
    )
    assert answer.code == 0, answer.err
    return folder


OUTPUTS: list[tuple[str, list[str]]] = [
    ("prepare", ["prepare", "shop", "--out", "a.h5", "--encoder", "text"]),
    ("prepare", ["prepare", "shop", "--out", "a.h5", "--force", "--dry-run"]),
    ("merge", ["merge", "p.1-of-2.h5", "p.2-of-2.h5", "--out", "merged.h5"]),
    ("info", ["info", "shop.h5", "--verify"]),
    ("train", ["train", "shop.h5", "--out", "b", "--set", "training.epochs=1"]),
    ("train-list-settings", ["train", "--list-settings"]),
    ("tune", ["tune", "shop.h5", "--out", "c", "--trials", "1", "--set", "training.epochs=1"]),
    ("evaluate", ["evaluate", "run", "--details", "--against", "run"]),
    ("evaluate", ["evaluate", "run"]),
    ("recommend", ["recommend", "run", "--user", "user-0001", "--explain"]),
    ("recommend", ["recommend", "run", "--history", "item-0001", "-k", "2"]),
    ("recommend-to-a-file", ["recommend", "run", "--all-users", "--out", "all.csv"]),
    (
        "recommend-to-a-file",
        ["recommend", "run", "--all-users", "--out", "all.jsonl", "--index", "faiss"],
    ),
    ("export", ["export", "run", "--out", "exported"]),
    ("runs", ["runs", "."]),
    ("encoders-list", ["encoders", "list"]),
    ("encoders-info", ["encoders", "info", "text"]),
    ("encoders-check", ["encoders", "check", "text"]),
    ("doctor", ["doctor"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "command"), OUTPUTS)
def test_an_output_fulfils_its_schema_and_nothing_else_is_printed(
    workplace: Path,
    cammsr: Callable,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    command: list[str],
) -> None:
    monkeypatch.chdir(workplace)
    if name == "merge":
        for part in ("1/2", "2/2"):
            cammsr("prepare", "shop", "--out", "p.h5", "--encoder", "text", "--shard", part)
    answer = cammsr(*command, "--json")
    assert answer.code == 0, answer.err
    printed: Any = json.loads(answer.out)  # all of stdout is one document
    faults = [fault.message for fault in Draft202012Validator(schemas()[name]).iter_errors(printed)]
    assert not faults


def test_every_schema_has_an_output_that_is_tried() -> None:
    assert {name for name, _ in OUTPUTS} == set(schemas())
