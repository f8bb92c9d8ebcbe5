"""Real files, as their publishers ship them. Skipped where the data is absent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

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
