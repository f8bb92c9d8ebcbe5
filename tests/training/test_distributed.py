"""Two processes train as one does: step by step, in one folder, with one voice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import train_together
from altered import with_settings
from toy_data import write_toy_data

from cammsr_cli.distributed import World, joined
from cammsr_cli.errors import UsageError

TOGETHER = Path(train_together.__file__)
# Windows are never cut, nothing is dropped or dealt: each step is the same in any process.
MODEL = {
    "width": 16,
    "layers": 1,
    "length": 20,
    "dropout": 0.0,
    "id_dropout": 0.0,
    "neighbours": 0,  # as of the sampled training's large catalogue
}
TRAINING = {
    "batch_size": 8,
    "epochs": 7,
    "patience": 7,
    "precision": "float32",
    "shuffle_ties": False,
    "seed": 2,
}
PLAN = {
    "model": MODEL,
    "training": TRAINING,
    "trainings": {
        "whole": {},
        "in parts": {"micro_batch": 2},
        "sampled": {
            "sampled_softmax_above": 0,
            "sparse_adam_above": 0,
            "negatives": 1000,
            "swap_weight": 0.05,
        },
    },
}


def _torchrun(arguments: list[object]) -> subprocess.Popen[str]:
    """Two processes on this machine; no network but the machine's own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--standalone", "--nproc-per-node", "2"),
            *(str(one) for one in arguments),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(process: subprocess.Popen[str], timeout: float = 180) -> tuple[str, str]:
    """What the processes said until their end; they are ended if they hang."""
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        _, err = process.communicate(timeout=60)
        pytest.fail(f"the processes hang: {err}")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """57 histories long enough: one batch of 8 an epoch has nothing for the second process."""
    return write_toy_data(tmp_path_factory.mktemp("together") / "toy.h5", users=63, seed=3)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Any]:
    """The plan carried out by one process and by two: "alone", and by rank "0" and "1"."""
    folder = tmp_path_factory.mktemp("recorded")
    plan = folder / "plan.json"
    plan.write_text(json.dumps({**PLAN, "data": str(data)}))
    alone, together = folder / "alone", folder / "together"
    alone.mkdir()
    together.mkdir()
    train_together.main(json.loads(plan.read_text()), alone)
    process = _torchrun([TOGETHER, plan, together])
    _, err = _ended(process)
    assert process.returncode == 0, err
    return {
        "folder": folder,
        "alone": json.loads((alone / "0.json").read_text()),
        **{rank: json.loads((together / f"{rank}.json").read_text()) for rank in ("0", "1")},
    }


@pytest.mark.parametrize("name", ["whole", "in parts"])
def test_two_processes_take_the_steps_of_one(recorded: dict[str, Any], name: str) -> None:
    alone, first, second = (recorded[who][name]["losses"] for who in ("alone", "0", "1"))
    assert len(alone) == 7 * 8  # the eighth batch of each epoch is of one history
    assert first == second
    assert len(first) == len(alone)
    for step, (ours, theirs) in enumerate(zip(alone, first, strict=True), 1):
        assert set(ours) == {"recommendation", "category"}
        assert theirs == pytest.approx(ours, abs=1e-4), step
    first_epoch, last_epoch = (
        sum(step["recommendation"] for step in steps) / 8 for steps in (alone[:8], alone[-8:])
    )
    assert last_epoch < first_epoch - 0.1  # or there would be little to be alike in


def test_steps_in_parts_are_those_of_whole_batches(recorded: dict[str, Any]) -> None:
    pairs = zip(*(recorded["0"][name]["losses"] for name in ("whole", "in parts")), strict=True)
    for whole, parts in pairs:
        assert parts == pytest.approx(whole, abs=1e-4)


def test_processes_that_sample_for_themselves_learn_one_model(recorded: dict[str, Any]) -> None:
    """400 draws of 40 items: about all are met, so the losses are those of the full softmax."""
    full, sampled = (recorded["0"][name]["losses"] for name in ("whole", "sampled"))
    assert sampled[0]["recommendation"] == pytest.approx(full[0]["recommendation"], abs=0.01)
    last = [sum(step["recommendation"] for step in losses[-8:]) / 8 for losses in (full, sampled)]
    assert last[1] == pytest.approx(last[0], abs=0.1)
    assert set(sampled[0]) == {"recommendation", "category", "swap"}


