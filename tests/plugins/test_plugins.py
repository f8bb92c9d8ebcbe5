"""Plugins of strangers: found, listed and used when sound, told of and harmless when broken."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from cammsr_encoders.contract import CHECKS
from conftest import PROJECT

EXAMPLE = PROJECT / "examples" / "custom_encoder"


def install(package: Path, site: Path) -> None:
    """Build and install a package as a user does, but into a folder and without a network."""
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
            "--no-index", "--disable-pip-version-check", "--target", site, package,
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip


def describe(site: Path, distribution: str, version: str, entry: str) -> None:
    """What pip leaves of a package, beside its code: its name and its entry point."""
    told = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    (told / "entry_points.txt").write_text(f"[cammsr.encoders]\n{entry}\n")


def surroundings(site: Path) -> dict[str, str]:
    """An environment in which the packages of a folder are installed beside cammsr."""
    paths = [str(site), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The example plugin, really installed; one that raises on import; two of one name."""
    site = tmp_path_factory.mktemp("plugins")
    install(EXAMPLE, site)
    (site / "broken_plugin.py").write_text("raise RuntimeError('I am broken')\n")
    describe(site, "broken-plugin", "0.3", "smell = broken_plugin:Smell")
    describe(site, "one-taste", "1.0", "taste = cammsr_audio:AudioEncoder")
    describe(site, "other-taste", "2.0", "taste = cammsr_audio:AudioEncoder")
    return surroundings(site)


def cammsr(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cammsr_cli", *(str(one) for one in arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def own_tests(environment: dict[str, str], folder: Path, *tests: Path) -> None:
    """Run a plugin's own tests, the contract among them, from a folder that is none of ours."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rp", "-p", "no:cacheprovider", "-W", "error", *tests],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED")]
    assert sum("::test_contract[" in line for line in passed) >= len(CHECKS) * len(tests)


def test_plugins_are_listed_the_broken_ones_with_the_reason(plugins: dict[str, str]) -> None:
    done = cammsr(plugins, "encoders", "list", "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    by_name = {entry["name"]: entry for entry in listed}
    assert by_name["audio"] == {
        "name": "audio", "distribution": "cammsr-audio", "version": "0.1.0",
        "target": "cammsr_audio:AudioEncoder", "modality": "audio", "fields": ["video"],
        "broken": None,
    }  # fmt: skip
    assert "I am broken" in by_name["smell"]["broken"]
    assert by_name["smell"]["distribution"] == "broken-plugin"
    assert {"text", "image", "video"} <= set(by_name)
    both = [entry for entry in listed if entry["name"] == "taste"]
    assert [entry["distribution"] for entry in both] == ["one-taste", "other-taste"]
    assert all("one-taste 1.0" in e["broken"] and "other-taste 2.0" in e["broken"] for e in both)
    table = cammsr(plugins, "encoders").stdout
    assert "I am broken" in table
    assert table.count("│ taste") == 2


def test_plugin_is_used_beside_broken_ones(plugins: dict[str, str], shop, tmp_path: Path) -> None:
    out = tmp_path / "audible.h5"
    done = cammsr(plugins, "prepare", shop.folder, "--out", out, "--encoder", "audio", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["modalities"]["audio"]["present"] > 150
    with (tmp_path / "audible.h5.problems.csv").open(newline="") as stream:
        problems = {row["item"]: row for row in csv.DictReader(stream)}
    broken = {item for item, fault in shop.truth.faults.items() if fault == "broken video"}
    assert set(problems) == broken
    assert all("cannot be decoded" in row["reason"] for row in problems.values())
    run = tmp_path / "run"
    done = cammsr(plugins, "train", out, "--out", run, "--set", "training.epochs=1")
    assert done.returncode == 0, done.stderr
    done = cammsr(plugins, "recommend", run, "--user", "user-0001", "--json")
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)[0]["recommendations"][0]
    assert set(first["weights"]) == {"id", "audio"}

    # What is heard tells what moves: the nearest other clip moves alike. Chance is a quarter.
    with h5py.File(out) as file:
        present = file["features/audio/present"][:]
        vectors = file["features/audio/values"][:][present].astype(float)
        names = np.array(file["items/id"].asstr()[:])[present]
    motions = np.array([shop.truth.items[name]["motion"] for name in names])
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (motions[distances.argmin(1)] == motions).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "words"),
    [("smell", ["I am broken", "broken-plugin"]), ("taste", ["one-taste 1.0", "other-taste 2.0"])],
)
def test_broken_plugins_are_an_error_only_where_they_are_asked_for(
    plugins: dict[str, str], shop, tmp_path: Path, name: str, words: list[str]
) -> None:
    out = tmp_path / "out.h5"
    done = cammsr(plugins, "prepare", shop.folder, "--out", out, "--encoder", name)
    assert done.returncode == 1
    assert all(word in done.stderr for word in words)
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_the_examples_own_tests_and_the_check_pass(plugins: dict[str, str], tmp_path: Path) -> None:
    own_tests(plugins, tmp_path, EXAMPLE / "tests")
    done = cammsr(plugins, "encoders", "check", "audio")
    assert done.returncode == 0, done.stdout
    assert "FAILED" not in done.stdout


def test_a_new_plugin_installs_and_passes_its_own_test_and_the_check_as_it_is(
    tmp_path: Path, shop
) -> None:
    written = cammsr(dict(os.environ), "encoders", "new", "smell", "--out", tmp_path / "mine")
    assert written.returncode == 0, written.stderr
    assert written.stdout.strip() == str(tmp_path / "mine")
    style = subprocess.run(
        [
            sys.executable, "-m", "ruff", "check", "--no-cache", "--ignore", "D,INP",
            "--config", PROJECT / "pyproject.toml", tmp_path / "mine",
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert style.returncode == 0, style.stdout
    install(tmp_path / "mine", tmp_path / "site")
    environment = surroundings(tmp_path / "site")
    page = (PROJECT / "docs" / "guides" / "write-an-encoder.md").read_text(encoding="utf-8")
    of_the_page = tmp_path / "test_of_the_page.py"
    of_the_page.write_text(page.split("```python\n")[2].split("```")[0])
    own_tests(environment, tmp_path, tmp_path / "mine" / "tests", of_the_page)
    checked = cammsr(environment, "encoders", "check", "smell", "--json")
    assert checked.returncode == 0, checked.stdout
    assert all(one["passed"] for one in json.loads(checked.stdout))
    out = tmp_path / "out.h5"
    done = cammsr(
        environment, "prepare", shop.folder, "--out", out, "--encoder", "smell=,buckets=16"
    )
    assert done.returncode == 0, done.stderr
    with h5py.File(out) as file:
        assert file["features/smell/values"].shape == (180, 16)
        assert file["features/smell/present"][:].all()
