"""Outcomes become rows, rows become a page."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import (
    ADDED,
    PAPER,
    PAPER_PARTS,
    PARTS,
    SETTINGS,
    Outcome,
    beside_earlier,
    plot,
    rendered,
    row_of,
    rows_of,
    slug,
    table,
)
from benchmarks.baselines import item_knn, popularity
from benchmarks.peers.split import TEST, VALIDATION, Split
from cammsr_cli.config import resolve
from cammsr_cli.data.splits import leave_one_out


def _outcome(test: list[int], validation: int = 1) -> Outcome:
    """One user a rank; validation ranks all alike."""
    ranks = np.array(test)
    return Outcome(
        {
            "validation": np.full(len(ranks), validation),
            "test": ranks,
            "test, seen kept": ranks + 1,
        },
        seconds=60.0,
        epochs=3,
    )


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = _outcome([1, 5, 30])
    before.save(tmp_path / "one.npz")
    after = Outcome.load(tmp_path / "one.npz")
    assert (after.seconds, after.epochs) == (60.0, 3)
    assert {name: rank.tolist() for name, rank in after.rank.items()} == {
        "validation": [1, 1, 1],
        "test": [1, 5, 30],
        "test, seen kept": [2, 6, 31],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]


def test_a_row_is_the_mean_over_users_and_seeds() -> None:
    # NDCG@10 of ranks 1, 3, 11 is 1, 1/2, 0.
    row = row_of("x", [_outcome([1, 3]), _outcome([11, 3])], {})
    assert row.test["NDCG@10"][0] == pytest.approx((0.75 + 0.25) / 2)
    assert row.test["Recall@10"][0] == pytest.approx(0.75)
    assert row.spread == pytest.approx(np.std([0.75, 0.25], ddof=1))
    assert row.kept["MRR@10"] == pytest.approx((1 / 2 + 1 / 4 + 0 + 1 / 4) / 4)
    low, high = row.test["NDCG@10"][1:]
    assert low <= row.test["NDCG@10"][0] <= high


def test_a_difference_is_paired_by_user() -> None:
    # Users differ a lot, the models by the same for each: paired, there is no doubt.
    worse, better = _outcome([3, 3, 7, 7] * 20), _outcome([1, 1, 3, 3] * 20)
    (row,) = [row_of("better", [better], {"worse": [worse]})]
    mean, low, high = row.over["worse"]
    assert mean == pytest.approx((0.5 + 0.5 - 1 / 3) / 2)
    assert low > 0.29
    assert high < 0.5
    unpaired = row.test["NDCG@10"][2] - row.test["NDCG@10"][1]
    assert high - low < unpaired


def test_each_row_stands_beside_sasrec_and_the_peer_best_on_validation() -> None:
    outcomes = {
        "popularity": [_outcome([9])],
        "RecTools SASRec": [_outcome([1], validation=5)],
        "RecBole GRU4Rec": [_outcome([7], validation=2)],
        "sasrec": [_outcome([3])],
        "cammsr": [_outcome([2])],
        "cammsr without time": [_outcome([4])],
        "cammsr with swap": [_outcome([4])],
        "paper": [_outcome([4])],
        "paper without swap": [_outcome([4])],
        "sasrec with repeat bias": [_outcome([4])],
    }
    rows = rows_of(outcomes)
    references = ["sasrec", "RecBole GRU4Rec"]
    assert {row.name: list(row.over) for row in rows} == {
        "popularity": references,
        "RecTools SASRec": references,
        "RecBole GRU4Rec": ["sasrec"],
        "sasrec": ["RecBole GRU4Rec"],
        "cammsr": references,
        "cammsr without time": [*references, "cammsr"],
        "cammsr with swap": [*references, "cammsr"],
        "paper": references,
        "paper without swap": [*references, "paper"],
        "sasrec with repeat bias": references,
    }
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len({line.count("|") for line in lines}) == 1


def test_a_row_without_ranks_stays_as_the_json_has_it() -> None:
    first = rows_of({"sasrec": [_outcome([3, 3])], "cammsr": [_outcome([1, 3])]})
    as_json = json.loads(json.dumps([asdict(row) for row in first]))
    order = ["item-kNN", "sasrec", "cammsr"]
    (new,) = rows_of({"sasrec": [_outcome([1, 7])]})
    rows = beside_earlier([new], as_json, order)
    assert rows[0] is new
    assert table(rows).splitlines()[-1] == table(first).splitlines()[-1]
    (kept,) = beside_earlier([], as_json[1:], order)
    assert asdict(kept) == as_json[1]


def test_a_page_is_written_between_its_marks_alone() -> None:
    page = "a\n<!-- accuracy ml1m -->\nold\n<!-- end accuracy ml1m -->\nb\n"
    new = rendered(page, "ml1m", "new")
    assert new == "a\n<!-- accuracy ml1m -->\nnew\n<!-- end accuracy ml1m -->\nb\n"
    assert rendered(new, "ml1m", "new") == new
    with pytest.raises(SystemExit, match="no marks"):
        rendered(page, "ml100k", "new")


def test_the_plot_has_a_bar_for_each_whole_model(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    def row(name: str, mean: float) -> dict[str, object]:
        return {"name": name, "test": {"NDCG@10": [mean, mean - 0.01, mean + 0.01]}}

    figures = {
        "machine": "none",
        "ml1m": {"rows": [row("sasrec", 0.1), row("cammsr", 0.2), row("cammsr without time", 0.1)]},
        "ml100k": {"rows": [row("cammsr", 0.1)]},
    }
    plot(figures, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert [word in drawn for word in ("ml1m", "ml100k", "sasrec", "cammsr")] == [True] * 4
    assert "without time" not in drawn
    assert "amazon-beauty" not in drawn


@pytest.mark.parametrize(
    ("preset", "named"), [("cammsr", PARTS), ("cammsr", ADDED), ("paper", PAPER_PARTS)]
)
def test_a_part_taken_away_or_added_is_there_to_be(preset: str, named) -> None:
    """Each names settings that there are, at values that the preset does not have."""
    own = PAPER if preset == "paper" else ()
    whole = resolve(preset, None, own, {})
    for part, assignments in named.items():
        assert resolve(preset, None, [*own, *assignments], {}) != whole, part


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_data_set_are_some(name: str) -> None:
    assert resolve("cammsr", None, SETTINGS[name][1], {})


def test_a_row_has_a_file_name() -> None:
    assert slug("cammsr without DyT (LayerNorm)") == "cammsr-without-dyt-layernorm"


@pytest.fixture
def split() -> Split:
    """Items 0 and 1 are bought together by two users, 2 and 3 by one who bought 2 twice."""
    histories = [[0, 1, 4, 5], [1, 0, 5, 4], [2, 3, 2, 5, 4]]
    indptr = np.cumsum([0, *(len(one) for one in histories)])
    item = np.array([item for one in histories for item in one], dtype=np.int32)
    return Split(indptr, item, leave_one_out(indptr), 6, "")


def test_neighbours_by_hand(split: Split) -> None:
    score = item_knn(split, neighbours=5)(np.array([0, 2]), VALIDATION)
    # Training alone counts: cosine 1 between 0 and 1, and between 2 and 3; user 2 has 2 twice.
    np.testing.assert_allclose(score[0], [1, 1, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(score[1], [0, 0, 1, 2, 0, 0], atol=1e-6)


def test_only_the_nearest_neighbours_count() -> None:
    # 0 is bought twice with 1 and once with 2: only 1 is its nearest, and 0 is 2's.
    histories = [[0, 1, 3, 3], [0, 1, 3, 3], [0, 2, 3, 3]]
    indptr = np.cumsum([0, 4, 4, 4])
    item = np.array(histories, dtype=np.int32).ravel()
    crowd = Split(indptr, item, leave_one_out(indptr), 4, "")
    score = item_knn(crowd, neighbours=1)(np.array([2]), VALIDATION)
    cosine = 1 / np.sqrt(3 * 1)
    # User 2 has 0 and 2. Item 0's nearest is 1; item 1's is 0 (2 / sqrt(6)); item 2's is 0.
    np.testing.assert_allclose(score[0], [0, 2 / np.sqrt(6), cosine, 0], atol=1e-6)


def test_popularity_counts_training_events(split: Split) -> None:
    score = popularity(split)(np.array([0, 1]), TEST)
    assert score.tolist() == [[2, 2, 2, 1, 0, 0]] * 2
