"""The notebook example runs from its first cell to its last."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import ModuleType

import pytest
from conftest import PROJECT

NOTEBOOK = PROJECT / "examples" / "notebook.py"


@pytest.mark.slow
def test_the_notebook_runs(
    make_shop: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_shop.make_shop(tmp_path / "shop", items=30, users=40, events_per_user=6, seed=2)
    monkeypatch.chdir(tmp_path)
    left = runpy.run_path(str(NOTEBOOK))
    said = capsys.readouterr()
    assert "40 users, 30 items, 240 events" in said.out
    assert "NDCG@10: 0." in said.out
    assert left["scores"].shape == (1, 30)
    assert not said.err


def test_its_cells_are_marked() -> None:
    lines = NOTEBOOK.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# %% [markdown]"
    assert sum(line == "# %%" for line in lines) >= 5
