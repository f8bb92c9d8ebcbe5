"""The whole path on MovieLens 100K: every command's figures, wall time and peak memory.

    python -m benchmarks.ml100k [--data FOLDER] [--work FOLDER] [--seed N]

FOLDER holds `ml100k/` with interactions.csv.gz, items.jsonl and posters/ (not part of the project;
../shared/data by default, or CAMMSR_TEST_DATA). Prints a Markdown table for docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.data_sets import RAW
from benchmarks.processes import cammsr


def main() -> None:
    """Run the commands and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=RAW)
    parser.add_argument("--work", type=Path, help="kept if given; else a temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    raw = (options.data / "ml100k").resolve()
    if not raw.is_dir():
        sys.exit(f"no {raw}: give the folder that holds ml100k with --data")
    work = options.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    os.environ["CAMMSR_CACHE_DIR"] = str(work / "cache")  # empty: the time is of real encoding
    shutil.rmtree(work / "cache", ignore_errors=True)
    Path("ml100k").unlink(missing_ok=True)
    Path("ml100k").symlink_to(raw)
    seed = ("--seed", str(options.seed))
    prepare = ("prepare", "ml100k", "--out", "ml100k.h5", "--force")
    steps = [
        cammsr(*prepare, "--encoder", "text", "--encoder", "image"),
        cammsr(*prepare, "--encoder", "text", "--encoder", "image"),
        cammsr("train", "ml100k.h5", "--out", "run", "--force", *seed),
        cammsr("train", "ml100k.h5", "--out", "baseline", "--preset", "sasrec", "--force", *seed),
        cammsr("evaluate", "run", "--against", "baseline", "--json"),
        cammsr("evaluate", "run", "--against", "baseline", "--keep-seen", "--json"),
        cammsr("recommend", "run", "--user", "1"),
    ]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, seed {options.seed}"
    )
    print("\n| command | wall s | peak MB |\n|---|---:|---:|")
    for step in steps:
        print(f"| `{step.command}` | {step.seconds:.1f} | {step.megabytes:.0f} |")
    for step in steps[4:6]:
        _print_accuracy(json.loads(step.out))
    if options.work is None:
        shutil.rmtree(work)


def _print_accuracy(evaluation: dict[str, dict[str, dict[str, float]]]) -> None:
    seen = "excluded" if evaluation["seen_excluded"] else "kept"
    print(f"\ntest, {evaluation['users']} users, {evaluation['items']} items, seen items {seen}:\n")
    print("| metric | cammsr | popularity | cammsr − sasrec |\n|---|---|---|---|")
    for name, own in evaluation["model"].items():
        popular, delta = evaluation["popularity"][name], evaluation["against"][name]
        print(
            f"| {name} | {own['mean']:.4f} [{own['low']:.4f}, {own['high']:.4f}] "
            f"| {popular['mean']:.4f} [{popular['low']:.4f}, {popular['high']:.4f}] "
            f"| {delta['mean']:+.4f} [{delta['low']:+.4f}, {delta['high']:+.4f}] |"
        )


if __name__ == "__main__":
    main()
