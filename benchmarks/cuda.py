"""One run on a machine with a GPU, within a few minutes: is all right there, and how fast is it.

    python -m benchmarks.cuda --data DIR --out DIR [--seconds 480] [--device cpu --small]

DIR of --data holds a data set that `cammsr prepare` made, NAME.h5. What tells most comes first; the
result of each part is in report.json as soon as that part ends, and what there is no time for is
left out and named. It needs neither a network nor what only `prepare` needs. With `--device cpu
--small` all of it runs on a CPU in a minute, to see that it does; its figures mean nothing then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.train import batches_of, matmul_peak
from cammsr_cli.config import resolve
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TEST
from cammsr_cli.devices import repeatable, resolve_device
from cammsr_cli.distributed import World
from cammsr_cli.files import written_whole
from cammsr_cli.ranking.full_ranking import model_ranks, questions
from cammsr_cli.ranking.metrics import per_user
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import LoadedRun, load_run
from cammsr_cli.runs.spec import describe, training_items
from cammsr_cli.training.loop import Trainer
from cammsr_cli.training.sizing import fitted
from cammsr_cli.training.train import make_trainer

Report = dict[str, Any]

PRESETS = ("cammsr", "sasrec")
STILL = (
    "model.dropout=0",
    "model.id_dropout=0",
    "training.shuffle_ties=false",
    "training.sampled_above=1000000000",
)
"""With these, nothing in a step is left to chance, which each device has its own of."""

CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Losses that differ by no more, as a share, are the same; 20 steps let rounding grow."""

ATTENTION = ("fmha", "flash", "sdpa", "attention")
"""Words in the names of attention's kernels."""


@dataclass
class Kit:
    """What the parts share.

    Attributes:
        data: The data set.
        out: Folder of all results.
        device: What is looked at.
        small: Whether to do little of everything.
        ends: When there is no more time, by `time.monotonic`.
        report: Result of each part so far.
    """

    data: Path
    out: Path
    device: torch.device
    small: bool
    ends: float
    report: Report = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.ends - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device.type == "cuda"

    def finish(self) -> None:
        """Wait for all that the device was asked for."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def sizes(self, many: int, few: int) -> int:
        """How many of something to do."""
        return few if self.small else many

    def trainer(self, preset: str, *settings: str, device: torch.device | None = None) -> Trainer:
        """A new training that writes nothing."""
        device = self.device if device is None else device
        small = ["model.width=16", "training.batch_size=16"] if self.small else []
        data = DataSet(self.data)
        config, _ = fitted(resolve(preset, None, [*small, *settings], {}), data, device)
        return make_trainer(
            RunFolder(self.out / "nothing is written here"),
            data,
            config,
            describe(data, config.model, preset),
            [data.item_ids[item] for item in training_items(data)],
            World(0, 1, device),
            lambda words: None,
        )


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        name: Its name in the report.
        seconds: What it needs at least, with a GPU and at full size.
        run: Gives its result.
    """

    name: str
    seconds: float
    run: Callable[[Kit], Report]


