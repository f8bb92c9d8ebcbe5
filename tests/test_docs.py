"""Every command that the README and the guides show runs, and the pages stay as they should be."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

ELSEWHERE = ("BAAI/", "ml100k")  # a model hub; a data set that may not be shipped

GUIDES = ("your-files", "train", "recommend", "new-items", "scale-out", "your-service")
"""In the order of a reader; the later use what the earlier made."""

README = PROJECT / "README.md"
PAGES = [README, *(PROJECT / "docs" / "guides" / f"{name}.md" for name in GUIDES)]


def commands(page: Path) -> list[str]:
    found = re.findall(r"^    (cammsr .*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [one for one in found if not any(word in one for word in ELSEWHERE)]


def test_readme_shows_the_four_commands() -> None:
    shown = {shlex.split(command)[1] for command in commands(README)}
    assert {"prepare", "train", "evaluate", "recommend"} <= shown


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.slow
def test_commands_of_the_readme_and_the_guides_run_in_their_order(
    make_shop, cammsr: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shop.make_shop(tmp_path / "shop", items=30, users=30, events_per_user=6, seed=2)
    (tmp_path / "trailers.csv").write_text("item,brightness,cuts\nitem-0001,0.5,12\n")
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for command in commands(page):
            _, name, *rest = shlex.split(command)
            if name == "train" and "--resume" in rest:
                continue  # it is finished here; test_killed resumes those that are not
            if name == "train":
                rest += ["--set", "training.epochs=2"]
            answer = cammsr(name, *rest)
            assert answer.code == 0, (page.name, command, answer.err)


def test_make_targets_of_the_readme_are_there() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "docs"):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_links_of_the_readme_lead_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (PROJECT / target).exists(), target


def test_each_guide_and_page_is_in_the_site_s_contents() -> None:
    contents = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (PROJECT / "docs").rglob("*.md"):
        assert str(page.relative_to(PROJECT / "docs")) in contents, page
