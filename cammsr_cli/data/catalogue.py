"""The catalogue: what the items file says of each item, and what training reviews add to it."""

from __future__ import annotations

import ast
import html
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.interactions import clean_ids, counted
from cammsr_cli.data.splits import TRAIN
from cammsr_cli.data.tables import Table
from cammsr_cli.data.texts import Texts
from cammsr_cli.errors import CammsrError

TEXT_FIELDS = ("title", "description")
MEDIA_FIELDS = ("image", "video")
NO_CATEGORY = frozenset({"", "(no genres listed)"})
REVIEWS_AN_ITEM = 3
REVIEW_CHARACTERS = 500
TAGS_AN_ITEM = 20

# What an object in a list of pictures, clips or categories calls its content, best first.
_MEDIA_KEYS = ("path", "file", "hi_res", "large", "url", "src", "thumb")
_NAME_KEYS = ("name", "title", "label", "value")

Row = Mapping[str, object]


@dataclass(frozen=True)
class Catalogue:
    """The items of an items file, ids unique, in the file's order.

    Attributes:
        ids: [N].
        rows: [N] 0-based row in the items file.
        fields: Per field [N] texts, None where there is none: `title`, `description`, `image`,
            `video` (media as written in the file), and every unrecognised column by its name.
        categories: [N] category names of each item, unique, in the file's order.
        notes: Counts for people.
    """

    ids: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    fields: dict[str, Texts] = field(default_factory=dict)
    categories: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_catalogue(table: Table, columns: Mapping[str, str]) -> Catalogue:
    """Read the items of a table.

    Rows without an id are dropped, and so are later rows of an id that was there before.

    Args:
        table: The raw items table.
        columns: Field to column; `item` must be there.

    Raises:
        CammsrError: No row has an item id.
    """
    ids = clean_ids(table, columns["item"])
    kept = pl.DataFrame({"row": np.arange(len(ids)), "id": ids}).drop_nulls()
    unique = kept.unique("id", keep="first", maintain_order=True)
    if unique.is_empty():
        raise CammsrError(
            f"{table.path}: no row has an item id in column {columns['item']!r}",
            "Map another column: --map items.item=COLUMN",
        )
    notes: list[str] = []
    if kept.height < len(ids):
        missing = counted(len(ids) - kept.height, "row")
        notes.append(f"{missing} of {table.path.name} without an item id dropped")
    if unique.height < kept.height:
        later = counted(kept.height - unique.height, "row")
        notes.append(f"{later} of {table.path.name} repeating an item id dropped, the first kept")
    frame = table.frame[unique["row"]]
    return Catalogue(
        ids=unique["id"].to_list(),
        rows=unique["row"].to_list(),
        fields=_fields(frame, columns),
        categories=_categories(frame, columns.get("category")),
        notes=notes,
    )


def _fields(frame: pl.DataFrame, columns: Mapping[str, str]) -> dict[str, Texts]:
    fields: dict[str, Texts] = {}
    for name in TEXT_FIELDS:
        if name in columns:
            fields[name] = Texts(text_of(value, " ") for value in frame[columns[name]])
    for name in MEDIA_FIELDS:
        if name in columns:
            fields[name] = Texts(first_media(value) for value in frame[columns[name]])
    for column in frame.columns:
        unnamed = not column.strip()  # as the index that pandas writes
        if not unnamed and column not in columns.values() and column not in fields:
            fields[column] = Texts(text_of(value, ", ") for value in frame[column])
    return fields


def _categories(frame: pl.DataFrame, column: str | None) -> list[list[str]]:
    if column is None:
        return [[] for _ in range(frame.height)]
    return [category_names(value) for value in frame[column].to_list()]


def text_of(value: object, joint: str = ", ") -> str | None:
    """A cell as text: lists joined, objects as "key: value", HTML entities resolved; "" is None."""
    text = joint.join(_text_parts(_decoded(value)))
    return text or None


