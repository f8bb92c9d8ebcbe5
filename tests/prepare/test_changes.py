"""What a second `prepare` says of the first: only the difference is encoded, and it is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from altered import altered, without_checksums
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
    with altered(tmp_path / "x.h5") as file:
        del file["features/count/inputs"]
    assert prepare(ITEMS)[0]["changes"] is None


def test_a_damaged_data_set_is_replaced_and_told(prepare: Callable, tmp_path: Path) -> None:
    prepare(ITEMS)
    with altered(tmp_path / "x.h5") as file:
        del file.attrs["content"]
    report, err = prepare(ITEMS)
    assert report["changes"] is None
    assert "what has changed cannot be told" in err


@pytest.mark.parametrize("checksums", [True, False], ids=["now", "older"])
def test_any_damage_to_the_old_data_set_is_no_reason_not_to_make_it_again(
    prepare: Callable, tmp_path: Path, checksums: bool
) -> None:
    """What the command's own advice must mend."""
    data = tmp_path / "x.h5"
    prepare(ITEMS)
    if not checksums:
        without_checksums(data)
    sound, generator, told = data.read_bytes(), np.random.default_rng(0), 0
    for _ in range(25):
        content = bytearray(sound)
        for start in generator.integers(8, len(content), 6):  # its first 8 bytes say HDF5
            content[start : start + 64] = generator.bytes(64)
        data.write_bytes(content)
        report, err = prepare(ITEMS)
        told += "what has changed cannot be told" in err
        assert report["encoded"] == 0
        assert h5py.is_hdf5(data)
    assert told > 20


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_a_data_set_that_was_cut_is_replaced(prepare: Callable, tmp_path: Path, cut: float) -> None:
    data = tmp_path / "x.h5"
    prepare(ITEMS)
    content = data.read_bytes()
    data.write_bytes(content[: int(cut * len(content))])
    _, err = prepare(ITEMS)
    assert "what has changed cannot be told" in err


def test_hdf5_that_is_no_data_set_is_not_replaced(
    prepare: Callable, tmp_path: Path, cammsr: Callable
) -> None:
    """Weights of a model, say."""
    prepare(ITEMS)
    weights = tmp_path / "weights.h5"
    with h5py.File(weights, "w") as file:
        file["layer/kernel"] = np.ones(3)
    before = weights.read_bytes()
    answer = cammsr("prepare", tmp_path / "interactions.csv", "--out", weights, "--force")
    assert answer.code == 2
    assert "--force replaces only a data set" in answer.err
    assert f"rm {weights}" in answer.err
    assert weights.read_bytes() == before
