"""Exported vectors: their inner products are the scores, and a service without us ranks alike."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import PROJECT
from toy_data import write_toy_data
from toy_recommender import ITEMS, SMALL, USERS, make_recommender

from cammsr_cli.config import Config, ModelConfig
from cammsr_cli.errors import UsageError
from cammsr_cli.export.run import ENCODER, export
from cammsr_cli.files import changed_since
from cammsr_cli.ranking.top_k import faiss_is_installed

GUIDE = PROJECT / "docs" / "guides" / "your-service.md"

EXPERTS = ModelConfig(
    width=16, layers=2, heads=2, length=8, experts=2, fused=False, input_norm="dyt", repeats=False
)

FILES = ["items.npy", "items.parquet", "users.npy", "users.parquet", ENCODER, "export.json"]


ONE = pytest.mark.parametrize("exported", ["biased"], indirect=True)


@pytest.fixture(scope="module", params=["left out", "biased", "as all others"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and its export, of each rule for seen items."""
    folder = tmp_path_factory.mktemp("export")
    config = Config(model=EXPERTS) if request.param == "as all others" else None
    again = request.param != "left out"
    make_recommender(folder, *([config] if config else []), again=again)
    done = export(folder / "run", folder / "exported")
    assert done.about.seen_items == request.param
    return folder


@pytest.fixture(scope="module")
def service(exported: Path) -> dict[str, Any]:
    """What the guide's code makes of the export."""
    if not faiss_is_installed():
        pytest.skip("the extra faiss is not there")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.M | re.S))
    left: dict[str, Any] = {}
    exec(code.replace('Path("exported")', f"Path({str(exported / 'exported')!r})"), left)
    return left


def told(folder: Path, cammsr: Callable, *arguments: object) -> dict[str, list[str]]:
    out = folder / "told.jsonl"
    answer = cammsr("recommend", folder / "run", *arguments, "--out", out, "--force")
    assert answer.code == 0, answer.err
    frame = pl.read_ndjson(out)
    return {
        user: part["item"].to_list()
        for (user,), part in frame.group_by("user", maintain_order=True)
    }


def test_faiss_gives_what_recommend_gives(
    exported: Path, service: dict[str, Any], cammsr: Callable
) -> None:
    recommended = told(exported, cammsr, "--all-users", "-k", 10)
    assert service["recommended"] == recommended
    assert len(recommended) == USERS


def test_the_encoder_gives_users_their_vectors(exported: Path, service: dict[str, Any]) -> None:
    from cammsr_cli.data.dataset import DataSet

    data = DataSet(exported / "toy.h5")
    vectors = np.load(exported / "exported" / "users.npy")
    lengths = np.diff(data.event_indptr)
    assert lengths.min() < service["about"]["length"] < lengths.max()
    for user, (first, past) in enumerate(
        zip(data.event_indptr[:-1], data.event_indptr[1:], strict=True)
    ):
        events = [
            (data.item_ids[data.event_item[at]], int(data.event_time[at]))
            for at in range(first, past)
        ]
        vector, seen = service["visitor"](events)
        np.testing.assert_allclose(vector, vectors[user], atol=1e-5)
        assert service["best"](vector, seen, 10) == service["recommended"][data.user_ids[user]]


def test_a_visitor_without_times_is_given_what_recommend_gives(
    exported: Path, service: dict[str, Any], cammsr: Callable
) -> None:
    gap = service["about"]["usual_gap"]
    vector, seen = service["visitor"]([("i3", 0), ("i7", gap), ("i9", 2 * gap)])
    recommended = told(exported, cammsr, "--history", "i3,i7,i9", "-k", 10)
    assert service["best"](vector, seen, 10) == recommended["visitor"]


@ONE
def test_what_the_files_hold(exported: Path) -> None:
    folder = exported / "exported"
    about = json.loads((folder / "export.json").read_text())
    assert changed_since(folder, FILES) is None
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, "SHA256SUMS"])
    items, users = (pl.read_parquet(folder / f"{name}.parquet") for name in ("items", "users"))
    assert items.columns == ["item", "popularity", "vector"]
    assert users.columns == ["user", "vector", "seen"]
    for name, frame in (("items", items), ("users", users)):
        np.testing.assert_array_equal(frame["vector"].to_numpy(), np.load(folder / f"{name}.npy"))
        assert frame.schema["vector"] == pl.Array(pl.Float32, about["width"])
        assert frame.height == about[name]
    assert (about["items"], about["users"]) == (ITEMS, USERS)
    assert items["popularity"].sum() > USERS


