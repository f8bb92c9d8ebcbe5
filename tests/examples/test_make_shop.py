"""The example shop: the same bytes every time, and exactly what it says is planted in it."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

SCRIPT = Path(__file__).parents[2] / "examples" / "quickstart" / "make_shop.py"
SIZE = {"items": 48, "users": 60, "events_per_user": 10, "seed": 3}


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_shop", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_shop"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


script = load_script()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The shop's folder and its truth."""
    out = tmp_path_factory.mktemp("shop")
    return out, script.make_shop(out, **SIZE)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def frames(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24").astype(float) for f in container.decode(video=0)]


def test_same_seed_gives_the_same_bytes_and_another_seed_another_shop(
    shop: tuple[Path, Any], tmp_path: Path
) -> None:
    first = contents(shop[0])
    script.make_shop(tmp_path / "again", **SIZE)
    assert contents(tmp_path / "again") == first
    script.make_shop(tmp_path / "other", **(SIZE | {"seed": 4}))
    other = contents(tmp_path / "other")
    assert other["reviews.jsonl"] != first["reviews.jsonl"]
    assert other["items.jsonl"] != first["items.jsonl"]


def test_files_have_the_sizes_asked_for(shop: tuple[Path, Any]) -> None:
    out, truth = shop
    items, reviews = read_jsonl(out / "items.jsonl"), read_jsonl(out / "reviews.jsonl")
    assert [row["item"] for row in items] == list(truth.items)
    assert len(items) == 48
    assert Counter(row["user"] for row in reviews) == dict.fromkeys(truth.users, 10)
    assert len({(row["title"], row["description"]) for row in items}) == 48
    assert {tuple(row["categories"]) for row in items} == {("Posters",), ("Books",), ("Toys",)}
    assert set(reviews[0]) == {"user", "item", "timestamp", "rating", "text"}
    assert {row["rating"] for row in reviews} == {3, 4, 5}


def test_a_user_buys_nothing_twice_and_time_goes_on(shop: tuple[Path, Any]) -> None:
    by_user = defaultdict(list)
    for row in read_jsonl(shop[0] / "reviews.jsonl"):
        by_user[row["user"]].append(row)
    for rows in by_user.values():
        assert len({row["item"] for row in rows}) == len(rows)
        assert np.all(np.diff([row["timestamp"] for row in rows]) >= 60)


def test_purchases_follow_the_deciding_attribute_and_no_other(shop: tuple[Path, Any]) -> None:
    out, truth = shop
    agreed: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in read_jsonl(out / "reviews.jsonl"):
        item, user = truth.items[row["item"]], truth.users[row["user"]]
        for attribute in ("look", "theme", "motion"):
            agreed[item["category"], attribute].append(item[attribute] == user[attribute])
    for (category, attribute), hits in agreed.items():
        if attribute == truth.deciding[category]:
            assert np.mean(hits) >= 0.8
        else:
            assert 0.1 < np.mean(hits) < 0.4  # a quarter is chance


def test_categories_and_attributes_are_balanced(shop: tuple[Path, Any]) -> None:
    items = list(shop[1].items.values())
    assert Counter(i["category"] for i in items) == {"Posters": 16, "Books": 16, "Toys": 16}
    for attribute in ("look", "theme", "motion"):
        assert set(Counter((i["category"], i[attribute]) for i in items).values()) == {4}


def test_truth_file_says_what_make_shop_returned(shop: tuple[Path, Any]) -> None:
    assert script.Truth(**json.loads((shop[0] / "truth.json").read_text())) == shop[1]


def test_media_are_missing_or_broken_as_the_faults_say(shop: tuple[Path, Any]) -> None:
    out, truth = shop
    kinds = Counter(truth.faults.values())
    assert kinds == dict.fromkeys(
        ("broken image", "broken video", "lost image", "no image", "no video"), 1
    )
    for row in read_jsonl(out / "items.jsonl"):
        fault = truth.faults.get(row["item"])
        assert ("image" in row, "video" in row) == (fault != "no image", fault != "no video")
        if fault == "lost image":
            assert not (out / row["image"]).exists()
        elif fault == "broken image":
            with pytest.raises(UnidentifiedImageError):
                Image.open(out / row["image"])
        elif fault == "broken video":
            with pytest.raises(av.FFmpegError):
                frames(out / row["video"])
        elif fault is None:
            with Image.open(out / row["image"]) as image:
                assert image.size == (224, 224)
            assert len(frames(out / row["video"])) == 16


def test_share_of_absent_media_is_three_percent() -> None:
    faults = script.draw_faults(np.random.default_rng(0), [str(n) for n in range(360)])
    assert Counter(f.split()[0] for f in faults.values()) == {"no": 11, "broken": 2, "lost": 1}


def test_only_time_tells_the_motion(shop: tuple[Path, Any]) -> None:
    out, truth = shop
    opening: dict[str, np.ndarray[Any, Any]] = {}
    change = defaultdict(list)
    for name, item in truth.items.items():
        if truth.faults.get(name, "").endswith("video"):
            continue
        clip = np.stack(frames(out / f"videos/{name}.mp4"))
        expected = opening.setdefault(item["category"], clip[0])
        assert np.abs(clip[0] - expected).mean() < 1  # of 255: no more than compression leaves
        change[item["motion"]].append(np.abs(np.diff(clip, axis=0)).mean())
    assert max(change["still"]) < min(min(v) for k, v in change.items() if k != "still")
    first, *others = opening.values()
    assert min(np.abs(first - other).mean() for other in others) > 5  # but the category shows


def test_clips_are_neutral_in_colour(shop: tuple[Path, Any]) -> None:
    out, truth = shop
    name = next(n for n in truth.items if n not in truth.faults)
    clip = np.stack(frames(out / f"videos/{name}.mp4"))
    assert np.ptp(clip, axis=-1).max() <= 3


@pytest.mark.parametrize(
    "sizes", [{"items": 9}, {"users": 0}, {"items": 12, "events_per_user": 5}, {"seed": -1}]
)
def test_impossible_sizes_are_refused_before_anything_is_written(
    sizes: dict[str, int], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"at least 12 items|seed|non-negative"):
        script.make_shop(tmp_path / "shop", **sizes)
    assert not (tmp_path / "shop").exists()


def test_command_keeps_what_is_there_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    command = ["make_shop.py", str(tmp_path), "--items=12", "--users=2", "--events-per-user=2"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as refusal:
        script.main()
    assert refusal.value.code == 2
    assert "--force" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    monkeypatch.setattr(sys, "argv", [*command, "--force"])
    script.main()
    assert capsys.readouterr().out.strip() == str(tmp_path)
    assert len(read_jsonl(tmp_path / "reviews.jsonl")) == 4
