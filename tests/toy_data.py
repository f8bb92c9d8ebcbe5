"""A data set made in a moment, without files to read or encoders to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cammsr_cli.data.corpus import Corpus
from cammsr_cli.data.dataset import ModalityInfo
from cammsr_cli.data.dataset_write import ModalityVectors, write_dataset
from cammsr_cli.data.splits import leave_one_out

CATEGORIES = 4


def write_toy_data(
    path: Path,
    users: int = 60,
    items: int = 40,
    seed: int = 0,
    again: bool = True,
    dim: int = 6,
) -> Path:
    """Users who mostly stay with one category; some ties in time, some items lack a modality.

    They take many items again, unless told that they never do.
    """
    generator = np.random.default_rng(seed)
    corpus = toy_corpus(generator, users, items, again)
    category = np.arange(items) % CATEGORIES
    write_dataset(
        path,
        corpus,
        {name: toy_vectors(generator, name, category, dim) for name in ("image", "text")},
    )
    return path


def toy_corpus(generator: np.random.Generator, users: int, items: int, again: bool) -> Corpus:
    """Its users, items and events."""
    category = np.arange(items) % CATEGORIES
    lengths = generator.integers(3, 16, users)
    item, time = [], []
    for user, length in enumerate(lengths.tolist()):
        liked = np.flatnonzero(category == user % CATEGORIES)
        if again:
            strays = generator.random(length) < 0.2
            any_item = generator.integers(0, items, length)
            item.append(np.where(strays, any_item, generator.choice(liked, length)))
        else:
            chance = np.where(np.isin(np.arange(items), liked), 0.8 / len(liked), 0) + 0.2 / items
            item.append(generator.choice(items, length, replace=False, p=chance / chance.sum()))
        time.append(np.cumsum(generator.choice([0, 60, 86_400], length, p=[0.2, 0.4, 0.4])))
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Corpus(
        user_ids=[f"u{user}" for user in range(users)],
        item_ids=[f"i{one}" for one in range(items)],
        fields={"title": [f"Thing {one}" for one in range(items)]},
        item_rows=list(range(items)),
        listed_rows=items,
        category_names=[f"c{one}" for one in range(CATEGORIES)],
        category_indptr=np.arange(items + 1, dtype=np.int64),
        category_index=category.astype(np.int32),
        event_indptr=indptr,
        event_item=np.concatenate(item).astype(np.int32),
        event_time=np.concatenate(time).astype(np.int64),
        event_part=leave_one_out(indptr),
        sources={},
        notes=[],
    )


def toy_vectors(
    generator: np.random.Generator,
    name: str,
    category: np.ndarray,
    dim: int,
    fields: tuple[str, ...] = ("title",),
) -> ModalityVectors:
    """Vectors that tell an item's category, noisily."""
    centre = generator.normal(size=(CATEGORIES, dim))
    values = centre[category] + 0.5 * generator.normal(size=(len(category), dim))
    present = generator.random(len(category)) < 0.9
    values[~present] = 0
    info = ModalityInfo(dim, name, f"toy {name}", fields)
    return ModalityVectors(values.astype(np.float16), present, info)
