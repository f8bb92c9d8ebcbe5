"""A real Ray cluster of two nodes on this machine gives what one process gives, busy or not."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from cammsr_encoders.protocol import Encoder
from plugin_folder import install, write_shop

from cammsr_cli.encoding.engine import Encoding
from cammsr_cli.encoding.ray_cluster import _actors, workers_a_gpu
from cammsr_cli.errors import UsageError

RAY = importlib.util.find_spec("ray") is not None

CLUSTER = """
import sys, os
import ray
from ray.cluster_utils import Cluster
from typer.testing import CliRunner
from cammsr_cli.app import app
small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=small)
cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
cluster.wait_for_nodes()
os.environ["RAY_ADDRESS"] = cluster.address
codes = []
for number, arguments in enumerate(sys.argv[1].split(";;")):
    if number == 2:  # from here on one of the two nodes is busy with other work
        ray.init(address=cluster.address, log_to_driver=False)
        class Other:
            def there(self):
                return True
        other = ray.remote(num_cpus=1)(Other).remote()
        assert ray.get(other.there.remote())
    answer = CliRunner().invoke(app, arguments.split(";"))
    encoders = len(os.listdir(os.environ["COUNTING_TOLD"]))
    codes.append((answer.exit_code, answer.stdout, answer.stderr, encoders))
ray.shutdown()
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
    hostile = write_shop(tmp_path / "hostile shop", 60, {4: "crash", 5: "hang"})
    monkeypatch.syspath_prepend(str(plugin))
    common = ("--encoder", "counting", "--batch-size", "2")
    answer = cammsr("prepare", shop, "--out", tmp_path / "one.h5", *common)
    assert answer.code == 0, answer.err
    commands = [
        ["prepare", folder, "--out", tmp_path / f"{name}.h5", *common, "--engine", "ray", "--json"]
        for folder, name in ((shop, "ray"), (bad, "bad"), (hostile, "hostile"))
    ]
    commands[2] += ["--decode-seconds", "3"]
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, ";;".join(";".join(map(str, one)) for one in commands)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(plugin), os.environ.get("PYTHONPATH", "")]),
            "CAMMSR_CACHE_DIR": str(tmp_path / "cache"),
            "COUNTING_TOLD": str(told),
            "COUNTING_TOGETHER": "2",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    good, bad, hostile = json.loads(done.stdout.partition("ANSWERS")[2])
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
    assert hostile[0] == 0, hostile
    listed = (tmp_path / "hostile.h5.problems.csv").read_text()
    assert "i4,count,,the decoding process died of it (exit code 7)" in listed
    assert "i5,count,,not decoded within 3 seconds" in listed


@pytest.mark.skipif(not RAY, reason="ray is not installed: pip install 'cammsr[ray]'")
def test_an_encoder_that_a_node_lacks_is_told_as_such() -> None:
    from cammsr_cli.encoding.ray_cluster import _Holder

    def make(device: str) -> Encoder:
        raise UsageError("no encoder 'counting'", "install it")

    told = _Holder(make, "cpu", Encoding("counting", 3)).begin()
    assert isinstance(told, UsageError)
    assert told.hint == "install it"


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


@pytest.mark.parametrize(
    ("nodes", "workers"),
    [
        ([{"CPU": 16, "GPU": 1}], 15),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], 3),
        ([{"CPU": 16, "GPU": 1}, {"CPU": 8, "GPU": 2}], 3),
        ([{"CPU": 2, "GPU": 4}], 0),
        ([{"GPU": 1}], 0),
    ],
)
def test_decoders_are_as_many_as_cores_can_be_reserved_for_them(
    nodes: list[dict[str, float]], workers: int
) -> None:
    assert workers_a_gpu(nodes) == workers


def test_an_actor_on_a_gpu_reserves_a_core_for_itself_and_each_decoder() -> None:
    asked: list[dict[str, object]] = []

    class Ray:
        """As much of Ray as making actors needs."""

        def cluster_resources(self) -> dict[str, float]:
            return {"CPU": 20.0, "GPU": 2.0}

        def nodes(self) -> list[dict[str, object]]:
            return [{"Resources": {"CPU": 10.0, "GPU": 1.0}}] * 2

        def remote(self, **needs: object) -> Callable[[type], object]:
            asked.append(needs)
            return lambda kind: SimpleNamespace(remote=lambda *given: given)

    actors = _actors(Ray(), str, "cuda", Encoding("one", 4, workers=6))  # type: ignore[arg-type]
    assert (asked[0]["num_gpus"], asked[0]["num_cpus"]) == (1, 7)
    assert [(where, encoding.workers) for _, where, encoding in actors] == [("cuda", 6)] * 2
    _actors(Ray(), str, "cpu", Encoding("one", 4, workers=6))  # type: ignore[arg-type]
    assert asked[1]["num_cpus"] == 1
