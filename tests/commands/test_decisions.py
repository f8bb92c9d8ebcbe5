"""What `prepare` decided, told once, plainly, by it and by `info`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from altered import without_checksums

from cammsr_cli.data.dataset import DataSet

LOG = "user,item,date,event\n" + "".join(
    f"u{n % 2},i{n % 5},2024-03-2{n % 8},{'view' if n % 3 else 'buy'}\n" for n in range(16)
)
ITEMS = "id,name,genres\n" + "".join(f'i{n},T{n},"A, {"BC"[n % 2]}"\n' for n in range(5))
ITEMS = ITEMS.replace('"A, B"', '"B, A"', 1).replace('"A, C"', '"C"', 1)
SAID = [
    ("interactions", "interactions.csv: user = user, item = item, timestamp = date, event = event"),
    ("items", "items.csv: item = id, title = name, category = genres"),
    ("times", "times are those of column 'date' of interactions.csv: dates such as '2024-03-20'"),
    ("events", "kinds of events, column 'event' of interactions.csv: view 10, buy 6; all count"),
    ("categories", "column 'genres' of items.csv holds several categories a cell, separated by"),
]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "interactions.csv").write_text(LOG)
    (tmp_path / "shop" / "items.csv").write_text(ITEMS)
    (tmp_path / "shop" / "prices.csv").write_text("id,price\ni1,3\n")
    return tmp_path / "shop"


def test_decisions_are_told_once_at_the_end_and_by_info(shop: Path, cammsr: Callable) -> None:
    out = shop.parent / "shop.h5"
    np.save(shop / "v.npy", np.eye(5))
    vectors = ("--features", f"v={shop / 'v.npy'}")
    told = cammsr("prepare", shop, "--out", out, *vectors)
    assert told.code == 0, told.err
    shown = " ".join(told.out.replace("│", " ").split())
    for what, how in SAID:
        assert f"{what} {how}" in shown
    assert "files prices.csv not read: no column known as title" in shown
    assert "times are those of" not in told.err
    assert "prices.csv" not in told.err
    assert "v: 0 of 5 items have another's vector" in told.err

    report = json.loads(cammsr("prepare", shop, "--out", out, "--force", "--json", *vectors).out)
    found = dict(report["decisions"])
    assert all(found[what].startswith(how) for what, how in SAID)
    assert report["modalities"]["v"]["look"] == {
        "present": 5, "alike": 0, "neighbours": None, "chance": None,
    }  # fmt: skip
    assert dict(json.loads(cammsr("info", out, "--json").out)["decisions"]) == found
    shown = " ".join(cammsr("info", out).out.replace("│", " ").split())
    assert all(f"{what} {how}" in shown for what, how in SAID)


def test_a_dry_run_and_parts_tell_the_same(shop: Path, cammsr: Callable) -> None:
    out = shop.parent / "shop.h5"
    planned = json.loads(cammsr("prepare", shop, "--out", out, "--dry-run", "--json").out)
    for part in ("1/2", "2/2"):
        assert cammsr("prepare", shop, "--out", out, "--shard", part).code == 0
    parts = sorted(shop.parent.glob("shop.*-of-2.h5"))
    assert cammsr("merge", *parts, "--out", out).code == 0
    assert json.loads(cammsr("info", out, "--json").out)["decisions"] == planned["decisions"]


def test_a_file_without_decisions_and_one_with_others(shop: Path, cammsr: Callable) -> None:
    out = shop.parent / "shop.h5"
    assert cammsr("prepare", shop, "--out", out).code == 0
    old = without_checksums(out)
    with h5py.File(old, "r+") as file:
        del file.attrs["decisions"]
    assert json.loads(cammsr("info", old, "--json").out)["decisions"] == []
    for damaged in ("{}", '[["a"]]', '[["a", 1]]', "nonsense"):
        with h5py.File(old, "r+") as file:
            file.attrs["decisions"] = damaged
        answer = cammsr("info", old)
        assert answer.code == 1
        assert "decisions" in answer.err


def test_long_decisions_are_cut_to_what_an_attribute_holds(shop: Path, cammsr: Callable) -> None:
    for n in range(300):
        (shop / f"{n}-{'ü' * 40}.csv").write_text(f"{'é' * 300},x\n1,2\n")
    out = shop.parent / "shop.h5"
    assert cammsr("prepare", shop, "--out", out).code == 0
    assert len(json.loads(cammsr("info", out, "--json").out)["decisions"]) > 300


def test_the_command_that_made_it_is_kept_and_makes_it_again(
    shop: Path, cammsr: Callable, tmp_path: Path
) -> None:
    """Without what decides no content: where it goes, how many processes work, what is printed."""
    first, again = tmp_path / "with a space.h5", tmp_path / "again.h5"
    options = ("--where", "event = buy", "--k-core", 1, "--no-download", "--order", "file")
    answer = cammsr("prepare", shop, "--out", first, *options, "--workers", 0, "--json")
    assert answer.code == 0, answer.err
    command = dict(json.loads(answer.out)["decisions"])["made by"]
    typed = shlex.split(command)
    assert typed[:3] == ["cammsr", "prepare", str(shop)]
    assert sorted(typed[3:]) == sorted(map(str, options))
    assert cammsr(*typed[1:], "--out", again).code == 0
    assert DataSet(again).content == DataSet(first).content
    assert command in json.loads(cammsr("info", again, "--json").out)["decisions"][0]
