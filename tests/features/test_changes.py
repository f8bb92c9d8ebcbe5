"""What a second `prepare` says of the first: only the difference is encoded, and it is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from plugin_folder import install

ITEMS = ["a,Apple", "b,Pear", "c,Plum", "d,"]


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cammsr: Callable) -> Callable:
    monkeypatch.syspath_prepend(str(install(tmp_path / "plugin")))
    monkeypatch.setenv("CAMMSR_CACHE_DIR", str(tmp_path / "cache"))
    log = tmp_path / "interactions.csv"
    log.write_text("user,item,timestamp\nu,a,1\nu,b,2\nu,a,3\n")

    def run(items: list[str], *more: object, encoder: str = "counting") -> tuple[dict, str]:
        (tmp_path / "items.csv").write_text("\n".join(["item,title", *items]) + "\n")
        given = ("--items", tmp_path / "items.csv", "--out", tmp_path / "x.h5", "--json")
        answer = cammsr("prepare", log, *given, "--encoder", encoder, "--force", *more)
        assert answer.code == 0, answer.err
        return json.loads(answer.out)["modalities"]["count"], answer.err

    return run


def _changes(added: int, changed: int, deleted: int, unchanged: int, same: bool = True) -> dict:
    return {
        "added": added, "changed": changed, "deleted": deleted, "unchanged": unchanged,
        "same_encoder": same,
    }  # fmt: skip


def test_nothing_to_compare_with_is_nothing_said(prepare: Callable) -> None:
    report, err = prepare(ITEMS)
    assert report["changes"] is None
    assert "unchanged" not in err


@pytest.mark.parametrize(
    ("items", "encoded", "changes"),
    [
        (ITEMS, 0, _changes(0, 0, 0, 3)),
        ([*ITEMS, "e,Fig"], 1, _changes(1, 0, 0, 3)),
        ([*ITEMS, "e,Plum"], 0, _changes(1, 0, 0, 3)),  # its text is known
        (["d,Fig", *ITEMS[:3]], 1, _changes(1, 0, 0, 3)),  # had no text before
        (["c,Plum", "b,Peach", "a,Apple"], 1, _changes(0, 1, 0, 2)),
        (["a,Apple", "b,Pear"], 0, _changes(0, 0, 1, 2)),
        (["a,", "b,Pear", "z,Apple"], 0, _changes(1, 0, 2, 1)),
    ],
    ids=["same", "new", "known", "filled", "changed", "gone", "moved"],
)
def test_only_the_difference_is_encoded_and_it_is_counted(
    prepare: Callable, items: list[str], encoded: int, changes: dict
) -> None:
    prepare(ITEMS)
    planned, _ = prepare(items, "--dry-run")
    report, err = prepare(items)
    assert (report["encoded"], report["changes"]) == (encoded, changes)
    assert (planned["encoded"], planned["changes"]) == (encoded, changes)
    assert f"count: {changes['added']} added, {changes['changed']} changed" in err


def test_another_option_encodes_all_anew_and_says_so(prepare: Callable) -> None:
    prepare(ITEMS)
    report, err = prepare(ITEMS, encoder="counting=,factor=2")
    assert (report["encoded"], report["changes"]) == (3, _changes(0, 0, 0, 3, same=False))
    assert "the encoder or its options are others" in err


def test_an_older_data_set_that_does_not_tell_is_replaced_in_silence(
    prepare: Callable, tmp_path: Path
) -> None:
    prepare(ITEMS)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["features/count/inputs"]
    assert prepare(ITEMS)[0]["changes"] is None


def test_a_damaged_data_set_is_replaced_and_told(prepare: Callable, tmp_path: Path) -> None:
    prepare(ITEMS)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file.attrs["content"]
    report, err = prepare(ITEMS)
    assert report["changes"] is None
    assert "what has changed cannot be told" in err