def first_media(value: object) -> str | None:
    """A path or address as written; of a list its first entry, of an object its largest version."""
    value = _decoded(value)
    if isinstance(value, Mapping):
        entries = (first_media(value.get(key)) for key in _MEDIA_KEYS)
        return next((media for media in entries if media), None)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return next((media for entry in value if (media := first_media(entry))), None)
    return None if _missing(value) else str(value).strip() or None


def category_names(value: object) -> list[str]:
    """Category names of a cell, unique, order kept.

    A list, a list of lists (flattened), or a string whose names are separated by "|"; a string
    without "|" is one category. "(no genres listed)" is none.
    """
    value = _decoded(value)
    parts = value.split("|") if isinstance(value, str) else _text_parts(value)
    names = (_cleaned(part) for part in parts)
    return list(dict.fromkeys(name for name in names if name not in NO_CATEGORY))


def _decoded(value: object) -> object:
    """Polars lists as lists, and lists written into a string (JSON or Python) as lists."""
    if isinstance(value, pl.Series):
        return value.to_list()
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("[") and text.endswith("]"):
            return _parsed_list(text, value)
    return value


def _parsed_list(text: str, otherwise: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        parsed = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return otherwise
    return parsed if isinstance(parsed, list) else otherwise


def _text_parts(value: object) -> Iterator[str]:
    """The texts in a cell, nested lists flattened, empty ones left out."""
    if isinstance(value, Mapping):
        yield from _object_parts(value)
    elif isinstance(value, list):
        for entry in value:
            yield from _text_parts(_decoded(entry))
    elif not _missing(value) and (text := _cleaned(str(value))):
        yield text


def _object_parts(value: Mapping[object, object]) -> Iterator[str]:
    """An object's name if it has one, else each of its entries as "key: value"."""
    name = next((value[key] for key in _NAME_KEYS if value.get(key)), None)
    if name is not None:
        yield from _text_parts(_decoded(name))
        return
    for key, entry in value.items():
        if text := ", ".join(_text_parts(_decoded(entry))):
            yield f"{key}: {text}"


def _cleaned(text: str) -> str:
    return html.unescape(text).replace("\x00", "").strip()


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)


# --- what users wrote ---------------------------------------------------------------------------


def training_reviews(
    review: pl.Series,
    item: NDArray[np.integer],
    part: NDArray[np.uint8],
    rank: NDArray[np.int64],
    item_count: int,
) -> list[str | None]:
    """Per item the oldest reviews of its training events; nothing of validation and test.

    Args:
        review: [E] the text of each event's review, null where there is none.
        item: [E] item of each event.
        part: uint8 [E] part of each event.
        rank: int64 [E] place of each event among all events, oldest first.
        item_count: N.

    Returns:
        [N] up to three reviews, each at most 500 characters and on a line of its own.
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
        line = " ".join(_cleaned(text).split())
        texts[index].append(line[:REVIEW_CHARACTERS].rstrip())
    return ["\n".join(filter(None, lines)) or None for lines in texts]


def training_tags(
    tags: Iterable[tuple[str | None, str | None, str | None]],
    item_index: Mapping[str, int],
    held_out: Collection[tuple[str, str]],
) -> list[str | None]:
    """Per item the words users gave to it, unless that user's event with it is held out.

    Args:
        tags: User id, item id and tag, in file order.
        item_index: Item id to position, for N items.
        held_out: (user id, item id) of all validation and test events; best a set.

    Returns:
        [N] up to twenty tags joined by ", ", unique but for case, order kept.
    """
    words: list[dict[str, str]] = [{} for _ in range(len(item_index))]
    for user, item, tag in tags:
        user, item = (user or "").strip(), (item or "").strip()
        if not user or item not in item_index or (user, item) in held_out:
            continue
        text = _cleaned(tag or "")
        if text and len(known := words[item_index[item]]) < TAGS_AN_ITEM:
            known.setdefault(text.casefold(), text)
    return [", ".join(known.values()) or None for known in words]
