from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from cammsr_cli.media.paths import resolve_media


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside.jpg").write_text("secret")
    root = tmp_path / "media"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "é ü 映画.jpg").write_text("x")
    (root / "a.jpg").write_text("x")
    (root / "in.jpg").symlink_to("a.jpg")
    (root / "out.jpg").symlink_to(tmp_path / "outside.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(root / "pipe.jpg")
    return root


@pytest.mark.parametrize("written", ["a.jpg", " a.jpg ", "./a.jpg", "sub/é ü 映画.jpg", "in.jpg"])
def test_files_within_are_found(root: Path, written: str) -> None:
    path = resolve_media(written, root)
    assert isinstance(path, Path)
    assert path.is_absolute()
    assert path.read_text() == "x"


def test_a_name_is_found_however_its_accents_are_spelled(root: Path) -> None:
    (root / unicodedata.normalize("NFD", "café.jpg")).write_text("x")
    assert isinstance(resolve_media(unicodedata.normalize("NFC", "café.jpg"), root), Path)


@pytest.mark.parametrize(
    "written", ["SUB\\É ü 映画.JPG", "Sub/é Ü 映画.jpg", "sub\\é ü 映画.jpg", "A.JPG"]
)
def test_a_name_is_found_in_another_case_and_with_backslashes(root: Path, written: str) -> None:
    path = resolve_media(written, root)
    assert isinstance(path, Path)
    assert path.read_text() == "x"


def test_a_name_that_fits_two_files_but_for_its_case_is_told(root: Path) -> None:
    (root / "B.jpg").write_text("x")
    assert isinstance(resolve_media("b.JPG", root), Path)
    (root / "b.jpg").write_text("y")
    told = resolve_media("b.JPG", root)
    assert told == "no such file, and 2 that differ from it in case alone"
    found = resolve_media("b.jpg", root)
    assert isinstance(found, Path)
    assert found.read_text() == "y"
    assert "leads out" in str(resolve_media("OUT.JPG", root))


def test_a_name_with_unusual_spaces_and_joined_emoji_is_found(root: Path) -> None:
    name = "Screenshot 9.41\u202fAM 👩\u200d🚀.png"
    (root / name).write_text("x")
    assert isinstance(resolve_media(name, root), Path)


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("/etc/passwd", "absolute"),
        ("C:\\x.jpg", "absolute"),
        ("\\\\host\\x.jpg", "absolute"),
        ("../outside.jpg", "'..'"),
        ("sub/../../outside.jpg", "'..'"),
        ("sub\\..\\x.jpg", "'..'"),
        ("out.jpg", "leads out"),
        ("loop.jpg", ""),
        ("pipe.jpg", "not a regular file"),
        ("sub", "not a regular file"),
        ("a.jpg/b.jpg", ""),
        ("none.jpg", "no such file"),
        ("x" * 5000, ""),
        ("a\0b.jpg", "not a file name"),
        ("a\ud800b.jpg", "not a file name"),
        ("", "not a file name"),
        ("https://host/x.jpg", "not downloaded"),
        ("ftp://host/x.jpg", "only http and https"),
        ("data:image/png;base64,xx", "only http and https"),
    ],
)
def test_all_else_is_refused_with_a_reason(root: Path, written: str, reason: str) -> None:
    told = resolve_media(written, root)
    assert isinstance(told, str)
    assert reason in told
    assert "\n" not in told


def test_without_a_media_folder() -> None:
    assert resolve_media("a.jpg", None) == "no media folder is given"


def test_urls_are_looked_up_and_never_taken_for_files(root: Path) -> None:
    known: dict[str, Path | str | None] = {
        "http://a/x.jpg": root / "a.jpg", "HTTPS://a/y.jpg": "gone", "http://a/z.jpg": None,
    }  # fmt: skip
    for url, found in known.items():
        assert resolve_media(f" {url} ", root, known.__getitem__) == found
        assert resolve_media(url, None, known.__getitem__) == found
