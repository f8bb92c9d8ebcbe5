"""Of the run on a machine with a GPU: whole trainings, and what comes of them; see cuda.py."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cuda_kit import PRESETS, Kit, Report, tool
from cammsr_cli.data.splits import TEST
from cammsr_cli.ranking.full_ranking import evaluation_cases, model_ranks
from cammsr_cli.ranking.metrics import per_user
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import LoadedRun, load_run


def training(kit: Kit) -> Report:
    """Whole trainings to their early stop, with the clock."""
    found: Report = {}
    for preset, share in zip(PRESETS, (0.65, 1.0), strict=True):  # the second has what is left
        limit = max(30.0, (kit.left - 50) * share)
        few = ("--set", "training.epochs=2", "--set", "model.width=16") if kit.small else ()
        words = ("--out", kit.out / preset, "--preset", preset, "--force", *few)
        ended = tool(kit, "train", kit.data, *words, limit=limit)
        lines = _epochs(RunFolder(kit.out / preset))
        found[preset] = {
            **ended,
            "by itself": RunFolder(kit.out / preset).finished,
            "epochs": len(lines),
            "best validation NDCG@10": lines[-1]["best_ndcg"] if lines else None,
            "events/s": statistics.median(x["events_per_second"] for x in lines) if lines else None,
        }
    return found


def evaluation(kit: Kit) -> Report:
    """Test NDCG@10 of what was trained, ranked on the device and on the CPU."""
    found: Report = {}
    for preset in _trained(kit):
        for device in dict.fromkeys((kit.device, torch.device("cpu"))):
            loaded = load_run(RunFolder(kit.out / preset), None, device)
            asked = evaluation_cases(loaded.data, TEST)
            began = time.perf_counter()
            rank = model_ranks(
                loaded.model,
                loaded.catalogue,
                loaded.events,
                asked,
                exclude_seen=not loaded.spec.repeats,
            )
            found[f"{preset} on {device}"] = {
                "NDCG@10": float(per_user(rank, "NDCG", 10).mean()),
                "users/s": len(rank) / (time.perf_counter() - began),
            }
    return found


def one_user(kit: Kit) -> Report:
    """Time to ten items for one user, and for all."""
    return {
        preset: _answers(kit, load_run(RunFolder(kit.out / preset), None, kit.device))
        for preset in _trained(kit)
    }


def _answers(kit: Kit, loaded: LoadedRun) -> Report:
    recommender = Recommender(loaded)
    everyone = recommender.everyone
    drawn = np.random.default_rng(0).choice(everyone, kit.sizes(300, 5))

    def seconds(users: NDArray[np.int64]) -> float:
        began = time.perf_counter()
        recommender.answers(users, 10)  # ends on the host
        return time.perf_counter() - began

    each = [seconds(drawn[at : at + 1]) for at in range(len(drawn))][1:]
    return {
        "p50 ms": float(np.percentile(each, 50)) * 1e3,
        "p99 ms": float(np.percentile(each, 99)) * 1e3,
        "users/s, all at once": len(everyone) / seconds(everyone),
    }


def resuming(kit: Kit) -> Report:
    """A training that is stopped after its first checkpoint, and gone on with."""
    run = kit.out / "stopped"
    epochs = kit.sizes(2, 3)
    words = ["--out", run, "--set", f"training.epochs={epochs}"]
    words += ["--set", "training.checkpoint_minutes=0.02"]
    words += ["--set", "model.width=16"] if kit.small else []
    stopped = tool(kit, "train", kit.data, *words, "--force", limit=90, stop=run / "checkpoints")
    resumed = tool(kit, "train", kit.data, "--out", run, "--resume", limit=90)
    lines = _epochs(RunFolder(run))
    return {
        "stopped": stopped,
        "gone on": resumed,
        "every epoch once": [line["epoch"] for line in lines] == list(range(1, epochs + 1)),
        "finished": RunFolder(run).finished,
    }


def _epochs(run: RunFolder) -> list[dict[str, Any]]:
    """The log of a run; empty, where its training did not come so far."""
    text = run.metrics.read_text(encoding="utf-8") if run.metrics.is_file() else ""
    return [json.loads(line) for line in text.splitlines()]


def _trained(kit: Kit) -> list[str]:
    """The runs that came to their end; the short one of `resuming`, where no other did."""
    finished = [name for name in PRESETS if RunFolder(kit.out / name).finished]
    return finished or [name for name in ("stopped",) if RunFolder(kit.out / name).finished]
