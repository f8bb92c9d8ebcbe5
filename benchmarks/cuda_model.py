"""Of the run on a machine with a GPU: the machine, and the steps of a training; see cuda.py."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cuda_kit import PRESETS, Kit, Report
from benchmarks.train import batches_of, matmul_peak, planned_steps
from cammsr_cli.devices import repeatable

STILL = (
    "model.dropout=0",
    "model.id_dropout=0",
    "training.shuffle_ties=false",
    "training.sampled_softmax_above=1000000000",
)
"""With these, nothing in a step is left to chance, which each device has its own of."""

CLOSE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Losses that differ by no more, as a share, are the same; 20 steps let rounding grow."""

ATTENTION = ("fmha", "flash", "sdpa", "attention")
"""Words in the names of attention's kernels."""


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
    peaks = kit.report.get("facts", {})
    reserved = max(15.0, kit.left - 110)  # for the parts that follow
    for width in (16,) if kit.small else (64, 128, 256):
        for preset in PRESETS:
            for precision in ("bfloat16", "float32"):
                if kit.left < reserved:
                    return {**found, "left out": f"from {preset} {width} {precision} on"}
                settings = (f"model.width={width}", f"training.precision={precision}")
                one = _speed(kit, preset, *settings)
                if (peak := peaks.get(f"{precision} TFlop/s")) is not None:
                    one["share of peak"] = one["TFlop/s"] / peak
                found[f"{preset} {width} {precision}"] = one
    with repeatable(kit.device, True):
        found["cammsr, deterministic"] = _speed(kit, "cammsr")
    return found


def _speed(kit: Kit, preset: str, *settings: str) -> Report:
    if kit.on_gpu:
        torch.cuda.reset_peak_memory_stats(kit.device)
    trainer = kit.trainer(preset, *settings)
    warm, measured = kit.sizes(15, 1), kit.sizes(40, 2)
    with closing(planned_steps(trainer, warm + measured)) as steps:  # as a training plans them
        for planned in islice(steps, warm):
            trainer.step.make(planned)
        kit.finish()
        began = time.perf_counter()
        events = 0
        for planned in steps:
            trainer.step.make(planned)
            events += int((planned.end_W - planned.start_W).sum())
        kit.finish()
        seconds = time.perf_counter() - began
    batches = list(batches_of(trainer, 3))
    began = time.perf_counter()
    for bounds in batches:
        trainer.step(*bounds)
    kit.finish()
    as_needed = (time.perf_counter() - began) / len(batches)
    with FlopCounterMode(display=False) as counter:
        trainer.step(*batches[0])
    found: Report = {
        "events/s": events / seconds,
        "ms a step": seconds / measured * 1e3,
        "ms a step, planned as needed": as_needed * 1e3,
        "TFlop/s": counter.get_total_flops() / (seconds / measured) / 1e12,
    }
    if not kit.on_gpu:
        return found
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for bounds in batches:
            trainer.step(*bounds)
        kit.finish()
    kernels = [event for event in profiled.events() or [] if event.device_type == DeviceType.CUDA]
    attention = {k.name[:80] for k in kernels if any(w in k.name.lower() for w in ATTENTION)}
    return {
        **found,
        "kernels a step": len(kernels) / len(batches),
        "busy ms a step": sum(k.self_device_time_total for k in kernels) / len(batches) / 1e3,
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


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Within it, CUDA may round products of float32 to 10 bits, or may not."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
