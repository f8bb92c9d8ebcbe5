"""Trains several models in turn, alone or as one of torchrun's processes, and records the steps.

    python -m torch.distributed.run --nproc-per-node 2 train_together.py PLAN.json OUT

PLAN.json names a data set, settings that all trainings share, and those of each by its name. Each
process writes OUT/RANK.json: by name, the losses of each step, a digest of its last weights, and
what the process changed in the run's folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from cammsr_cli.config import validated
from cammsr_cli.distributed import World, joined
from cammsr_cli.training import train as training
from cammsr_cli.training.sharding import local_part

_WRITING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def main(plan: dict[str, Any], out: Path) -> None:
    """Carry the plan out."""
    with joined(torch.device("cpu")) as world:
        recorded = {name: _record(plan, name, out / name, world) for name in plan["trainings"]}
        (out / f"{world.rank}.json").write_text(json.dumps(recorded))


def _record(plan: dict[str, Any], name: str, run: Path, world: World) -> dict[str, Any]:
    training_settings = {**plan["training"], **plan["trainings"][name]}
    config = validated({"model": plan["model"], "training": training_settings})
    losses: list[dict[str, float]] = []
    notes: list[str] = []
    models: list[torch.nn.Module] = []
    listener = training.Listener(
        start=lambda _: None,
        epoch=lambda _: None,
        step=lambda report: losses.append({n: float(v) for n, v in report.losses.items()}),
        note=notes.append,
    )
    trained = training._run

    def run_it(trainer: Any, *rest: Any) -> Any:
        models.append(trainer.state.model)
        return trained(trainer, *rest)

    training._run = run_it  # type: ignore[assignment]
    written = _watch(run)
    try:
        training.train(
            Path(plan["data"]), run, config, preset="cammsr", world=world, listener=listener
        )
    finally:
        training._run = trained
    digest = hashlib.sha256()
    for value in models[0].state_dict().values():
        if local_part(value) is value:  # of a sharded table each process has other rows
            digest.update(value.numpy().tobytes())
    return {"losses": losses, "weights": digest.hexdigest(), "written": written, "notes": notes}


def _watch(folder: Path) -> list[str]:
    """A list that grows by whatever this process changes in `folder`."""
    seen: list[str] = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in _WRITING or (event == "open" and (arguments[2] or 0) & os.O_ACCMODE)
        if writes and str(arguments[0]).startswith(str(folder)):
            seen.append(f"{event} {arguments[0]}")

    sys.addaudithook(hear)
    return seen


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
