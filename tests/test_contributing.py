"""The worked examples of CONTRIBUTING.md, followed to the letter on a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

PROJECT = Path(__file__).resolve().parent.parent

_CHANGE = re.compile(
    r"In\s`(?P<path>cammsr_cli/[\w/]+\.py)`,\s(?:at the end|before\s`(?P<anchor>[^`]+)`):\n\n"
    r"```(?:python|text)\n(?P<code>.*?)```\n",
    re.DOTALL,
)


def _example(title: str) -> str:
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.partition(f"## Example: {title}\n")[2].partition("\n## ")[0]


def _follow(title: str, folder: Path) -> None:
    """Make the changes of an example to a copy of the package in `folder`."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "cammsr_cli", folder / "cammsr_cli", ignore=ignored)
    changes = list(_CHANGE.finditer(_example(title)))
    assert changes
    for change in changes:
        path = folder / change["path"]
        text, code = path.read_text(encoding="utf-8"), change["code"]
        if change["anchor"] is None:
            path.write_text(text + code, encoding="utf-8")
        else:
            assert text.count(change["anchor"]) == 1, change["anchor"]
            path.write_text(text.replace(change["anchor"], code + change["anchor"]), "utf-8")


def _cammsr(folder: Path, *arguments: object) -> str:
    """Run the changed copy."""
    path = os.pathsep.join([str(folder), str(PROJECT / "encoders")])
    done = subprocess.run(
        [sys.executable, "-m", "cammsr_cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy"


def test_a_loss_is_added_as_the_example_tells(copy: Path, toy_data: Path, tmp_path: Path) -> None:
    _follow("add a loss", copy)
    run = tmp_path / "run"
    settings = ["training.epochs=1", "training.length_weight=0.1", "model.width=8"]
    _cammsr(copy, "train", toy_data, "--out", run, *(x for one in settings for x in ("--set", one)))
    epoch = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert epoch["losses"]["length"] > 0


def test_a_file_format_is_added_as_the_example_tells(copy: Path, tmp_path: Path) -> None:
    _follow("add a file format", copy)
    events = {"user": list("aabb"), "item": list("xyyx"), "timestamp": [1, 2, 3, 4]}
    pl.DataFrame(events).write_ipc(tmp_path / "events.arrow")
    out = tmp_path / "shop.h5"
    told = json.loads(_cammsr(copy, "prepare", tmp_path / "events.arrow", "--out", out, "--json"))
    assert (told["users"], told["items"], told["events"]) == (2, 2, 4)
    (tmp_path / "broken.arrow").write_bytes(b"no arrow")
    with pytest.raises(AssertionError, match=r"broken\.arrow is not a file of Arrow"):
        _cammsr(copy, "prepare", tmp_path / "broken.arrow", "--out", tmp_path / "b.h5")
