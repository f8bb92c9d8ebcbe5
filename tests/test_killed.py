"""Killing the tool with SIGKILL at a moment nobody chose, and running it again."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Answer, start
from PIL import Image
from tool_process import start_quickly
from toy_data import write_toy_data
from web_server import WebServer, in_turn, sends, status, web_server

from cammsr_cli.files import CHECKSUMS, sha256_of

EPOCHS = 20


def contents(path: Path) -> dict[str, bytes]:
    """Every array and attribute of an HDF5 file."""
    found: dict[str, bytes] = {}

    def add(name: str, node: h5py.Group | h5py.Dataset) -> None:
        found[f"{name}@"] = repr(sorted(node.attrs.items())).encode()
        if isinstance(node, h5py.Dataset):
            value = np.asarray(node[()])
            found[name] = (
                repr(value.tolist()).encode() if value.dtype == object else value.tobytes()
            )

    with h5py.File(path) as file:
        found["@"] = repr(sorted(file.attrs.items())).encode()
        file.visititems(add)
    return found


def shards(cache: Path) -> list[Path]:
    return list(cache.rglob("*.safetensors"))


@pytest.fixture(scope="module")
def plain_shop(tmp_path_factory: pytest.TempPathFactory, make_shop) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "shop"
    make_shop.make_shop(folder, items=90, users=40, events_per_user=6, seed=3)
    return folder


def test_killed_prepare_goes_on_where_it_was(
    plain_shop: Path, tmp_path: Path, subprocess_environment: dict[str, str]
) -> None:
    arguments: list[object] = [
        "prepare", plain_shop, "--encoder", "text", "--encoder", "video=,size=64",
        "--batch-size", 4, "--json", "--out",
    ]  # fmt: skip
    cache = Path(subprocess_environment["CAMMSR_CACHE_DIR"])
    undisturbed = tmp_path / "undisturbed.h5"
    other = {**subprocess_environment, "CAMMSR_CACHE_DIR": str(tmp_path / "other cache")}
    process = start([*arguments, undisturbed], other)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    whole = json.loads(out)["modalities"]

    killed = tmp_path / "killed.h5"
    process = start([*arguments, killed], subprocess_environment)
    # Some work must be on the disk, or there would be nothing to go on from.
    while process.poll() is None and not shards(cache):
        time.sleep(0.01)
    time.sleep(random.random() * 1.5)
    process.kill()
    process.communicate(timeout=20)  # returns once its workers, too, have let go of the pipe
    if process.returncode == 0:
        pytest.fail("prepare ended before it was killed: make the shop larger")
    assert not killed.exists()

    process = start([*arguments, killed], subprocess_environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    resumed = json.loads(out)["modalities"]
    assert contents(killed) == contents(undisturbed)
    assert sum(one["cached"] for one in resumed.values()) > 0
    for name, one in resumed.items():
        assert one["encoded"] + one["cached"] == whole[name]["encoded"]

    process = start([*arguments, killed, "--force"], subprocess_environment)
    out, err = process.communicate(timeout=300)
    assert [one["encoded"] for one in json.loads(out)["modalities"].values()] == [0, 0]
    assert contents(killed) == contents(undisturbed)


# --- prepare with downloads ---------------------------------------------------------------------

PREPARE_KILLS = int(os.environ.get("CAMMSR_TEST_KILLS", "3"))
PICTURES = 40


def _picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def pictures() -> Iterator[WebServer]:
    """A server of pictures that takes its time; some are elsewhere, some gone."""
    with web_server() as server:

        def slowly(seed: int) -> Callable:
            answer = sends(_picture(seed), Content_Type="image/jpeg")

            def slow(handler) -> None:
                time.sleep(0.03)
                answer(handler)

            return slow

        for number in range(PICTURES):
            server.answers[f"/{number}.jpg"] = slowly(number)
        server.answers["/1.jpg"] = status(302, Location="/2.jpg")
        server.answers["/3.jpg"] = status(404)
        server.answers["/4.jpg"] = sends(b"<!doctype html>gone", Content_Type="text/html")
        server.answers["/5.jpg"] = in_turn(status(503), slowly(5))
        yield server


def _catalogue(folder: Path, server: WebServer) -> Path:
    """Raw files whose pictures are on the server."""
    folder.mkdir()
    names = [f"i{number}" for number in range(PICTURES)]
    items = (f"{name},{server.url(f'/{name[1:]}.jpg')}\n" for name in names)
    (folder / "items.csv").write_text(f"item,image\n{''.join(items)}")
    events = (f"u{user},{name},{time}\n" for user in range(3) for time, name in enumerate(names))
    (folder / "interactions.csv").write_text(f"user,item,timestamp\n{''.join(events)}")
    return folder


ENCODING: list[object] = [
    "--encoder", "image=,size=32", "--batch-size", 4, "--workers", 1, "--allow-private-hosts",
]  # fmt: skip


@pytest.mark.slow
def test_killed_at_random_moments_prepare_with_downloads_ends_the_same(
    pictures: WebServer, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"moments drawn with seed {seed}")  # shown if the test fails
    moments = random.Random(seed)
    shop, said, cache = _catalogue(tmp_path / "shop", pictures), tmp_path / "said", tmp_path / "c"

    def started(out: Path, cache: Path):
        environment = {"CAMMSR_CACHE_DIR": str(cache)}
        return start_quickly(["prepare", shop, *ENCODING, "--out", out], said, environment)

    undisturbed, killed = tmp_path / "undisturbed.h5", tmp_path / "killed.h5"
    start_quickly(["--version"], said).join()  # everything is imported once
    began = time.monotonic()
    process = started(undisturbed, tmp_path / "other")
    process.join()
    seconds = time.monotonic() - began
    assert process.exitcode == 0, said.read_text()
    pictures.asked.clear()
    print(f"{seconds:.1f} seconds undisturbed")

    interrupted = 0
    while interrupted < PREPARE_KILLS:
        process = started(killed, cache)
        time.sleep(moments.random() * seconds)
        process.kill()
        process.join()
        if process.exitcode == 0:  # it came too late: what follows would find nothing to do
            seconds *= 0.8
            shutil.rmtree(cache)
            pictures.asked.clear()
            killed.unlink()
            killed.with_name("killed.h5.problems.csv").unlink()
            continue
        assert process.exitcode == -signal.SIGKILL, said.read_text()
        interrupted += 1
        assert not killed.exists()
        for path in (cache / "media" / "content").rglob("*.jpg"):
            assert sha256_of(path) == path.stem
    process = started(killed, cache)
    process.join()
    assert process.exitcode == 0, said.read_text()
    assert contents(killed) == contents(undisturbed)
    problems, others = (
        path.with_name(f"{path.name}.problems.csv").read_text() for path in (killed, undisturbed)
    )
    assert problems == others
    assert problems.count("not downloaded: ") == 2
    # What had been downloaded was kept; those that were under way are all that is asked for twice.
    wasted = sum(pictures.asked.values()) - len(pictures.asked)
    assert wasted <= (PREPARE_KILLS + 1) * (4 + 4)
    assert not list(tmp_path.glob(".killed*"))


def test_a_second_run_on_one_output_is_refused_and_a_killed_one_blocks_nobody(
    pictures: WebServer, tmp_path: Path, cammsr: Callable[..., Answer]
) -> None:
    shop, out = _catalogue(tmp_path / "shop", pictures), tmp_path / "a shop.h5"
    arguments = ["prepare", shop, *ENCODING, "--out", out]
    reached, go_on = threading.Event(), threading.Event()
    picture = pictures.answers["/9.jpg"]

    def waits(handler) -> None:
        reached.set()
        go_on.wait(60)
        picture(handler)

    pictures.answers["/9.jpg"] = waits
    process = start_quickly(arguments, tmp_path / "said")
    assert reached.wait(60)
    refused = cammsr(*arguments)
    assert refused.code == 1
    assert f"error: {out} is being written by process {process.pid} on " in refused.err
    assert not out.exists()
    process.kill()
    process.join()
    go_on.set()
    answer = cammsr(*arguments)
    assert answer.code == 0, answer.err
    assert out.exists()
    assert not list(tmp_path.glob(".a shop*"))


# --- train --------------------------------------------------------------------------------------

SETTINGS: list[object] = [
    "--seed", 5,
    "--set", "model.width=16",
    "--set", "model.layers=1",
    "--set", "training.batch_size=8",
    "--set", f"training.epochs={EPOCHS}",
    "--set", f"training.patience={EPOCHS}",
    "--set", "training.swap_weight=0.05",
]  # fmt: skip
OFTEN: list[object] = ["--set", "training.checkpoint_minutes=0.0005"]
"""Thirty milliseconds: every few steps."""


@dataclass(frozen=True)
class Undisturbed:
    """A data set, and the run of a training on it that nothing disturbed."""

    data: Path
    run: Path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("train")
    data = write_toy_data(folder / "toy.h5", users=150, seed=7)
    run_to_its_end(["train", data, "--out", folder / "undisturbed", *SETTINGS])
    return Undisturbed(data, folder / "undisturbed")


def run_to_its_end(arguments: list[object]) -> str:
    """What the tool says on stderr."""
    process = start(arguments, dict(os.environ))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return err


def steps_saved(run: Path) -> list[int]:
    """Steps of the whole checkpoints, rising; none of a folder that is not there yet."""
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, after: int = 0) -> None:
    """Return once there is a checkpoint of a step later than `after`."""
    while process.poll() is None and max(steps_saved(run), default=0) <= after:
        time.sleep(0.002)


def metrics(run: Path) -> list[dict[str, object]]:
    """metrics.jsonl without what depends on the clock."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    timed = ("events_per_second", "seconds")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def require_same_end(run: Path, other: Path) -> None:
    assert len(metrics(other)) == EPOCHS
    assert metrics(run) == metrics(other)
    assert (run / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def require_whole_checkpoints(run: Path) -> None:
    """Every file of every checkpoint is as it was written."""
    for checkpoint in (run / "checkpoints").glob("step-*"):
        lines = (checkpoint / CHECKSUMS).read_text().splitlines()
        listed = dict(reversed(line.split("  ")) for line in lines)
        assert set(listed) == {file.name for file in checkpoint.iterdir()} - {CHECKSUMS}
        for name, digest in listed.items():
            assert sha256_of(checkpoint / name) == digest, checkpoint / name


def test_killed_train_resumes_to_the_same_end(undisturbed: Undisturbed, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    training: list[object] = ["train", undisturbed.data, "--out", run]
    process = start([*training, *SETTINGS], dict(os.environ))
    wait_for_checkpoint(process, run)
    time.sleep(random.random() * 0.5)
    process.kill()
    process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.fail("training ended before it was killed: train longer")
    assert not (run / "model.safetensors").exists()

    process = start(["evaluate", run], dict(os.environ))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "--resume" in err

    step = steps_saved(run)[-1]
    assert f"step {step}\n" in run_to_its_end([*training, "--resume"])
    require_same_end(run, undisturbed.run)


@pytest.mark.slow
def test_killed_at_twenty_random_moments_train_ends_the_same(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    seed = random.randrange(10**6)
    print(f"moments drawn with seed {seed}")  # shown if the test fails
    moments = random.Random(seed)
    run, said = tmp_path / "killed", tmp_path / "said.txt"
    arguments: list[object] = ["train", undisturbed.data, "--out", run]
    more = [*SETTINGS, *OFTEN]
    for kill in range(20):
        known = max(steps_saved(run), default=0)
        process = start_quickly([*arguments, *more], said)
        if kill == 0 or moments.random() < 0.8:
            # Each life gets a little further ...
            while process.is_alive() and max(steps_saved(run), default=0) <= known:
                time.sleep(0.002)
            time.sleep(moments.random() * 0.1)
        else:
            time.sleep(moments.random() * 0.5)  # ... save some that end before they begin.
        process.kill()
        process.join()
        print(f"kill {kill}: step {known} to {max(steps_saved(run))}")
        assert process.exitcode == -signal.SIGKILL, said.read_text()
        assert not (run / "model.safetensors").exists()
        require_whole_checkpoints(run)
        if (run / "metrics.jsonl").exists():
            metrics(run)  # each line can be read
        more = ["--resume"]
    process = start_quickly([*arguments, "--resume"], said)
    process.join()
    assert process.exitcode == 0, said.read_text()
    assert "damaged" not in said.read_text()
    require_same_end(run, undisturbed.run)
    left = [path.name for path in (run / "checkpoints").iterdir()]
    assert all(name.removeprefix("step-").isdigit() for name in left), left  # no half-written ones


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_train_asked_to_end_saves_the_last_step_and_says_how_to_go_on(
    undisturbed: Undisturbed, tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "a run"
    training: list[object] = ["train", undisturbed.data, "--out", run]
    process = start([*training, *SETTINGS], dict(os.environ))
    wait_for_checkpoint(process, run)
    epochs_end = steps_saved(run)
    time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert f"go on with: cammsr train {undisturbed.data} --out '{run}' --resume" in err
    assert err.endswith("interrupted\n")
    assert not (run / "model.safetensors").exists()
    require_whole_checkpoints(run)
    step = steps_saved(run)[-1]
    assert step > epochs_end[0]
    epochs = len(metrics(run))
    said = run_to_its_end([*training, "--resume"])
    assert f"resumed after epoch {epochs}, step {step}\n" in said
    require_same_end(run, undisturbed.run)
