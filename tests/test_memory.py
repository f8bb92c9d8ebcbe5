"""Memory of `prepare` does not grow with the vectors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

DIM = 2048
PLUGIN = f'''"""Long vectors of short texts, in no time."""
import numpy as np


class Long:
    api, modality, fields, dim, fingerprint = 1, "text", ("title",), {DIM}, "long 1"

    def __init__(self, model=None, *, device, precision):
        pass

    def load(self, item):
        return float(item["title"])

    def encode(self, samples):
        return np.repeat(np.array(samples, np.float32)[:, None], {DIM}, axis=1) / 1e6
'''


def _peak_megabytes(root: Path, items: int) -> float:
    """Of a process that prepares so many items, encoding all of them."""
    shop = root / str(items)
    shop.mkdir()
    lines = [f"i{item},{item}" for item in range(items)]
    (shop / "items.csv").write_text("\n".join(["item,title", *lines]))
    (shop / "interactions.csv").write_text("user,item,timestamp\nu,i0,0\nu,i1,1\nu,i2,2\n")
    command = [sys.executable, "-m", "cammsr_cli", "prepare", shop, "--out", root / f"{items}.h5"]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "CAMMSR_CACHE_DIR": str(root / f"cache {items}"),
    }
    process = os.posix_spawn(
        sys.executable, [*map(str, command), "--encoder", "long", "--json"], environment
    )
    _, status, used = os.wait4(process, 0)
    assert status == 0
    return used.ru_maxrss / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_vectors_are_not_held_in_memory(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text(PLUGIN)
    described = tmp_path / "long-1.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: long\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[cammsr.encoders]\nlong = long:Long\n")
    few, many = 10_000, 30_000
    vectors = (many - few) * DIM * 2 / 2**20  # as float16: 78 MB
    # Half of it is left to the items themselves, some hundred bytes each.
    assert _peak_megabytes(tmp_path, many) - _peak_megabytes(tmp_path, few) < vectors / 2
