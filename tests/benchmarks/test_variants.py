"""What the copies of a data set that robustness is asked of say, and that the rest stays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from toy_data import write_toy_data

from benchmarks.variants import (
    drawn_items,
    missing,
    no_labels,
    variant,
    without_training_events,
    wrong_labels,
)
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TRAIN


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_toy_data(tmp_path / "toy.h5")


def _changed(path: Path, change: Callable[..., None]) -> DataSet:
    before = path.read_bytes()
    changed = DataSet(variant(path, path.with_name("changed.h5"), change))
    assert path.read_bytes() == before
    assert changed.content != DataSet(path).content
    return changed


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_so_many_labels_are_wrong_and_nothing_else(path: Path, share: float) -> None:
    right, wrong = DataSet(path), _changed(path, wrong_labels(share, seed=0))
    labelled = right.category_labels().any(1)
    differ = (right.category_labels() != wrong.category_labels()).any(1)
    assert differ.sum() == round(share * labelled.sum())
    assert np.array_equal(wrong.category_labels().any(1), labelled)
    assert np.array_equal(right.event_item, wrong.event_item)
    for modality in right.modalities:
        assert np.array_equal(right.vectors(modality)[0], wrong.vectors(modality)[0])


def test_no_label_is_left(path: Path) -> None:
    assert not _changed(path, no_labels).category_labels().any()


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_so_many_pictures_are_missing_and_no_texts(path: Path, share: float) -> None:
    whole, changed = DataSet(path), _changed(path, missing("image", share, seed=0))
    values, there = changed.vectors("image")
    had = whole.vectors("image")[1]
    assert had.sum() - there.sum() == round(share * had.sum())
    assert not (there & ~had).any()
    assert not values[~there].any()
    assert np.array_equal(whole.vectors("text")[1], changed.vectors("text")[1])


def test_new_items_are_in_no_training_event_and_all_else_stays(path: Path) -> None:
    whole = DataSet(path)
    new = drawn_items(whole, 0.1, seed=0)
    changed = _changed(path, without_training_events(new))
    taken = np.isin(whole.event_item, new) & (whole.event_part == TRAIN)
    assert taken.any()
    assert np.array_equal(changed.event_item, whole.event_item[~taken])
    assert np.array_equal(changed.event_part, whole.event_part[~taken])
    assert not np.isin(changed.event_item[changed.event_part == TRAIN], new).any()
    users = np.searchsorted(whole.event_indptr, np.arange(len(taken)), side="right") - 1
    lengths = np.bincount(users[~taken], minlength=len(whole.user_ids))
    assert np.array_equal(np.diff(changed.event_indptr), lengths)
