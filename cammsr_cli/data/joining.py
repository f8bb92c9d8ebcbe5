"""Joining items and events: the items that are kept, the texts about them, their categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.catalogue import Catalogue, training_reviews, training_tags
from cammsr_cli.data.categories import Labels
from cammsr_cli.data.interactions import Interactions
from cammsr_cli.data.readers.columns import MatchedColumns
from cammsr_cli.data.readers.ids import cause_of
from cammsr_cli.data.readers.tables import SourceTables, Table, counted
from cammsr_cli.data.splits import TRAIN
from cammsr_cli.data.texts import Texts
from cammsr_cli.errors import CammsrError


def kept_positions(
    listed: Catalogue, log: Interactions, which: Literal["all", "rated"], notes: list[str]
) -> list[int]:
    """Positions in `listed` of the items that are kept: never those that the k-core dropped."""
    rated = set(log.item_ids)
    if which == "rated":
        positions = [p for p, item in enumerate(listed.ids) if item in rated]
        left_out = len(listed.ids) - len(positions)
        if left_out:
            notes.append(f"{counted(left_out, 'listed item')} without events left out")
        return positions
    positions = [p for p, item in enumerate(listed.ids) if item not in log.dropped_items]
    unrated = sum(listed.ids[position] not in rated for position in positions)
    if unrated:
        notes.append(f"{counted(unrated, 'listed item')} without events kept")
    return positions


def unlisted_items(
    listed: Catalogue, log: Interactions, items: Table | None, notes: list[str]
) -> list[str]:
    """Items with events that the items file does not list: they have an id and no content."""
    known = set(listed.ids)
    unlisted = [item for item in log.item_ids if item not in known]
    if unlisted and items is not None:
        note = f"{counted(len(unlisted), 'item')} with events not listed in {items.path.name}"
        if cause := cause_of(unlisted, listed.ids):
            note += f"; {cause}: write the ids of both files alike"
        elif len(unlisted) == len(log.item_ids):
            note += ", which is all of them: check that both files use the same item ids"
        notes.append(f"{note}; kept without content")
    return unlisted


def rejected(
    log: Interactions, index: Mapping[str, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None:
    """The rejections of items that are in the catalogue: user, item and place; None if none."""
    user, place = log.rejected["user"].to_numpy(), log.rejected["place"].to_numpy()
    item = np.array([index.get(one, -1) for one in log.rejected["item"]], dtype=np.int64)
    known = item >= 0
    return (user[known], item[known], place[known]) if known.any() else None


def level_note(labels: Labels) -> list[str]:
    """A note on the level of the category hierarchy that is used; empty without a hierarchy."""
    if len(labels.counts) < 2:
        return []
    each = ", ".join(f"{level}: {count:,}" for level, count in enumerate(labels.counts, 1))
    taken = "all levels" if labels.level == "all" else f"level {labels.level}"
    note = (
        f"categories are a hierarchy, and {taken} guides the model "
        f"(categories on each level {each}; --category-level takes another)"
    )
    if labels.beside:
        note += f"; {counted(labels.beside, 'item')} whose category ends above it without one"
    return [note]


def category_table(
    labels: Sequence[Sequence[str]],
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int32]]:
    """Category names in order of first appearance, and each item's categories as CSR."""
    number: dict[str, int] = {}
    index = [number.setdefault(name, len(number)) for names in labels for name in names]
    indptr = np.zeros(len(labels) + 1, dtype=np.int64)
    np.cumsum([len(names) for names in labels], out=indptr[1:])
    return list(number), indptr, np.array(index, dtype=np.int32)


def written_texts(
    tables: SourceTables,
    columns: MatchedColumns,
    log: Interactions,
    event_item: NDArray[np.int32],
    part: NDArray[np.uint8],
    index: Mapping[str, int],
) -> dict[str, Texts]:
    """Texts that users wrote about items: `reviews` and GroupLens `tags`.

    Texts of validation and test events are left out.
    """
    fields: dict[str, list[str | None]] = {}
    if "review" in columns.interactions:
        review = _review_text(tables.interactions, columns.interactions["review"])
        fields["reviews"] = training_reviews(
            review.gather(log.row), event_item, part, log.rank, len(index)
        )
    if tables.tags is not None:
        held_out = _held_out_pairs(log, part)
        fields["tags"] = training_tags(tables.tags.frame.iter_rows(), index, held_out)
        reviews = fields.get("reviews", [None] * len(index))
        fields["reviews"] = [
            "\n".join(filter(None, texts)) or None
            for texts in zip(reviews, fields["tags"], strict=True)
        ]
    return {name: Texts(values) for name, values in fields.items() if any(values)}


def _review_text(table: Table, column: str) -> pl.Series:
    review = table.frame[column]
    if review.dtype.is_nested():
        raise CammsrError(
            f"{table.path}: column {column!r}, read as the review, holds lists, not text",
            "Map another column: --map review=COLUMN",
        )
    return review.cast(pl.String)


def _held_out_pairs(log: Interactions, part: NDArray[np.uint8]) -> set[tuple[str, str]]:
    """User id and item id of all validation and test events."""
    events = np.flatnonzero(part != TRAIN)
    users = np.searchsorted(log.indptr, events, side="right") - 1
    return {
        (log.user_ids[user], log.item_ids[item])
        for user, item in zip(users, log.item[events], strict=True)
    }


def note_replaced(
    fields: Mapping[str, object], written: Mapping[str, object], notes: list[str]
) -> None:
    """Note which columns of the items file are replaced by texts of training events."""
    for name in written:
        if name in fields:
            notes.append(f"column {name!r} of the items file replaced by training {name}")