@ONE
def test_nothing_but_tensors_is_unpickled(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = exported / "exported" / ENCODER
    with zipfile.ZipFile(file) as archive:
        configs = [
            json.loads(archive.read(name)) for name in archive.namelist() if "_config" in name
        ]
    payloads = [payload for config in configs for payload in config["config"].values()]
    assert payloads
    assert not any(payload["use_pickle"] for payload in payloads)
    real, trusting = torch.load, []

    def load(*args: Any, **kwargs: Any) -> Any:
        trusting.append(kwargs.get("weights_only") is False)
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    torch.export.load(file)
    assert not any(trusting)


@ONE
def test_the_encoder_has_no_table_of_ids_or_features(exported: Path) -> None:
    names = torch.export.load(exported / "exported" / ENCODER).state_dict
    assert not any("id_table" in name or "projection" in name for name in names)


@ONE
def test_the_encoder_runs_without_this_package(exported: Path) -> None:
    code = f"""
import sys, torch
encoder = torch.export.load({str(exported / "exported" / ENCODER)!r}).module()
rows = torch.zeros(1, 8, dtype=torch.int64)
print(encoder(rows, rows, torch.tensor([2])).shape[0], any("cammsr" in m for m in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "False"]


def test_what_is_there_is_replaced_only_if_asked(tmp_path: Path, cammsr: Callable) -> None:
    make_recommender(tmp_path)
    out = tmp_path / "exported"
    asked = ("export", tmp_path / "run", "--out", out)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for force in ((), ("--force",)):
        refused = cammsr(*asked, *force)
        assert refused.code == 2
        assert "is no export" in refused.err
    (out / "mine.txt").unlink()
    told = json.loads(cammsr(*asked, "--json").out)
    assert told["about"] == json.loads((out / "export.json").read_text())
    assert told["encoder_sha256"] in (out / "SHA256SUMS").read_text()
    with pytest.raises(UsageError, match="is there already"):
        export(tmp_path / "run", out)
    assert "vectors of" in cammsr(*asked, "--force").out


def test_a_failed_export_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_recommender(tmp_path)
    out = tmp_path / "exported"

    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cammsr_cli.export.run.write_encoder", fails)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path / "run", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "toy.h5"]


def test_items_that_the_model_does_not_know_are_left_out(tmp_path: Path) -> None:
    make_recommender(tmp_path, Config(model=SMALL.model.model_copy(update={"modalities": []})))
    newer = write_toy_data(tmp_path / "newer.h5", USERS, 2 * ITEMS)
    about = export(tmp_path / "run", tmp_path / "exported", data=newer).about
    items = pl.read_parquet(tmp_path / "exported" / "items.parquet")["item"].to_list()
    assert (len(items), len(items) + about.items_left_out) == (about.items, 2 * ITEMS)
    assert set(items) <= {f"i{n}" for n in range(ITEMS)}
    assert about.users + about.users_left_out == USERS


def test_new_items_are_raised_by_a_constant_at_the_vectors_end(tmp_path: Path) -> None:
    width = make_recommender(tmp_path).score_width
    newer = write_toy_data(tmp_path / "newer.h5", USERS, 2 * ITEMS)
    about = export(tmp_path / "run", tmp_path / "exported", data=newer, new_share=0.2).about
    assert about.width == width + 1
    users = np.load(tmp_path / "exported" / "users.npy")
    assert np.all(users[:, -1] == 1)
    encoder = torch.export.load(tmp_path / "exported" / ENCODER).module()
    rows = torch.zeros(3, about.length, dtype=torch.int64)
    found = encoder(rows, rows.clone(), torch.tensor([1, 2, about.length]))
    assert found.shape == (3, width + 1)
    assert bool((found[:, -1] == 1).all())
