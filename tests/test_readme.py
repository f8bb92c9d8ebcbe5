"""Every command the README shows runs, but for those that need a network or data not ours."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

ELSEWHERE = ("BAAI/", "ml100k")  # a model hub; a data set that may not be shipped


def commands() -> list[str]:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^    (cammsr .*)$", text, flags=re.MULTILINE)
    return [one for one in found if not any(word in one for word in ELSEWHERE)]


def test_readme_shows_the_four_commands() -> None:
    shown = {shlex.split(command)[1] for command in commands()}
    assert {"prepare", "train", "evaluate", "recommend"} <= shown


def test_commands_of_the_readme_run_in_their_order(
    make_shop, cammsr: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shop.make_shop(tmp_path / "shop", items=30, users=30, events_per_user=6, seed=2)
    (tmp_path / "trailers.csv").write_text("item,brightness,cuts\nitem-0001,0.5,12\n")
    monkeypatch.chdir(tmp_path)
    for command in commands():
        _, name, *rest = shlex.split(command)
        if name == "train":
            rest += ["--set", "training.epochs=2"]
        answer = cammsr(name, *rest)
        assert answer.code == 0, (command, answer.err)


def test_make_targets_of_the_readme_are_there() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