@pytest.mark.parametrize("name", PLAN["trainings"])
def test_both_processes_end_with_the_same_weights(recorded: dict[str, Any], name: str) -> None:
    assert recorded["0"][name]["weights"] == recorded["1"][name]["weights"]


@pytest.mark.parametrize("name", PLAN["trainings"])
def test_metrics_and_weights_are_written_once(recorded: dict[str, Any], name: str) -> None:
    assert recorded["1"][name]["written"] == []
    assert any("metrics.jsonl" in one for one in recorded["0"][name]["written"])
    run = recorded["folder"] / "together" / name
    epochs = [
        json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert epochs == list(range(1, 8))
    assert (run / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["whole", "in parts"])
def test_validation_by_two_finds_what_one_finds(recorded: dict[str, Any], name: str) -> None:
    ours, theirs = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (recorded["folder"] / who / name for who in ("alone", "together"))
    )
    for one, other in zip(ours, theirs, strict=True):
        assert other["step"] == one["step"]
        # A user whose two best items are all but equal may be ranked either way.
        for metric in ("ndcg", "recall"):
            assert other[metric] == pytest.approx(one[metric], abs=1 / 63)
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-4)


# --- the command --------------------------------------------------------------------------------

SETTINGS: list[object] = [
    part
    for section, values in (("model", MODEL), ("training", {**TRAINING, "swap_weight": 0.05}))
    for name, value in values.items()
    for part in ("--set", f"{section}.{name}={value}")
]


def test_the_command_speaks_with_one_voice_stops_when_asked_and_goes_on(
    data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    training: list[object] = ["-m", "cammsr_cli", "train", data, "--out", run]
    process = _torchrun([*training, *SETTINGS, "--set", "training.epochs=400"])
    while process.poll() is None and not list(run.glob("checkpoints/step-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = _ended(process)
    assert process.returncode != 0
    assert out == ""
    assert err.count("go on with: cammsr train") == 1, err
    settings = (run / "config.yaml").read_text()
    with_settings(run, settings.replace("epochs: 400", "epochs: 7"))
    step = max(int(path.name[5:]) for path in run.glob("checkpoints/step-*"))

    process = _torchrun([*training, "--resume", "--json"])
    out, err = _ended(process)
    assert process.returncode == 0, err
    assert json.loads(out)["run"] == str(run)  # one JSON document, not two
    assert err.count("parameters on cpu x 2") == 1, err
    assert err.count(f"step {step}\n") == 1, err
    assert err.count("Next: cammsr evaluate") == 1
    epochs = [
        json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    assert epochs == list(range(1, len(epochs) + 1))


def test_wrong_usage_is_told_and_nothing_hangs(data: Path, tmp_path: Path) -> None:
    (tmp_path / "in use.txt").touch()
    process = _torchrun(["-m", "cammsr_cli", "train", data, "--out", tmp_path])
    out, err = _ended(process)
    assert process.returncode != 0
    assert out == ""
    assert "nothing is overwritten" in err
    assert [path.name for path in tmp_path.iterdir()] == ["in use.txt"]


# --- the world ----------------------------------------------------------------------------------


def test_a_process_of_its_own_is_the_whole_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    cpu = torch.device("cpu")
    with joined(cpu) as world:
        assert world == World(0, 1, cpu)
        assert world.leads
        values = torch.tensor([1.0, 2.0])
        assert world.sum(values).tolist() == [1, 2]
        world.wait()
    assert not World(1, 2, cpu).leads


@pytest.mark.parametrize(
    ("kind", "backend", "bound"),
    [("cuda", "nccl", torch.device("cuda", 1)), ("cpu", "gloo", None)],
)
def test_a_process_is_bound_to_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, kind: str, backend: str, bound: torch.device | None
) -> None:
    """NCCL is told which: on its own it would go by the rank, here the sixth of one machine."""
    asked: list[Any] = []
    for name, value in {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda name, timeout, device_id: asked.append((name, device_id)),
    )
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 5)
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with joined(torch.device(kind)) as world:
        assert world == World(5, 8, bound or torch.device("cpu"))
    assert asked == [*([bound] if bound else []), (backend, bound)]


def test_more_processes_than_gpus_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=r"process 2 .* 2 CUDA device") as caught:  # noqa: SIM117
        with joined(torch.device("cuda")):
            pass
    assert "torchrun" in (caught.value.hint or "")
