"""Every example at the end of a command's help runs."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

COMMANDS = (
    "prepare",
    "train",
    "tune",
    "evaluate",
    "recommend",
    "export",
    "runs",
    "doctor",
    "encoders",
    "info",
    "merge",
)


@pytest.fixture(scope="module")
def workplace(
    make_shop: ModuleType, cammsr: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder in which the examples find the names that they use."""
    folder = tmp_path_factory.mktemp("examples")
    make_shop.make_shop(folder / "shop", items=30, users=60, events_per_user=10, seed=1)
    data = folder / "shop.h5"
    epoch = ("--set", "training.epochs=1")
    prepared = ["prepare", folder / "shop", "--out", data, "--encoder", "text"]
    for arguments in (
        prepared,
        [*prepared, "--shard", "1/2"],
        [*prepared, "--shard", "2/2"],
        ["train", data, "--out", folder / "run", *epoch],
        ["train", data, "--out", folder / "baseline", "--preset", "sasrec", *epoch],
    ):
        answer = cammsr(*arguments)
        assert answer.code == 0, answer.err
    return folder


def examples() -> list[str]:
    found = []
    for name in COMMANDS:
        module = importlib.import_module(f"cammsr_cli.commands.{name}")
        found.extend(module.EXAMPLES)
    return found


@pytest.mark.parametrize("example", examples())
def test_example_runs(
    example: str, workplace: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    tool, *arguments = shlex.split(example)
    assert tool == "cammsr"
    if arguments[0] in ("prepare", "train", "merge"):
        arguments.append("--force")  # the names exist by now
    if arguments[0] in ("train", "tune"):
        arguments += ["--set", "training.epochs=1"]
    if arguments[0] == "tune":
        arguments += ["--trials", "1"]
    before = {path.name for path in workplace.iterdir()}
    answer = cammsr(*arguments)
    assert answer.code == 0, answer.err
    assert answer.out
    if "--dry-run" in arguments:
        assert {path.name for path in workplace.iterdir()} == before


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_the_examples(name: str, cammsr: Callable) -> None:
    module = importlib.import_module(f"cammsr_cli.commands.{name}")
    answer = cammsr(name, "--help")
    assert answer.code == 0
    *_, last = answer.out.strip().partition("Examples:")
    assert [line.strip() for line in last.strip().splitlines()] == module.EXAMPLES


def test_every_command_is_listed_with_help(cammsr: Callable) -> None:
    answer = cammsr("--help")
    for name in COMMANDS:
        assert f"  {name} " in answer.out
