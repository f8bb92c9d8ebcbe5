"""An encoder of a stranger, installed in a folder: quick, and its vectors tell of their batch."""

from __future__ import annotations

from pathlib import Path

MODULE = '''"""Reads titles and the content of pictures' files."""
import os
import time
from pathlib import Path

import numpy as np


class Counting:
    api, modality, fields, dim = 1, "count", ("title", "image"), 3

    def __init__(self, model=None, *, device, precision, factor="1"):
        self.device, self.factor = device, float(factor)
        self.fingerprint = f"counting {factor}"

    def cost(self, item):
        return float(len(item.get("title", "")))

    def load(self, item):
        text = item.get("title", "") + (Path(item["image"]).read_text() if "image" in item else "")
        if text.startswith("bad"):
            raise ValueError("a bad one")
        if text == "crash":
            os._exit(7)
        if text == "hang":
            time.sleep(600)
        return text

    def encode(self, samples):
        if told := os.environ.get("COUNTING_TOLD"):
            # Which process did it, on which device: a file each.
            (Path(told) / f"{self.device} {os.getpid()}").touch()
            together, end = int(os.environ.get("COUNTING_TOGETHER", "0")), time.monotonic() + 60
            while len(os.listdir(told)) < together:
                assert time.monotonic() < end, "nobody else encodes"
                time.sleep(0.02)
        if "fault" in samples:
            raise RuntimeError("a stranger's fault")
        if "die" in samples:
            os._exit(9)
        total = sum(map(len, samples))
        counts = [[len(one), total, sum(map(ord, one)) % 997] for one in samples]
        return np.array(counts, np.float32) * self.factor
'''


def install(folder: Path) -> Path:
    """Install the encoder `counting` in a folder, to be put on the path."""
    described = folder / "counting-1.dist-info"
    described.mkdir(parents=True)
    (folder / "counting.py").write_text(MODULE)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[cammsr.encoders]\ncounting = counting:Counting\n")
    return folder


def write_shop(folder: Path, items: int, titles: dict[int, str] | None = None) -> Path:
    """Raw files: titles of all lengths, some alike, some bad; pictures, some of them missing."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    lines = ["item,title,image"]
    for item in range(items):
        title = (titles or {}).get(item, "bad" if item % 11 == 10 else "x" * (item % 37))
        picture = f"pictures/{item}.txt" if item % 3 == 0 else ""
        if item % 6 == 0:
            (folder / picture).write_text(f"picture {item // 12}")
        lines.append(f"i{item},{title},{picture}")
    (folder / "items.csv").write_text("\n".join(lines) + "\n")
    events = [f"u{event % 7},i{event % items},{event}" for event in range(3 * items)]
    (folder / "interactions.csv").write_text("user,item,timestamp\n" + "\n".join(events) + "\n")
    return folder
