"""One run on a machine with a GPU, within a few minutes: is all right there, and how fast is it.

    python -m benchmarks.cuda --data DIR --out DIR [--seconds 480] [--device cpu --small]

DIR of --data holds a data set that `cammsr prepare` made, NAME.h5, and may hold a text model for
sentence-transformers, minilm/, of which its configuration and tokenizer are enough. What tells most
comes first; whole trainings come late, as they take all the time there is. The result of each part
is in report.json as soon as that part ends, of one that fails with its traceback, and what there is
no time for is left out and named. Where a failure leaves the GPU of no use to this process, another
goes on. It needs neither a network nor what only `prepare` needs. With `--device cpu --small` all
of it runs on a CPU in a minute, to see that it does; its figures mean nothing then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.cuda_commands import evaluation, one_user, resuming, training
from benchmarks.cuda_encoding import encoding
from benchmarks.cuda_kit import Kit, Part, Report
from benchmarks.cuda_model import agreement, facts, out_of_memory, speed
from benchmarks.options import names_among
from cammsr_cli.devices import resolve_device
from cammsr_cli.files import written_whole

PARTS = (
    Part("facts", 5, facts),
    Part("agreement", 40, agreement),
    Part("speed", 60, speed),
    Part("resuming", 45, resuming),
    Part("encoding", 45, encoding),
    Part("training", 80, training),
    Part("evaluation", 20, evaluation),
    Part("one user", 15, one_user),
    Part("out of memory", 15, out_of_memory),
)


def run(kit: Kit, parts: Sequence[Part]) -> bool:
    """Carry out all parts there is time for; whether none failed."""
    whole = True
    for at, part in enumerate(parts):
        kit.report[part.name] = _result(kit, part)
        print(f"{part.name}: {json.dumps(kit.report[part.name])}", flush=True)
        with written_whole(kit.out / "report.json") as partial:
            partial.write_text(json.dumps(kit.report, indent=1) + "\n", encoding="utf-8")
        if "failed" in kit.report[part.name]:
            whole = False
            if not usable(kit) and parts[at + 1 :]:
                _go_on(kit, parts[at + 1 :])
                break
    return whole


def _result(kit: Kit, part: Part) -> Report:
    needed = 0 if kit.small else part.seconds
    if kit.left < needed:
        return {"left out": f"it needs {needed:.0f} s, and {kit.left:.0f} are left"}
    began = time.monotonic()
    try:
        result = part.run(kit)
    except Exception as error:  # the other parts are worth having
        traceback.print_exc()
        told = traceback.format_exc().splitlines()
        result = {"failed": f"{type(error).__name__}: {error}", "traceback": told[-20:]}
    return {"seconds": time.monotonic() - began, **result}


def usable(kit: Kit) -> bool:
    """Whether the device still computes for this process: some errors of a GPU are for good."""
    try:
        return float(torch.ones(2, device=kit.device).sum()) == 2
    except RuntimeError:
        return False


def _go_on(kit: Kit, parts: Sequence[Part]) -> None:
    """Carry out the parts in a process of its own, which adds to the report."""
    command = [sys.executable, "-m", "benchmarks.cuda"]
    command += ["--data", str(kit.data.parent), "--out", str(kit.out), "--device", str(kit.device)]
    command += ["--seconds", str(kit.left), "--parts", ",".join(part.name for part in parts)]
    subprocess.run([*command, *(["--small"] if kit.small else [])], check=False)


def main() -> None:
    """Run all parts; exit code 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with one data set, .h5")
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument("--seconds", type=float, default=480, help="when to have ended")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--small", action="store_true", help="a little of everything")
    names = [part.name for part in PARTS]
    parser.add_argument(
        "--parts", type=names_among(names), help="these alone, added to the report that is there"
    )
    options = parser.parse_args()
    found = sorted(options.data.glob("*.h5"))
    if len(found) != 1:
        parser.error(f"--data {options.data}: there are {len(found)} data sets (*.h5), not one")
    options.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + options.seconds
    device = resolve_device(options.device)
    kit = Kit(found[0].resolve(), options.out.resolve(), device, options.small, ends)
    before = kit.out / "report.json"
    if options.parts and before.is_file():
        kit.report |= json.loads(before.read_text(encoding="utf-8"))
    parts = [part for part in PARTS if not options.parts or part.name in options.parts]
    sys.exit(0 if run(kit, parts) else 1)


if __name__ == "__main__":
    main()
