"""Plugins of strangers: found, listed and used when sound, told of and harmless when broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The example plugin, really built and installed, and one that raises on import."""
    folder = tmp_path_factory.mktemp("plugins")
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
            "--no-index", "--target", folder, PROJECT / "examples" / "custom_encoder",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    (folder / "broken_plugin.py").write_text("raise RuntimeError('I am broken')\n")
    described = folder / "broken_plugin-0.3.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: broken-plugin\nVersion: 0.3\n"
    )
    (described / "entry_points.txt").write_text("[cammsr.encoders]\nsmell = broken_plugin:Smell\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


def cammsr(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cammsr_cli", *(str(one) for one in arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_plugins_are_listed_the_broken_one_with_its_reason(plugins: dict[str, str]) -> None:
    done = cammsr(plugins, "encoders", "--json")
    assert done.returncode == 0, done.stderr
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert listed["colour"]["broken"] is None
    assert "I am broken" in listed["smell"]["broken"]
    assert listed["smell"]["distribution"] == "broken-plugin"
    assert {"text", "image", "video"} <= set(listed)


def test_plugin_is_used_beside_a_broken_one(plugins: dict[str, str], shop, tmp_path: Path) -> None:
    out = tmp_path / "coloured.h5"
    done = cammsr(plugins, "prepare", shop.folder, "--out", out, "--encoder", "colour", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["modalities"]["colour"]["present"] > 150
    run = tmp_path / "run"
    done = cammsr(plugins, "train", out, "--out", run, "--set", "training.epochs=1")
    assert done.returncode == 0, done.stderr
    done = cammsr(plugins, "recommend", run, "--user", "user-0001", "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)[0]["recommendations"][0]
    assert set(first["weights"]) == {"id", "colour"}


def test_broken_plugin_is_an_error_only_where_it_is_asked_for(
    plugins: dict[str, str], shop, tmp_path: Path
) -> None:
    out = tmp_path / "smelly.h5"
    done = cammsr(plugins, "prepare", shop.folder, "--out", out, "--encoder", "smell")
    assert done.returncode == 1
    assert "I am broken" in done.stderr
    assert "broken-plugin" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
