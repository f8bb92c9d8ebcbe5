"""The catalogue: the content of each item from the items file and from training reviews."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.categories import CategoryPath, category_paths, joint_of
from cammsr_cli.data.readers.cells import cleaned, first_media, text_of
from cammsr_cli.data.readers.columns import is_index
from cammsr_cli.data.readers.faults import shortened
from cammsr_cli.data.readers.ids import clean_ids
from cammsr_cli.data.readers.tables import Table, counted, values_of
from cammsr_cli.data.splits import TRAIN
from cammsr_cli.data.texts import Texts
from cammsr_cli.errors import CammsrError

TEXT_FIELDS = ("title", "description")
MEDIA_FIELDS = ("image", "video")
_DATE = r"^\d{4}-\d\d-\d\d([T ]\d\d:.*)?$"
_FEW = 0.2
REVIEWS_AN_ITEM = 3
REVIEW_CHARACTERS = 500
TAGS_AN_ITEM = 20


@dataclass(frozen=True)
class Catalogue:
    """The items of an items file, ids unique, in the file's order.

    Attributes:
        ids: [N].
        rows: [N] 0-based row in the items file.
        fields: Per field [N] texts, None if missing: `title`, `description`, `image`, `video`
            (media paths and URLs as written in the file), and every unrecognised column by its
            name.
        categories: [N] category paths of each item, unique, in the file's order.
        notes: Counts for people.
        choices: The notes about how categories are read; `notes` holds them too.
    """

    ids: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    fields: dict[str, Texts] = field(default_factory=dict)
    categories: list[list[CategoryPath]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)


def read_catalogue(
    table: Table,
    columns: Mapping[str, str],
    spares: Mapping[str, Sequence[str]] | None = None,
    lists_are_paths: bool = False,
) -> Catalogue:
    """Read the items of a table.

    Rows without an id are dropped. If several rows have the same id, all but the first are dropped.
    Rows whose id is a date are dropped if only few ids are dates.

    Args:
        table: The raw items table.
        columns: Field to column; `item` must be there.
        spares: Field to further columns, which are read where the field's own column is empty.
        lists_are_paths: Whether a list of categories is a path in a hierarchy, not a set.

    Raises:
        CammsrError: No row has an item id.
    """
    notes = list(table.notes)
    ids = clean_ids(table, columns["item"], notes)
    missing = ids.null_count()
    ids = _without_dates(table, ids, notes)
    kept = pl.DataFrame({"row": np.arange(len(ids)), "id": ids}).drop_nulls()
    unique = kept.unique("id", keep="first", maintain_order=True)
    if unique.is_empty():
        raise CammsrError(
            f"{table.path}: no row has an item id in column {columns['item']!r}",
            "Map another column: --map items.item=COLUMN",
        )
    if missing:
        notes.append(f"{counted(missing, 'row')} of {table.path.name} without an item id dropped")
    if unique.height < kept.height:
        later = counted(kept.height - unique.height, "row")
        notes.append(f"{later} of {table.path.name} repeating an item id dropped, the first kept")
    rows = unique["row"].to_list()
    spares = spares or {}
    category = columns.get("category")
    categories = [category, *spares.get("category", ())] if category else []
    fields = _fields(table, rows, columns, spares, notes)
    choices: list[str] = []
    paths = _categories(table, rows, categories, lists_are_paths, choices)
    return Catalogue(unique["id"].to_list(), rows, fields, paths, [*notes, *choices], choices)


def _without_dates(table: Table, ids: pl.Series, notes: list[str]) -> pl.Series:
    """Replace ids that are dates by null if only few are: cells of these rows may be shifted."""
    dates = ids.str.contains(_DATE).fill_null(False)
    rows = dates.arg_true()
    if not 0 < len(rows) <= _FEW * (len(ids) - ids.null_count()):
        return ids
    notes.append(
        f"{counted(len(rows), 'row')} of {table.path.name} left out, whose id is a date as no "
        f"other's is, such as {ids[int(rows[0])]} ({table.place(int(rows[0]))}): its cells are "
        "perhaps shifted"
    )
    return ids.set(dates, None)


def _fields(
    table: Table,
    rows: Sequence[int],
    columns: Mapping[str, str],
    spares: Mapping[str, Sequence[str]],
    notes: list[str],
) -> dict[str, Texts]:
    fields: dict[str, Texts] = {}
    for name in (*TEXT_FIELDS, *MEDIA_FIELDS):
        if name not in columns:
            continue
        read = first_media if name in MEDIA_FIELDS else partial(text_of, joint=" ")
        values = Texts(map(read, values_of(table, columns[name], rows)))
        for spare in spares.get(name, ()):
            empty = values.count(None)
            if empty == 0:
                break
            others = map(read, values_of(table, spare, rows))
            values = Texts(mine or other for mine, other in zip(values, others, strict=True))
            if taken := empty - values.count(None):
                notes.append(f"{name} of {counted(taken, 'item')} taken from column {spare!r}")
        fields[name] = values
    for column in table.frame.columns:
        if not is_index(column) and column not in columns.values() and column not in fields:
            fields[column] = Texts(map(text_of, values_of(table, column, rows)))
    return fields


def _categories(
    table: Table,
    rows: Sequence[int],
    columns: Sequence[str],
    lists_are_paths: bool,
    choices: list[str],
) -> list[list[CategoryPath]]:
    """Category paths of each row, from the first of the columns that has any for this row."""
    paths: list[list[CategoryPath]] = [[] for _ in rows]
    for column in columns:
        if all(paths):
            break
        joint = joint_of(table.frame[column])
        if joint is not None:
            cells = table.frame[column].drop_nulls()
            example = cells.filter(cells.str.contains(joint, literal=True))[0]
            choices.append(
                f"column {column!r} of {table.path.name} holds several categories a cell, "
                f"separated by {joint!r}, as in {shortened(example)!r}"
            )
        values = values_of(table, column, rows)
        paths = [
            own or category_paths(value, lists_are_paths, joint)
            for own, value in zip(paths, values, strict=True)
        ]
    return paths


# --- texts of users -----------------------------------------------------------------------------


def training_reviews(
    review: pl.Series,
    item: NDArray[np.integer],
    part: NDArray[np.uint8],
    rank: NDArray[np.int64],
    item_count: int,
) -> list[str | None]:
    """The oldest reviews of each item's training events; none of validation and test events.

    Args:
        review: [E] the text of each event's review; null if it has none.
        item: [E] item of each event.
        part: uint8 [E] part of each event.
        rank: int64 [E] place of each event among all events, oldest first.
        item_count: N.

    Returns:
        [N] up to three reviews, one per line, each of at most 500 characters.
    """
    events = pl.DataFrame({"item": item, "rank": rank, "part": part, "text": review})
    oldest = (
        events.filter((pl.col("part") == TRAIN) & pl.col("text").str.contains(r"\S"))
        .sort("rank")
        .group_by("item", maintain_order=True)
        .head(REVIEWS_AN_ITEM)
    )
    texts: list[list[str]] = [[] for _ in range(item_count)]
    for index, text in oldest.select("item", "text").iter_rows():
        line = " ".join(cleaned(text).split())
        texts[index].append(line[:REVIEW_CHARACTERS].rstrip())
    return ["\n".join(filter(None, lines)) or None for lines in texts]


def training_tags(
    tags: Iterable[tuple[str | None, str | None, str | None]],
    item_index: Mapping[str, int],
    held_out: Collection[tuple[str, str]],
) -> list[str | None]:
    """The tags that users gave to each item, except users whose event with it is held out.

    Args:
        tags: User id, item id and tag, in file order.
        item_index: Item id to position, for N items.
        held_out: (user id, item id) of all validation and test events; a set is fastest.

    Returns:
        [N] up to twenty tags joined by ", ", without duplicates that differ only in case, in file
        order.
    """
    words: list[dict[str, str]] = [{} for _ in range(len(item_index))]
    for user, item, tag in tags:
        user, item = (user or "").strip(), (item or "").strip()
        if not user or item not in item_index or (user, item) in held_out:
            continue
        text = cleaned(tag or "")
        if text and len(known := words[item_index[item]]) < TAGS_AN_ITEM:
            known.setdefault(text.casefold(), text)
    return [", ".join(known.values()) or None for known in words]