def facts(kit: Kit) -> Report:
    """The machine, and what it can do at best."""
    found: Report = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "device": str(kit.device),
    }
    if kit.on_gpu:
        about = torch.cuda.get_device_properties(kit.device)
        found |= {
            "gpu": about.name,
            "capability": f"{about.major}.{about.minor}",
            "GiB": about.total_memory / 2**30,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    size = 8192 if kit.on_gpu else kit.sizes(1024, 128)
    for name, dtype, tf32 in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        with _tf32(tf32):
            found[f"{name} TFlop/s"] = matmul_peak(kit.device, dtype, size) / 1e12
    x = torch.zeros(8, device=kit.device)
    launches = 2000
    kit.finish()
    began = time.perf_counter()
    for _ in range(launches):
        x.add_(1)
    kit.finish()
    found["microseconds a launch"] = (time.perf_counter() - began) / launches * 1e6
    return found


def agreement(kit: Kit) -> Report:
    """Losses of the same steps on the CPU, and on the device in float32 and in bfloat16."""
    found: Report = {}
    steps = kit.sizes(20, 3)
    for preset in PRESETS:
        runs: dict[str, list[float]] = {}
        begun: dict[str, Tensor] | None = None
        for name, device, precision in (
            ("cpu", torch.device("cpu"), "float32"),
            ("float32", kit.device, "float32"),
            ("bfloat16", kit.device, "bfloat16"),
        ):
            trainer = kit.trainer(preset, *STILL, f"training.precision={precision}", device=device)
            if begun is None:
                begun = {n: w.clone() for n, w in trainer.state.model.state_dict().items()}
            trainer.state.model.load_state_dict(begun)  # content's directions are found by chance
            runs[name] = [
                float(trainer.step(*bounds)["recommendation"])
                for bounds in batches_of(trainer, steps)
            ]
        far = {
            name: max(abs(a - b) / abs(a) for a, b in zip(runs["cpu"], runs[name], strict=True))
            for name in CLOSE
        }
        found[preset] = {
            "steps": steps,
            "first": runs["cpu"][0],
            "last": runs["cpu"][-1],
            **{f"{name} off by": off for name, off in far.items()},
            "agrees": all(far[name] <= most for name, most in CLOSE.items()),
        }
    found["repeated to the bit"] = _repeats(kit)
    return found


def _repeats(kit: Kit) -> bool:
    """Whether two trainings with training.deterministic are the same."""
    runs = []
    with repeatable(kit.device, True):
        for _ in range(2):
            trainer = kit.trainer("cammsr")
            torch.manual_seed(0)
            steps = batches_of(trainer, kit.sizes(10, 2))
            runs.append([float(trainer.step(*bounds)["recommendation"]) for bounds in steps])
    return runs[0] == runs[1]


def speed(kit: Kit) -> Report:
    """Events a second, kernels, waits and memory: by preset, width and precision."""
    found: Report = {}
    reserved = max(15.0, kit.left - 120)  # for the parts that follow
    for width in (16,) if kit.small else (64, 128, 256):
        for preset in PRESETS:
            for precision in ("bfloat16", "float32"):
                if kit.left < reserved:
                    return {**found, "left out": f"from {preset} {width} {precision} on"}
                settings = (f"model.width={width}", f"training.precision={precision}")
                found[f"{preset} {width} {precision}"] = _speed(kit, preset, *settings)
    with repeatable(kit.device, True):
        found["cammsr, deterministic"] = _speed(kit, "cammsr")
    return found


def _speed(kit: Kit, preset: str, *settings: str) -> Report:
    if kit.on_gpu:
        torch.cuda.reset_peak_memory_stats(kit.device)
    trainer = kit.trainer(preset, *settings)
    warm, measured = kit.sizes(15, 1), kit.sizes(40, 2)
    batches = list(batches_of(trainer, warm + measured))
    for bounds in batches[:warm]:
        trainer.step(*bounds)
    kit.finish()
    began = time.perf_counter()
    for bounds in batches[warm:]:
        trainer.step(*bounds)
    kit.finish()
    seconds = time.perf_counter() - began
    events = sum(int((end - start).sum()) for start, end in batches[warm:])
    found: Report = {"events/s": events / seconds, "ms a step": seconds / measured * 1e3}
    if not kit.on_gpu:
        return found
    few = batches[:3]
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for bounds in few:
            trainer.step(*bounds)
        kit.finish()
    kernels = [event for event in profiled.events() or [] if event.device_type == DeviceType.CUDA]
    attention = {k.name[:80] for k in kernels if any(w in k.name.lower() for w in ATTENTION)}
    return {
        **found,
        "kernels a step": len(kernels) / len(few),
        "busy ms a step": sum(k.self_device_time_total for k in kernels) / len(few) / 1e3,
        "waits a step": _waits(lambda: trainer.step(*batches[0])),
        "attention": sorted(attention),
        "peak GiB": torch.cuda.max_memory_allocated(kit.device) / 2**30,
    }


def _waits(run: Callable[[], object]) -> int:
    """How often the host waits for the GPU, as torch warns of it."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return len(warned)


def training(kit: Kit) -> Report:
    """Whole trainings to their early stop, with the clock."""
    found: Report = {}
    for at, preset in enumerate(PRESETS):
        limit = max(30.0, (kit.left - 40) / (len(PRESETS) - at))
        few = ("--set", "training.epochs=2", "--set", "model.width=16") if kit.small else ()
        words = ("--out", kit.out / preset, "--preset", preset, "--force", *few)
        ended = _tool(kit, "train", kit.data, *words, limit=limit)
        metrics = RunFolder(kit.out / preset).metrics.read_text(encoding="utf-8").splitlines()
        lines = [json.loads(line) for line in metrics]
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
            asked = questions(loaded.data, TEST)
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
    stopped = _tool(kit, "train", kit.data, *words, "--force", limit=90, stop=run / "checkpoints")
    resumed = _tool(kit, "train", kit.data, "--out", run, "--resume", limit=90)
    lines = RunFolder(run).metrics.read_text(encoding="utf-8").splitlines()
    return {
        "stopped": stopped,
        "gone on": resumed,
        "every epoch once": [json.loads(x)["epoch"] for x in lines] == list(range(1, epochs + 1)),
        "finished": RunFolder(run).finished,
    }


def out_of_memory(kit: Kit) -> Report:
    """A step and a validation where the card has a fiftieth of its memory left for them."""
    if not kit.on_gpu:
        return {"left out": "there is no GPU whose memory could be limited"}
    trainer = kit.trainer("cammsr", "training.batch_size=4096")
    notes: list[str] = []
    trainer.step.note = notes.append
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(kit.device).total_memory
    used = torch.cuda.memory_reserved(kit.device) / whole
    torch.cuda.set_per_process_memory_fraction(used + 0.02, kit.device)
    try:
        trainer.step(*next(batches_of(trainer, 1)))
        ndcg, _ = trainer.validation.measure(trainer.state.averaged)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, kit.device)
    return {"notes": notes, "histories at once": trainer.step.micro_batch, "NDCG@10": ndcg}


PARTS = (
    Part("facts", 5, facts),
    Part("agreement", 40, agreement),
    Part("speed", 60, speed),
    Part("training", 80, training),
    Part("evaluation", 30, evaluation),
    Part("one user", 15, one_user),
    Part("resuming", 45, resuming),
    Part("out of memory", 15, out_of_memory),
)


def run(kit: Kit) -> bool:
    """Carry out all parts there is time for; whether none failed."""
    whole = True
    for part in PARTS:
        needed = 0 if kit.small else part.seconds
        began = time.monotonic()
        if kit.left < needed:
            result: Report = {"left out": f"it needs {needed:.0f} s, and {kit.left:.0f} are left"}
        else:
            try:
                result = part.run(kit)
            except Exception as error:  # the other parts are worth having
                traceback.print_exc()
                result = {"failed": f"{type(error).__name__}: {error}"}
                whole = False
        kit.report[part.name] = {"seconds": time.monotonic() - began, **result}
        print(f"{part.name}: {json.dumps(kit.report[part.name])}", flush=True)
        with written_whole(kit.out / "report.json") as partial:
            partial.write_text(json.dumps(kit.report, indent=1) + "\n", encoding="utf-8")
    return whole


def _trained(kit: Kit) -> list[str]:
    return [preset for preset in PRESETS if RunFolder(kit.out / preset).finished]


def _tool(kit: Kit, *words: object, limit: float, stop: Path | None = None) -> Report:
    """Run the tool on the device, in a process of its own.

    It is asked to end after `limit` seconds, or as soon as the folder `stop` has a checkpoint.
    """
    command = [sys.executable, "-m", "cammsr_cli", *map(str, words)]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--device", str(kit.device)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if stop is not None:
        while process.poll() is None and time.monotonic() - began < limit:
            if any(stop.glob("step-*")):
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.05)
    try:
        _, err = process.communicate(timeout=max(1.0, limit - (time.monotonic() - began)))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    return {
        "exit code": process.returncode,
        "wall seconds": time.monotonic() - began,
        "said last": err.strip().splitlines()[-3:],
    }


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Within it, CUDA may round products of float32 to 10 bits, or may not."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def main() -> None:
    """Run all parts; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with one data set, .h5")
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument("--seconds", type=float, default=480, help="when to have ended")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--small", action="store_true", help="a little of everything")
    options = parser.parse_args()
    found = sorted(options.data.glob("*.h5"))
    if len(found) != 1:
        parser.error(f"--data {options.data}: there are {len(found)} data sets (*.h5), not one")
    options.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + options.seconds
    device = resolve_device(options.device)
    kit = Kit(found[0].resolve(), options.out.resolve(), device, options.small, ends)
    sys.exit(0 if run(kit) else 1)


if __name__ == "__main__":
    main()
