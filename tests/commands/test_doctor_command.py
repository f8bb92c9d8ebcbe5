"""`cammsr doctor`: what is well, and what is to be mended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from cammsr_cli import doctor
from cammsr_cli.plugins.registry import EncoderEntry


@pytest.fixture
def only_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """One encoder: to look at all takes long."""
    entry = EncoderEntry("text", "cammsr", "0", "cammsr_encoders.text:TextEncoder")
    monkeypatch.setattr("cammsr_cli.plugins.registry.find_encoders", lambda: [entry])


def told(answer: object) -> dict[str, dict[str, object]]:
    return {one["what"]: one for one in json.loads(answer.out)}  # type: ignore[attr-defined]


def test_all_is_well_here(cammsr: Callable) -> None:
    answer = cammsr("doctor", "--json")
    found = told(answer)
    assert answer.code == 0, answer.err
    assert all(one["ok"] and one["mend"] is None for one in found.values())
    assert found["torch"]["says"] == metadata.version("torch")
    for what in ("Python", "device", "threads", "cache", "free disk here", "extra faiss"):
        assert what in found
    assert {"encoder text", "encoder image", "encoder video"} <= set(found)


@pytest.mark.usefixtures("only_text")
def test_too_many_threads_and_too_little_disk_are_to_be_mended(
    cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    answer = cammsr("doctor")
    assert answer.code == 1
    assert "MEND  threads: 999 for" in answer.out
    assert "MEND  free disk here: 1.0 GB" in answer.out
    assert "error: to be mended: threads, free disk" in answer.err


def test_packages_that_are_absent_or_too_old_are_to_be_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "polars":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {one.what: one for one in doctor._packages()}
    assert found["polars"].says == "not installed"
    assert found["polars"].mend == "pip install 'polars>=1.32'"
    assert found["torch"].says == "1.0, and >=2.6 is needed"
    assert found["numpy"].mend is None


def test_weights_that_are_not_at_hand_and_broken_encoders_are_to_be_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = [
        EncoderEntry("smell", "nose", "1", "nose:Smell", broken="ImportError: nose"),
        EncoderEntry("text", "cammsr", "0", "cammsr_encoders.text:TextEncoder"),
    ]
    monkeypatch.setattr("cammsr_cli.plugins.registry.find_encoders", lambda: entries)
    facts = SimpleNamespace(missing="its weights are not here", weights=None)
    monkeypatch.setattr("cammsr_cli.plugins.encoder_info.encoder_facts", lambda _: facts)
    smell, text = doctor._encoders()
    assert (smell.says, smell.mend) == (
        "nose 1: ImportError: nose",
        "Mend or remove the package nose",
    )
    assert text.says == "cammsr 0: its weights are not here"
    assert text.mend is not None


def test_a_cache_that_cannot_be_written_is_to_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuses)
    found = doctor._cache(doctor.cache_folder())
    assert found.says.endswith("Permission denied")
    assert "CAMMSR_CACHE_DIR" in str(found.mend)
