"""What tests share: the small shop as raw files, prepared and trained once a session."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from toy_data import write_toy_data
from typer.testing import CliRunner

RANDOM_FILES = 4_000

PROJECT = Path(__file__).resolve().parent.parent

# Everything the tests run, in this process or another, has the same quiet, offline surroundings.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tensors here are tiny: on a busy machine, threads would spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("CAMMSR_TEST_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CAMMSR_TEST_DATA to a folder that holds it")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests never read or write the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CAMMSR_CACHE_DIR"] = str(folder)
    return folder


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def cammsr() -> Callable[..., Answer]:
    """Run the tool in this process."""

    def run(*arguments: object) -> Answer:
        from cammsr_cli.app import app

        answer = CliRunner().invoke(app, [str(one) for one in arguments])
        if answer.exception is not None and not isinstance(answer.exception, SystemExit):
            raise answer.exception
        return Answer(answer.exit_code, answer.stdout, answer.stderr)

    return run


@pytest.fixture(scope="session")
def make_shop() -> ModuleType:
    """The example shop's generator, as a module."""
    return load_script(PROJECT / "examples" / "quickstart" / "make_shop.py")


def load_script(path: Path) -> ModuleType:
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Shop:
    """The small shop: its raw files, what is planted in it, and what was made of it."""

    folder: Path
    truth: Any
    data: Path
    run: Path


ENCODERS = ("--encoder", "text", "--encoder", "image=,size=96", "--encoder", "video=,size=96")


@pytest.fixture(scope="session")
def shop(
    tmp_path_factory: pytest.TempPathFactory, make_shop: ModuleType, cammsr: Callable[..., Answer]
) -> Shop:
    """Raw files through `prepare` and `train`, with the real encoders."""
    root = tmp_path_factory.mktemp("a shop")
    folder = root / "raw files"
    truth = make_shop.make_shop(folder, items=180, users=400, events_per_user=12, seed=0)
    data, run = root / "shop.h5", root / "run"
    prepared = cammsr("prepare", folder, "--out", data, *ENCODERS)
    assert prepared.code == 0, prepared.err
    trained = cammsr("train", data, "--out", run, "--set", "training.epochs=25")
    assert trained.code == 0, trained.err
    return Shop(folder, truth, data, run)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 60 users and 40 items, to train on in seconds."""
    return write_toy_data(tmp_path_factory.mktemp("toy data") / "toy.h5")


@pytest.fixture
def subprocess_environment(tmp_path: Path) -> dict[str, str]:
    """For tools run as processes of their own: a cache that nothing else uses."""
    return {**os.environ, "CAMMSR_CACHE_DIR": str(tmp_path / "own cache")}


def start(arguments: list[object], environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start the tool as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "cammsr_cli", *(str(one) for one in arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--random-files",
        type=int,
        default=RANDOM_FILES,
        help="how many small random files of each kind are read beside a strict reader",
    )


@pytest.fixture(scope="session")
def random_files(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--random-files"))
