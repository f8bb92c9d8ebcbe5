"""What a new plugin is refused for; that it works is tried in tests/test_plugins.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cammsr_cli.errors import UsageError
from cammsr_cli.plugins.template import write_plugin


def test_names_go_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_plugin("page_layout")
    assert folder == Path("cammsr-page-layout")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "cammsr_page_layout/__init__.py",
        "pyproject.toml",
        "tests/test_page_layout.py",
    }
    written = "".join((folder / name).read_text() for name in sorted(files))
    assert "class PageLayoutEncoder:" in written
    assert 'page_layout = "cammsr_page_layout:PageLayoutEncoder"' in written
    assert "$" not in written
    assert [path.name for path in tmp_path.iterdir()] == ["cammsr-page-layout"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Smell", "cannot be called"),
        ("id", "cannot be called"),
        ("../x", "cannot be called"),
        ("class", "cannot be called 'class': that is a keyword of Python"),
        ("text", "cammsr .* brings an encoder 'text' already"),
        ("cli", "Python package cammsr_cli"),
    ],
)
def test_names_that_cannot_work_are_refused(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        write_plugin(name, tmp_path / "new")
    assert not any(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_left_half_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="nothing is overwritten"):
        write_plugin("smell", mine)
    with pytest.raises(UsageError, match="nothing is overwritten"):
        write_plugin("smell", mine / "notes.txt")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            write_plugin("smell", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    shutil.rmtree(mine)
    mine.mkdir()
    assert write_plugin("smell", mine) == mine  # an empty folder is as good as none
    assert (mine / "pyproject.toml").is_file()
