"""Real files, as their publishers ship them. Skipped where the data is absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cammsr_cli.data.dataset import DataSet


def test_movielens_folder_is_read_as_downloaded(
    real_data: Path, tmp_path: Path, cammsr: Callable
) -> None:
    out = tmp_path / "small.h5"
    answer = cammsr("prepare", real_data / "ml-latest-small", "--out", out, "--json")
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    assert (report["users"], report["items"], report["events"]) == (671, 9125, 100_004)
    data = DataSet(out)
    toy_story = data.item_ids.index("1")
    assert data.field("title")[toy_story] == "Toy Story (1995)"
    assert data.item_categories(toy_story) == [
        "Adventure", "Animation", "Children", "Comedy", "Fantasy",
    ]  # fmt: skip


def test_trailer_features_come_in_as_video(
    real_data: Path, tmp_path: Path, cammsr: Callable
) -> None:
    out = tmp_path / "ml1m.h5"
    answer = cammsr(
        "prepare", real_data / "ml1m", "--out", out, "--json",
        "--features", f"video={real_data / 'ml1m' / 'trailer_features.csv'}",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["modalities"]["video"]["present"] == 2266
    data = DataSet(out)
    values, present = data.vectors("video")
    assert values.shape == (3416, 7)
    row = data.item_ids.index("89")
    assert present[row]
    np.testing.assert_allclose(values[row, :3].astype(float), [0.4408, 0.7635, 0.7850], atol=1e-3)


def test_a_second_run_encodes_nothing_and_a_new_item_costs_one(
    real_data: Path, tmp_path: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMMSR_CACHE_DIR", str(tmp_path / "cache"))
    raw, out = tmp_path / "ml100k", tmp_path / "ml100k.h5"
    raw.mkdir()
    for name in ("interactions.csv.gz", "items.jsonl"):
        shutil.copy(real_data / "ml100k" / name, raw)

    def text_of_a_run() -> dict[str, int]:
        # The first words will do: it is the counts that are looked at.
        answer = cammsr(
            "prepare", raw, "--out", out, "--force", "--json", "--encoder", "text=,max_tokens=4"
        )
        assert answer.code == 0, answer.err
        text: dict[str, int] = json.loads(answer.out)["modalities"]["text"]
        return text

    first = text_of_a_run()
    assert (first["present"], first["cached"], first["missing"]) == (1682, 0, 0)
    values, _ = DataSet(out).vectors("text")
    second = text_of_a_run()
    assert (second["present"], second["encoded"]) == (1682, 0)
    assert second["cached"] == first["encoded"]
    np.testing.assert_array_equal(DataSet(out).vectors("text")[0], values)
    with (raw / "items.jsonl").open("a") as stream:
        stream.write('\n{"item_id": "new", "title": "A film that nobody has seen"}\n')
    third = text_of_a_run()
    assert (third["present"], third["encoded"], third["cached"]) == (1683, 1, first["encoded"])
    assert third["changes"] == {
        "added": 1, "changed": 0, "deleted": 0, "unchanged": 1682, "same_encoder": True,
    }  # fmt: skip


def test_ml100k_has_the_counts_of_its_publisher(
    real_data: Path, tmp_path: Path, cammsr: Callable
) -> None:
    answer = cammsr(
        "prepare", real_data / "ml100k", "--out", tmp_path / "x.h5", "--encoder", "image",
        "--dry-run", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    assert (report["users"], report["items"], report["events"]) == (943, 1682, 100_000)
    assert report["modalities"]["image"]["present"] == 1668
    assert report["categories"] == 18
    assert not (tmp_path / "x.h5").exists()
