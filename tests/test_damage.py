"""Damage at random: whatever byte changes, a command says so, or what it says is the same.

Each trial damages one file of a run or its data set and runs a command on it, in this process.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
from altered import without_checksums
from conftest import Answer
from toy_recommender import make_recommender

from cammsr_cli.files import CHECKSUMS

DAMAGES_A_FILE = 20

FILES = ("toy.h5", "run/model.safetensors", "run/config.json", "run/config.yaml",
         "run/item_ids.json", f"run/{CHECKSUMS}")  # fmt: skip

COMMANDS = {
    "recommend": ["recommend", "run", "--user", "u3", "--k", "5", "--json"],
    "all users": ["recommend", "run", "--all-users", "--out", "out.jsonl", "--force"],
    "evaluate": ["evaluate", "run", "--json", "--device", "cpu"],
    "info": ["info", "toy.h5", "--json"],
}


class HangError(BaseException):
    """A command has not ended in time."""


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """A few bytes flipped or zeroed, a stretch of them overwritten, or the file cut."""
    found = bytearray(content)
    kind = generator.choice(["flip", "flips", "zeros", "ones", "noise", "cut", "moved"])
    start = int(generator.integers(len(found)))
    length = int(min(generator.choice([4, 50, 512, 4096]), len(found) - start))
    if kind == "flip":
        found[start] ^= 1 << int(generator.integers(8))
    elif kind == "flips":
        for place in generator.integers(len(found), size=8):
            found[place] ^= int(generator.integers(1, 256))
    elif kind == "zeros":
        found[start : start + length] = bytes(length)
    elif kind == "ones":
        found[start : start + length] = b"\xff" * length
    elif kind == "noise":
        found[start : start + length] = generator.bytes(length)
    elif kind == "cut":
        del found[start:]
    else:
        del found[start : start + length]
    return bytes(found)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Ends what takes ten seconds, unless it is C that never comes back."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage")
    make_recommender(folder)
    return folder


def _without_checksums(place: Path, folder: Path) -> Path:
    """The same, as an older cammsr wrote it."""
    shutil.copytree(place, folder)
    without_checksums(folder / "toy.h5")
    (folder / "run" / CHECKSUMS).unlink()
    config = folder / "run" / "config.json"
    config.write_text(config.read_text().replace(str(place), str(folder)))
    return folder


def trials(
    folder: Path, file: str, names: list[str], count: int, cammsr: Callable[..., Answer]
) -> Counter[str]:
    """What became of so many damages to a file: counts by what a command said."""
    generator = np.random.default_rng(list(file.encode()))
    path = folder / file
    content = path.read_bytes()
    sound = {name: _said(folder, name, cammsr) for name in names}
    ends: Counter[str] = Counter()
    for number in range(count):
        changed = damaged(content, generator)
        if changed == content:
            continue
        path.write_bytes(changed)
        name = names[number % len(names)]
        ends[_end(sound[name], lambda name=name: _said(folder, name, cammsr))] += 1
    path.write_bytes(content)
    return ends


def _said(folder: Path, name: str, cammsr: Callable[..., Answer]) -> tuple[Answer, str]:
    """A command's answer, and what it wrote."""
    signal.alarm(10)
    here = {"run": folder / "run", "toy.h5": folder / "toy.h5", "out.jsonl": folder / "out.jsonl"}
    answer = cammsr(*(here.get(one, one) for one in COMMANDS[name]))
    signal.alarm(0)
    out = folder / "out.jsonl"
    return answer, out.read_text() if name == "all users" and answer.code == 0 else answer.out


def _end(sound: tuple[Answer, str], command: Callable[[], tuple[Answer, str]]) -> str:
    try:
        answer, wrote = command()
    except HangError:
        return "hang"
    except Exception as error:
        return f"traceback: {error!r}"
    if "fault in cammsr" in answer.err:
        return f"fault: {answer.err}"
    if answer.code:
        return "refused" if answer.err.startswith("error: ") else f"no word: {answer.err}"
    if wrote == sound[1]:
        return "same"
    return "told" if "without checksums" in answer.err else f"changed: {answer.err}"


@pytest.mark.parametrize("file", FILES)
def test_no_damage_goes_unnoticed(
    place: Path, cammsr: Callable[..., Answer], no_hang: None, file: str
) -> None:
    names = list(COMMANDS) if file == "toy.h5" else ["recommend", "all users", "evaluate"]
    ends = trials(place, file, names, DAMAGES_A_FILE, cammsr)
    assert set(ends) <= {"refused", "same"}, ends
    assert ends["refused"] > ends["same"]


@pytest.mark.parametrize("file", FILES[1:-1])  # a damaged heap of texts may hang in HDF5
def test_damage_in_files_without_checksums_is_refused_or_was_warned_of(
    place: Path, tmp_path: Path, cammsr: Callable[..., Answer], no_hang: None, file: str
) -> None:
    old = _without_checksums(place, tmp_path / "old")
    ends = trials(old, file, ["recommend", "evaluate"], DAMAGES_A_FILE, cammsr)
    assert set(ends) <= {"refused", "same", "told"}, ends
