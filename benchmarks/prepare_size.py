"""Memory of `prepare` against the catalogue's size, stage by stage, and how fast the result opens.

    python -m benchmarks.prepare_size --work FOLDER [--items 1000 1000000]
    python -m benchmarks.prepare_size --work FOLDER --rows 10000000

The second reads and writes interactions alone, ten an item, and tells seconds and peak memory. To
compare two versions of the tool, run it from both, by turns.

The catalogue is synthetic: a title and a description of its own for each item, one small picture a
thousand items, two events an item. The first size is small: its peak is the memory of the tool
and its models, and what the others need above it is what the catalogue costs. Pictures go through
the real image model. Texts go through a stand-in encoder, a plugin that is installed beside the
data and makes 384 numbers of a text by hashing it: a language model would take hours for a million
texts here, and its memory does not depend on how many there are.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.size import resident_megabytes

ITEMS_A_PICTURE, EVENTS_A_USER, EVENTS_AN_ITEM = 1000, 10, 2
ROWS_AN_ITEM = 10

PLUGIN = '''"""A stand-in for a language model: a vector that follows from the text."""
import hashlib

import numpy as np


class Hashed:
    api, modality, fields, dim, fingerprint = 1, "text", ("title", "description"), 384, "hashed 1"

    def __init__(self, model=None, *, device, precision):
        pass

    def cost(self, item):
        return float(sum(map(len, item.values())))

    def load(self, item):
        return "\\n".join(item.values())

    def encode(self, samples):
        digests = [hashlib.shake_256(one.encode()).digest(384) for one in samples]
        return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 384) / np.float32(255)
'''


def install_plugin(folder: Path) -> None:
    """The stand-in encoder as an installed distribution."""
    described = folder / "hashed-1.dist-info"
    described.mkdir(parents=True, exist_ok=True)
    (folder / "hashed.py").write_text(PLUGIN)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: hashed\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[cammsr.encoders]\nhashed = hashed:Hashed\n")


def write_catalogue(folder: Path, items: int) -> None:
    """Raw files of the given size, the same at each call."""
    from PIL import Image

    draw = random.Random(0)
    words = ["".join(draw.choices("aeiouklmnrst", k=draw.randint(3, 9))) for _ in range(5000)]
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for picture in range(-(-items // ITEMS_A_PICTURE)):
        colours = bytes(draw.randrange(256) for _ in range(3 * 16))
        small = Image.frombytes("RGB", (4, 4), colours).resize((96, 96))
        small.save(folder / "pictures" / f"{picture}.jpg")
    with (folder / "items.jsonl").open("w") as stream:
        for item in range(items):
            record = {
                "item": f"item-{item:07d}",
                "title": " ".join(draw.choices(words, k=6)),
                "description": " ".join(draw.choices(words, k=draw.randint(5, 60))),
                "category": words[draw.randrange(50)],
                "image": f"pictures/{item // ITEMS_A_PICTURE}.jpg",
            }
            stream.write(json.dumps(record) + "\n")
    with (folder / "interactions.csv").open("w") as stream:
        stream.write("user,item,timestamp\n")
        for event in range(EVENTS_AN_ITEM * items):
            item = int(items * draw.random() ** 2)
            stream.write(f"user-{event // EVENTS_A_USER},item-{item:07d},{10**9 + event}\n")


def write_rows(path: Path, rows: int) -> None:
    """Interactions of the given number, the same at each call, in no order."""
    draw = random.Random(0)
    items = rows // ROWS_AN_ITEM
    with path.open("w") as stream:
        stream.write("user,item,timestamp\n")
        for event in range(rows):
            item = int(items * draw.random() ** 2)
            user, second = draw.randrange(rows // EVENTS_A_USER), 10**9 + event * 7919 % rows
            stream.write(f"user-{user},item-{item:07d},{second}\n")


def measure_rows(path: Path, out: Path) -> dict[str, Any]:
    """Prepare interactions alone, in this process."""
    from cammsr_cli.data.corpus import SourceOptions
    from cammsr_cli.prepare.options import PrepareOptions
    from cammsr_cli.prepare.run import prepare

    @contextmanager
    def no_bar(name: str) -> Iterator[Any]:
        yield lambda *_: None

    began = time.perf_counter()
    report = prepare(PrepareOptions(SourceOptions(path), out, force=True), no_bar)
    return {
        "seconds": time.perf_counter() - began,
        "processor": time.process_time(),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "items": report.items,
        "events": report.events,
    }


def main_rows(work: Path, rows: int) -> None:
    """Write the interactions, prepare them in a process of its own, print."""
    path, told = work / f"rows-{rows}.csv", work / f"rows-{rows}.json"
    work.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_rows(path, rows)
    arguments = ["--measure-rows", path, work / f"rows-{rows}.h5", told]
    command = [sys.executable, "-m", "benchmarks.prepare_size", *map(str, arguments)]
    process = os.posix_spawn(command[0], command, os.environ)
    if os.waitpid(process, 0)[1]:
        sys.exit(f"failed at {rows:,} rows")
    found = json.loads(told.read_text())
    print(
        f"{found['events']:,} of {rows:,} rows, {found['items']:,} items: "
        f"{found['seconds']:.1f} s ({found['processor']:.1f} s of a processor), "
        f"peak {found['peak']:,.0f} MB"
    )


class Stages:
    """The most resident memory in each stage of this process."""

    def __init__(self) -> None:
        self.peaks: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.stage, self._since = "start", time.perf_counter()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(0.02)

    def _look(self) -> None:
        stage = self.stage
        self.peaks[stage] = max(self.peaks.get(stage, 0.0), resident_megabytes())

    def enter(self, stage: str) -> None:
        """End the present stage and begin another."""
        self._look()
        now = time.perf_counter()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self._since
        self.stage, self._since = stage, now


def measure(folder: Path, out: Path) -> dict[str, Any]:
    """Prepare the catalogue in `folder` twice, and open the result, in this process."""
    from cammsr_cli.cache_folder import cache_folder
    from cammsr_cli.data.corpus import SourceOptions
    from cammsr_cli.data.dataset import DataSet
    from cammsr_cli.encoding.features import FeatureOptions
    from cammsr_cli.plugins.registry import EncoderSpec
    from cammsr_cli.prepare.options import PrepareOptions
    from cammsr_cli.prepare.run import prepare

    stages = Stages()

    @contextmanager
    def staged(name: str) -> Iterator[Any]:
        stages.enter(f"{run}: {name}")
        yield lambda *_: None
        stages.enter(f"{run}: write")

    for run in ("first run", "second run"):
        stages.enter(f"{run}: read")
        options = PrepareOptions(
            source=SourceOptions(folder),
            out=out,
            encoders=[EncoderSpec("hashed"), EncoderSpec("image", options={"size": "96"})],
            media_root=folder,
            features=FeatureOptions(cache_dir=cache_folder()),
            force=True,
        )
        report = prepare(options, staged)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    stages.enter("open")
    began = time.perf_counter()
    data = DataSet(out)
    vectors = {name: data.vectors(name) for name in data.modalities}
    opened = time.perf_counter() - began
    began = time.perf_counter()
    named = len(data.item_ids)
    names = time.perf_counter() - began
    stages.enter("end")
    assert named == report.items
    assert all(present.all() for _, present in vectors.values())
    return {
        "items": named,
        "peak": peak,
        "open_seconds": opened,
        "names_seconds": names,
        "content": data.content,
        "bytes": report.bytes,
        "stages": {one: (stages.peaks[one], stages.seconds[one]) for one in stages.seconds},
    }


def main() -> None:
    """Write the catalogues, measure each in a process of its own, print."""
    if sys.argv[1:2] == ["--measure"]:
        folder, out, told = map(Path, sys.argv[2:])
        told.write_text(json.dumps(measure(folder, out)))
        return
    if sys.argv[1:2] == ["--measure-rows"]:
        rows, out, told = map(Path, sys.argv[2:])
        told.write_text(json.dumps(measure_rows(rows, out)))
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="for the data; 12 GB at 1,000,000")
    parser.add_argument("--items", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--rows", type=int, help="instead: interactions alone")
    options = parser.parse_args()
    if options.rows is not None:
        main_rows(options.work, options.rows)
        return
    plugin = options.work / "plugin"
    install_plugin(plugin)
    path = os.pathsep.join(filter(None, [str(plugin), os.environ.get("PYTHONPATH")]))
    small = None
    for items in options.items:
        folder = options.work / f"catalogue-{items}"
        if not (folder / "interactions.csv").is_file():
            write_catalogue(folder, items)
        cache, told = options.work / f"cache-{items}", options.work / f"{items}.json"
        shutil.rmtree(cache, ignore_errors=True)
        arguments = ["--measure", folder, options.work / f"{items}.h5", told]
        command = [sys.executable, "-m", "benchmarks.prepare_size", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": path, "CAMMSR_CACHE_DIR": str(cache)}
        process = os.posix_spawn(command[0], command, environment)
        if os.waitpid(process, 0)[1]:
            sys.exit(f"failed at {items:,} items")
        found = json.loads(told.read_text())
        small = small or found
        print(f"\n{items:,} items, {found['bytes'] / 1e6:,.0f} MB, content {found['content'][:12]}")
        print("\n| stage | s | peak MB | above the smallest |\n|---|---:|---:|---:|")
        for stage, (peak, seconds) in found["stages"].items():
            above = peak - small["stages"][stage][0]
            print(f"| {stage} | {seconds:.1f} | {peak:,.0f} | {above:+,.0f} |")
        print(f"| whole | | {found['peak']:,.0f} | {found['peak'] - small['peak']:+,.0f} |")
        print(
            f"\nopened in {found['open_seconds']:.3f} s, all item ids read in "
            f"{found['names_seconds']:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
