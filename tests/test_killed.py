"""Killing the tool with SIGKILL at a moment nobody chose, and running it again."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import start

EPOCHS = 6


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


def test_killed_train_resumes_to_the_same_end(shop, tmp_path: Path) -> None:
    import os

    environment = dict(os.environ)

    def train(*more: object) -> list[object]:
        return ["train", shop.data, "--out", *more]

    settings = ["--set", f"training.epochs={EPOCHS}", "--seed", 5]
    undisturbed = tmp_path / "undisturbed"
    process = start(train(undisturbed, *settings), environment)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err

    killed = tmp_path / "killed"
    process = start(train(killed, *settings), environment)
    checkpoints = killed / "checkpoints"
    while process.poll() is None and not list(checkpoints.glob("step-*")):
        time.sleep(0.01)
    time.sleep(random.random())
    process.kill()
    process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.fail("training ended before it was killed: train longer")
    assert not (killed / "model.safetensors").exists()

    process = start(["evaluate", killed], environment)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "--resume" in err

    process = start(train(killed, "--resume"), environment)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "resumed after epoch" in err
    assert metrics(killed) == metrics(undisturbed)
    assert (killed / "model.safetensors").read_bytes() == (
        undisturbed / "model.safetensors"
    ).read_bytes()


def metrics(run: Path) -> list[dict[str, object]]:
    """metrics.jsonl without what depends on the clock."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == EPOCHS
    timed = ("events_per_second", "seconds")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def test_interrupted_train_exits_130_and_keeps_its_checkpoints(shop, tmp_path: Path) -> None:
    import os
    import signal

    run = tmp_path / "run"
    process = start(["train", shop.data, "--out", run], dict(os.environ))
    while process.poll() is None and not list((run / "checkpoints").glob("step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert list((run / "checkpoints").glob("step-*"))
    shutil.rmtree(run)
