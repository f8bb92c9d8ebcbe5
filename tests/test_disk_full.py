"""A disk that is full while a command writes to it."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Answer
from PIL import Image
from toy_recommender import make_recommender
from web_server import sends, web_server

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.files import sha256_of

MEGABYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTE}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here; that takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Raw files, with vectors of two megabytes."""
    folder = tmp_path / "shop"
    folder.mkdir()
    names = [f"i{number}" for number in range(512)]
    (folder / "items.csv").write_text("\n".join(["item", *names]))
    events = [f"u,{name},{time}" for time, name in enumerate(names)]
    (folder / "interactions.csv").write_text("\n".join(["user,item,timestamp", *events]))
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(512, 2048)))
    return folder


@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
def test_the_data_set_does_not_fit(
    shop: Path, small_disk: Path, cammsr: Callable[..., Answer], old: bool
) -> None:
    out = small_disk / "shop.h5"
    if old:
        assert cammsr("prepare", shop, "--out", out).code == 0
        before = out.read_bytes()
    vectors = ["--features", f"image={shop / 'vectors.npy'}"]
    answer = cammsr("prepare", shop, "--out", out, "--force", *vectors)
    assert answer.code == 1
    # Vectors are gathered beside the data set before they are written into it.
    assert f"error: {small_disk} cannot be written: No space left on device\n" in answer.err
    assert "Traceback" not in answer.err
    assert list(small_disk.iterdir()) == ([out] if old else [])
    if old:
        assert out.read_bytes() == before
        assert h5py.is_hdf5(out)
        assert len(DataSet(out).item_ids) == 512


@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
def test_texts_do_not_fit(
    shop: Path, small_disk: Path, cammsr: Callable[..., Answer], old: bool
) -> None:
    """Without vectors of any size, it is HDF5 that meets the full disk."""
    out = small_disk / "shop.h5"
    vectors = shop / "vectors.csv"
    arguments = ["prepare", shop, "--out", out, "--force", "--features", f"image={vectors}"]
    before = {}
    if old:
        vectors.write_text("item,x\ni0,1\ni1,nan\n")
        assert cammsr(*arguments).code == 0
        before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
        assert sorted(before) == ["shop.h5", "shop.h5.problems.csv"]
    vectors.write_text("item,x\ni0,1\ni2,nan\n")  # a list that would be another
    items = [f"i{number},{f'{number:04d} ' * 800}" for number in range(512)]
    (shop / "items.csv").write_text("\n".join(["item,description", *items]))
    answer = cammsr(*arguments)
    assert answer.code == 1
    assert f"error: {out} cannot be written: No space left on device\n" in answer.err
    assert "Traceback" not in answer.err
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before


def _picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_downloads_do_not_fit(
    tmp_path: Path,
    small_disk: Path,
    cammsr: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop = tmp_path / "pictures"
    shop.mkdir()
    names = [f"i{number}" for number in range(12)]  # of some 200 KB each
    arguments = [
        "prepare", shop, "--out", tmp_path / "shop.h5", "--encoder", "image=,size=32",
        "--allow-private-hosts",
    ]  # fmt: skip
    with web_server() as server:
        for number, name in enumerate(names):
            server.answers[f"/{name}"] = sends(_picture(number))
        items = [f"{name},{server.url(f'/{name}')}" for name in names]
        (shop / "items.csv").write_text("\n".join(["item,image", *items]))
        events = [f"u,{name},{time}" for time, name in enumerate(names)]
        (shop / "interactions.csv").write_text("\n".join(["user,item,timestamp", *events]))
        monkeypatch.setenv("CAMMSR_CACHE_DIR", str(small_disk))
        answer = cammsr(*arguments)
        assert answer.code == 1
        assert "media cache" in answer.err
        assert "cannot be written to: No space left on device" in answer.err
        assert "CAMMSR_CACHE_DIR" in answer.err
        assert not (tmp_path / "shop.h5").exists()
        kept = list((small_disk / "media" / "content").rglob("*.png"))
        assert kept
        assert all(sha256_of(path) == path.stem for path in kept)
        assert list((small_disk / "media" / "partial").iterdir()) == []
        # With room, the run goes on with what is there.
        shutil.copytree(small_disk, tmp_path / "large disk")
        monkeypatch.setenv("CAMMSR_CACHE_DIR", str(tmp_path / "large disk"))
        answer = cammsr(*arguments)
        assert answer.code == 0, answer.err
        assert f"{len(names)} media URLs ({len(names)} on 127.0.0.1): " in answer.err
        assert " 0 in the cache" not in answer.err
        assert "failed" not in answer.err


def test_features_do_not_fit(
    shop: Path, small_disk: Path, cammsr: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    (small_disk / "filler").write_bytes(b"x" * (MEGABYTE - 20_000))
    (shop / "items.csv").write_text("item,title\n" + "".join(f"i{n},T{n}\n" for n in range(64)))
    monkeypatch.setenv("CAMMSR_CACHE_DIR", str(small_disk))
    out = shop.parent / "shop.h5"
    answer = cammsr("prepare", shop, "--out", out, "--encoder", "text")
    assert answer.code == 1
    assert "feature cache" in answer.err
    assert "No space left on device" in answer.err
    assert not out.exists()
    assert not list(small_disk.rglob("*.safetensors"))
    assert not list(small_disk.rglob("*.partial"))


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if ".partial" in path.name)


@pytest.mark.parametrize("kilobytes", [8, 64, 160, 220, 240, 300, 420])
def test_a_run_does_not_fit(
    tmp_path: Path,
    toy_data: Path,
    cammsr: Callable[..., Answer],
    small_disk: Path,
    kilobytes: int,
) -> None:
    """In its settings, the weights, the optimisers' state or the last weights."""
    (small_disk / "filler").write_bytes(bytes(MEGABYTE - kilobytes * 1024))
    run = small_disk / "run"
    small = ("--set", "model.width=16", "--set", "training.epochs=2")
    answer = cammsr("train", toy_data, "--out", run, *small)
    assert answer.code == 1
    assert f"error: {run} cannot be written: No space left on device\n" in answer.err
    assert "Traceback" not in answer.err
    assert "fault in cammsr" not in answer.err
    assert _left(small_disk) == []
    assert not (run / "model.safetensors").exists()
    if any((run / "checkpoints").glob("step-*")):  # with room, it goes on
        assert "--resume" in answer.err
        (small_disk / "filler").unlink()
        assert cammsr("train", toy_data, "--out", run, "--resume").code == 0


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_recommendations_do_not_fit(
    tmp_path: Path, cammsr: Callable[..., Answer], small_disk: Path, ending: str
) -> None:
    make_recommender(tmp_path)
    (small_disk / "filler").write_bytes(bytes(MEGABYTE - 12 * 1024))
    out = small_disk / f"recommendations.{ending}"
    answer = cammsr("recommend", tmp_path / "run", "--all-users", "--out", out, "--k", "40")
    assert answer.code == 1
    assert f"error: {out} cannot be written: No space left on device\n" in answer.err
    assert "fault in cammsr" not in answer.err
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
