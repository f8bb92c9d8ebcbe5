"""The run for a machine with a GPU goes to its end, and its parts find what they look for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_data import write_toy_data

from benchmarks import cuda
from benchmarks.cuda import PARTS, run
from benchmarks.cuda_kit import Kit, Part

PROJECT = Path(cuda.__file__).resolve().parent.parent


def _kit(tmp_path: Path, seconds: float) -> Kit:
    ends = time.monotonic() + seconds
    return Kit(tmp_path / "toy.h5", tmp_path, torch.device("cpu"), False, ends)


@pytest.mark.slow
def test_the_small_run_ends_on_a_cpu(tmp_path: Path) -> None:
    write_toy_data(tmp_path / "data.h5")
    out = tmp_path / "out"
    words = ["--data", tmp_path, "--out", out, "--device", "cpu", "--small"]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.cuda", *map(str, words)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = json.loads((out / "report.json").read_text())
    assert list(report) == [part.name for part in PARTS]
    for preset in ("cammsr", "sasrec"):
        assert report["agreement"][preset]["agrees"], report["agreement"]
        assert report["agreement"][preset]["float32 off by"] == 0  # a CPU against itself
        assert report["agreement"][preset]["bfloat16 off by"] > 0
        assert report["speed"][f"{preset} 16 bfloat16"]["events/s"] > 0
        assert report["training"][preset]["by itself"], report["training"]
        assert 0 < report["evaluation"][f"{preset} on cpu"]["NDCG@10"] <= 1
        assert 0 < report["one user"][preset]["p50 ms"] <= report["one user"][preset]["p99 ms"]
    assert report["agreement"]["repeated to the bit"]
    assert report["resuming"]["stopped"]["exit code"] != 0
    assert report["resuming"]["gone on"]["exit code"] == 0
    assert report["resuming"]["every epoch once"]
    assert report["resuming"]["finished"]
    assert "no GPU" in report["out of memory"]["left out"]
    assert report["speed"]["cammsr 16 bfloat16"]["share of peak"] > 0
    for kind in ("images", "texts"):
        assert report["encoding"][kind]["items/s"] > 0, report["encoding"]
        assert report["encoding"][kind]["model alone items/s"] > 0


def test_a_part_that_fails_is_told_and_the_others_are_made(tmp_path: Path) -> None:
    def fail(_: Kit) -> dict[str, object]:
        raise RuntimeError("no such kernel")

    parts = (Part("one", 0, fail), Part("long", 1e9, fail), Part("two", 0, lambda _: {"x": 1}))
    assert not run(_kit(tmp_path, 60), parts)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["one"]["failed"] == "RuntimeError: no such kernel"
    assert 'raise RuntimeError("no such kernel")' in "".join(report["one"]["traceback"])
    assert report["long"]["left out"].startswith("it needs 1000000000 s")
    assert report["two"]["x"] == 1


def test_where_a_gpu_is_of_no_use_after_a_failure_another_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An illegal access, say, ends all that a process can do on a GPU."""

    def fail(_: Kit) -> dict[str, object]:
        raise RuntimeError("an illegal memory access was encountered")

    write_toy_data(tmp_path / "toy.h5")
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), *sys.path]))
    monkeypatch.setattr(cuda, "usable", lambda _: False)
    rest = [part for part in PARTS if part.name in ("facts", "out of memory")]
    kit = Kit(tmp_path / "toy.h5", tmp_path, torch.device("cpu"), True, time.monotonic() + 60)
    assert not run(kit, [Part("broken", 0, fail), *rest])
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report) == ["broken", "facts", "out of memory"]
    assert "illegal" in report["broken"]["failed"]
    assert report["facts"]["bfloat16 TFlop/s"] > 0


def test_the_data_set_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["cuda", "--data", str(tmp_path), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        cuda.main()
    assert "0 data sets" in capsys.readouterr().err
