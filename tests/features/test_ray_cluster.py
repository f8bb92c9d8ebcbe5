"""A real Ray cluster of two nodes on this machine gives what one process gives."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from plugin_folder import install, write_shop

RAY = importlib.util.find_spec("ray") is not None

CLUSTER = """
import sys, os
from ray.cluster_utils import Cluster
from typer.testing import CliRunner
from cammsr_cli.app import app
small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=small)
cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
cluster.wait_for_nodes()
os.environ["RAY_ADDRESS"] = cluster.address
codes = []
for arguments in sys.argv[1].split(";;"):
    answer = CliRunner().invoke(app, arguments.split(";"))
    encoders = len(os.listdir(os.environ["COUNTING_TOLD"]))
    codes.append((answer.exit_code, answer.stdout, answer.stderr, encoders))
cluster.shutdown()
import json
print("ANSWERS" + json.dumps(codes))
"""


@pytest.mark.skipif(not RAY, reason="ray is not installed: pip install 'cammsr[ray]'")
def test_two_nodes_give_what_one_process_gives(
    tmp_path: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin, told = install(tmp_path / "plugin"), tmp_path / "told"
    told.mkdir()
    shop = write_shop(tmp_path / "shop", 150)
    bad = write_shop(tmp_path / "bad shop", 20, {3: "fault"})
    monkeypatch.syspath_prepend(str(plugin))
    common = ("--encoder", "counting", "--batch-size", "4")
    answer = cammsr("prepare", shop, "--out", tmp_path / "one.h5", *common)
    assert answer.code == 0, answer.err
    commands = [
        ["prepare", folder, "--out", tmp_path / f"{name}.h5", *common, "--engine", "ray", "--json"]
        for folder, name in ((shop, "ray"), (bad, "bad"))
    ]
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, ";;".join(";".join(map(str, one)) for one in commands)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(plugin), os.environ.get("PYTHONPATH", "")]),
            "CAMMSR_CACHE_DIR": str(tmp_path / "cache"),
            "COUNTING_TOLD": str(told),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    good, bad = json.loads(done.stdout.partition("ANSWERS")[2])
    assert good[0] == 0, good
    report = json.loads(good[1])["modalities"]["count"]
    assert report["encoded"] > 0
    assert good[3] == 2  # encoders: one a node, which has one processor
    with h5py.File(tmp_path / "one.h5") as one, h5py.File(tmp_path / "ray.h5") as other:
        assert one.attrs["content"] == other.attrs["content"]
        for name in ("values", "present", "inputs"):
            ours, theirs = one[f"features/count/{name}"][()], other[f"features/count/{name}"][()]
            np.testing.assert_array_equal(ours, theirs)
    assert bad[0] == 1
    assert "encoder 'counting' failed on a batch" in bad[2]
    assert not (tmp_path / "bad.h5").exists()


@pytest.mark.skipif(RAY, reason="ray is installed")
def test_without_ray_its_extra_is_named(
    tmp_path: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path / "plugin")))
    shop = write_shop(tmp_path / "shop", 5)
    given = ("--out", tmp_path / "x.h5", "--encoder", "counting", "--engine", "ray")
    answer = cammsr("prepare", shop, *given)
    assert answer.code == 2
    assert "pip install 'cammsr[ray]'" in answer.err
