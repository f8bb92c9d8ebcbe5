"""A corpus: users, items and events of raw files, in memory, ready to be encoded and stored."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.data.catalogue import (
    Catalogue,
    read_catalogue,
)
from cammsr_cli.data.categories import Level, labels_of
from cammsr_cli.data.event_conditions import Condition, chosen_rows
from cammsr_cli.data.event_filters import Duplicates, Filters, Order, RowMarks
from cammsr_cli.data.event_kinds import Weights, kinds_note, negative_rows
from cammsr_cli.data.interactions import Interactions, read_interactions
from cammsr_cli.data.joining import (
    category_table,
    kept_positions,
    level_note,
    note_replaced,
    rejected,
    unlisted_items,
    written_texts,
)
from cammsr_cli.data.readers.columns import (
    Header,
    MatchedColumns,
    UnmatchedError,
    looks_like_data,
    match_columns,
)
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.formats import FormatName, open_sources
from cammsr_cli.data.readers.guesses import guessed_columns
from cammsr_cli.data.readers.tables import SourceTables, Table
from cammsr_cli.data.readers.timestamps import checked_time_format, finer_column
from cammsr_cli.data.splits import leave_one_out
from cammsr_cli.data.texts import Texts
from cammsr_cli.errors import UsageError, typed
from cammsr_cli.files import sha256_of


@dataclass(frozen=True)
class SourceOptions:
    """Everything needed to read raw files into a corpus.

    Attributes:
        interactions: A file, or a folder: of a known format as downloaded, or one that holds
            `interactions.*` (`reviews.*`, `ratings.*`, `events.*`) and perhaps `items.*`
            (`meta.*`, `products.*`, `catalogue.*`, `movies.*`).
        items: The items file, if there is one and the folder does not hold it.
        columns: Field to column, for columns that are not recognised by name.
        min_rating: Events with a lower rating are dropped; None keeps all.
        k_core: Users and items with fewer events are dropped, repeated until stable.
        order: Sequence order; ties in time keep the file's order.
        duplicates: "exact" drops events with the same user, item and timestamp; "first" and
            "last" keep one event of a user and an item; "keep" keeps all.
        review_text: Add reviews and tags of training events as item fields.
        catalogue: "all" keeps items of the items file that nobody rated, "rated" drops them.
        format: The format of the files; None detects it.
        reading: How files are read.
        read_otherwise: Files that other code reads, such as vectors. The notes list a folder's
            other tables that are not read, but not these files.
        category_level: The level of the category hierarchy that guides the model: 1 is the
            coarsest, "all" is every level, None chooses one. With a level number, a list of
            categories is read as a path in a hierarchy.
        where: Conditions that rows of the interactions must all fulfil; other rows are dropped.
        negative: Conditions for negative events: a row that fulfils any of them is negative. None
            detects kinds such as "dislike".
        weights: Weight of each kind of event in the loss; None weighs all events alike.
        time_format: Format of the timestamps: a strptime pattern or a name, see
            `timestamps.checked_time_format`; None detects it.
    """

    interactions: Path
    items: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    min_rating: float | None = None
    k_core: int = 0
    order: Order = "time"
    duplicates: Duplicates = "exact"
    review_text: bool = True
    catalogue: Literal["all", "rated"] = "all"
    format: FormatName | None = None
    reading: Reading = field(default_factory=Reading)
    read_otherwise: Sequence[Path] = ()
    category_level: Level | None = None
    time_format: str | None = None
    where: tuple[Condition, ...] = ()
    negative: tuple[Condition, ...] | None = None
    weights: Weights | None = None


@dataclass(frozen=True)
class Corpus:
    """Users, items and events; U users, N items, E events.

    Attributes:
        user_ids: [U] in order of first appearance in the interactions file.
        item_ids: [N] in order of the items file, then unlisted items in order of appearance.
        fields: Per field [N] texts (`title`, `description`, `reviews`, `image`, …), None if an
            item has none; media paths and URLs are as written in the file.
        item_rows: [N] 0-based row in the items file, None if not listed there.
        listed_rows: Rows of the items file, 0 if there is none.
        category_names: [C] in order of first appearance in the catalogue.
        category_indptr: int64 [N + 1], CSR offsets of each item's categories.
        category_index: int32, index into `category_names`.
        event_indptr: int64 [U + 1], CSR offsets of each user's events.
        event_item: int32 [E], in sequence order.
        event_time: int64 [E], seconds since 1970 UTC, or positions if the file has no times.
        event_part: uint8 [E], 0 train, 1 validation, 2 test.
        sources: File name (no folders) to SHA-256.
        notes: Counts for people, e.g. "12 events below rating 4 dropped".
        columns: By file, "interactions" and "items", each field's column.
        event_tied: bool [E], whether the order of the event and the same user's previous event is
            unknown; None if the times alone show it.
        event_weight: float32 [E], weight of each event in the loss; None if all weigh alike.
        rejected: Users, items and places, int64 each, sorted by user. A pair of user and item is
            here if the user rated the item too low or rejected it otherwise, so that it must not
            be recommended. The place is the number of the user's events before the rejection.
            None if there are no rejections.
        decisions: What was decided while the files were read, and how: a short table for people.
    """

    user_ids: list[str]
    item_ids: list[str]
    fields: Mapping[str, Sequence[str | None]]
    item_rows: list[int | None]
    listed_rows: int
    category_names: list[str]
    category_indptr: NDArray[np.int64]
    category_index: NDArray[np.int32]
    event_indptr: NDArray[np.int64]
    event_item: NDArray[np.int32]
    event_time: NDArray[np.int64]
    event_part: NDArray[np.uint8]
    sources: dict[str, str]
    notes: list[str]
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    event_tied: NDArray[np.bool_] | None = None
    event_weight: NDArray[np.float32] | None = None
    rejected: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None = None
    decisions: Sequence[tuple[str, str]] = ()


def read_corpus(options: SourceOptions) -> Corpus:
    """Read raw files: recognise columns, filter and order events, split them, build the catalogue.

    From the interactions file, only the review text of training events becomes part of an item. A
    title in a reviews file is the title of the review, not of the item.

    Raises:
        UsageError: The options do not fit the files: folder, files or columns are not found.
        CammsrError: A file is broken, a value in it cannot be read, or no events are left.
    """
    read = _read(options)
    tables, columns, log, listed = read.tables, read.columns, read.log, read.listed
    notes = [*tables.notes, *read.columns_notes, *read.kinds_notes, *log.notes, *listed.notes]

    positions = kept_positions(listed, log, options.catalogue, notes)
    unlisted = unlisted_items(listed, log, tables.items, notes)
    item_ids = [listed.ids[position] for position in positions] + unlisted
    index = {item: number for number, item in enumerate(item_ids)}
    event_item = np.array([index[item] for item in log.item_ids], dtype=np.int32)[log.item]
    part = leave_one_out(log.indptr)

    nothing = [None] * len(unlisted)
    fields = {
        name: Texts(chain((values[position] for position in positions), nothing))
        for name, values in listed.fields.items()
    }
    if options.review_text:
        written = written_texts(tables, columns, log, event_item, part, index)
        note_replaced(fields, written, notes)
        fields |= written
    paths = [listed.categories[position] for position in positions] + [[] for _ in unlisted]
    labels = labels_of(paths, options.category_level)
    level = level_note(labels)
    notes += level
    category_names, category_indptr, category_index = category_table(labels.names)
    return Corpus(
        user_ids=log.user_ids,
        item_ids=item_ids,
        fields=fields,
        item_rows=[*(listed.rows[position] for position in positions), *nothing],
        listed_rows=tables.items.frame.height if tables.items else 0,
        category_names=category_names,
        category_indptr=category_indptr,
        category_index=category_index,
        event_indptr=log.indptr,
        event_item=event_item,
        event_time=log.time,
        event_part=part,
        sources=_sources(tables),
        notes=notes,
        columns={"interactions": columns.interactions, "items": columns.items},
        event_tied=log.tied,
        event_weight=log.weight,
        rejected=rejected(log, index),
        decisions=_decisions(read, level),
    )


@dataclass(frozen=True)
class _Read:
    """The content of the raw files, and notes about the choices that were made."""

    tables: SourceTables
    columns: MatchedColumns
    log: Interactions
    listed: Catalogue
    columns_notes: list[str]
    kinds_notes: list[str]


def _read(options: SourceOptions) -> _Read:
    filters = Filters(
        options.min_rating,
        options.duplicates,
        options.k_core,
        options.order,
        None if options.time_format is None else checked_time_format(options.time_format),
    )
    tables = open_sources(
        options.interactions,
        options.items,
        options.format,
        options.reading,
        options.read_otherwise,
    )
    columns = _match(tables, options)
    choices = _choices(tables, columns, options)
    columns, finer = _with_finest_times(tables.interactions, columns, options)
    marks, kinds = _marks(tables.interactions, columns.interactions, options, choices)
    log = read_interactions(tables.interactions, columns.interactions, filters, marks)
    listed = _listed(tables, columns, options)
    return _Read(tables, columns, log, listed, [*choices, *finer], kinds)


def _decisions(read: _Read, level: Sequence[str]) -> list[tuple[str, str]]:
    """The columns that were read from each file, and the notes about the choices made."""
    tables, columns = read.tables, read.columns
    rows = [("interactions", _fields_of(tables.interactions, columns.interactions))]
    if tables.items is not None:
        rows.append(("items", _fields_of(tables.items, columns.items)))
    notes_by_kind = {
        "files": tables.notes,
        "columns": read.columns_notes,
        "times": [read.log.times or "none: events are in the file's order"],
        "events": read.kinds_notes,
        "categories": [*read.listed.choices, *level],
    }
    return rows + [(what, note) for what, notes in notes_by_kind.items() for note in notes]


def _fields_of(table: Table, columns: Mapping[str, str]) -> str:
    fields = ", ".join(f"{name} = {column}" for name, column in columns.items())
    return f"{table.path.name}: {fields}"


# --- reading the tables -------------------------------------------------------------------------


def _listed(tables: SourceTables, columns: MatchedColumns, options: SourceOptions) -> Catalogue:
    if tables.items is None:
        return Catalogue()
    lists_are_paths = tables.lists_are_paths or isinstance(options.category_level, int)
    return read_catalogue(tables.items, columns.items, columns.spares, lists_are_paths)


def _match(tables: SourceTables, options: SourceOptions) -> MatchedColumns:
    required = ["user", "item"]
    if options.order == "time":
        required.append("timestamp")
    if options.min_rating is not None:
        required.append("rating")
    items = _header(tables.items) if tables.items else None
    try:
        return match_columns(_header(tables.interactions), items, options.columns, required)
    except UnmatchedError as unmatched:
        guess = _guess(tables.interactions, options, unmatched)
        raise UsageError(unmatched.message, unmatched.hint.removesuffix(".") + guess) from None


def _guess(table: Table, options: SourceOptions, unmatched: UnmatchedError) -> str:
    """Suggest a command from the values of the interactions' columns; "" if there is none."""
    names = table.frame.columns
    headerless = looks_like_data(names)
    taken = () if headerless else tuple(unmatched.found.values())
    missing = ("user", "item", "timestamp") if headerless else unmatched.missing
    found = guessed_columns(table.frame, missing, taken)
    if not found:
        return ""
    words = ["cammsr prepare", typed(options.interactions)]
    if options.items is not None:
        words += ["--items", typed(options.items)]
    if headerless:
        fields = {column: name for name, column in found.items()}
        every = ",".join(fields.get(name, f"column{at}") for at, name in enumerate(names, 1))
        file = "" if table.path == options.interactions else f"{table.path.name}="
        words += ["--columns", typed(f"{file}{every}")]
    else:
        words += [f"--map {typed(f'{name}={column}')}" for name, column in found.items()]
    return f"; by what they hold, perhaps: {' '.join(words)}"


def _with_finest_times(
    table: Table, columns: MatchedColumns, options: SourceOptions
) -> tuple[MatchedColumns, list[str]]:
    """The columns, with the timestamp column of the finest resolution.

    A timestamp column that the user chose stays; the note then names the finer one.
    """
    chosen = columns.interactions.get("timestamp")
    if chosen is None or options.time_format is not None:
        return columns, []
    others = [name for name in table.frame.columns if name not in columns.interactions.values()]
    finer = finer_column(table, chosen, others)
    if finer is None:
        return columns, []
    if {"timestamp", "interactions.timestamp"} & {key.lower() for key in options.columns}:
        choose = shlex.quote(f"timestamp={finer}")
        return columns, [
            f"column {finer!r} of {table.path.name} tells times more finely than "
            f"{chosen!r} (to take it: --map {choose})"
        ]
    choose = shlex.quote(f"timestamp={chosen}")
    note = (
        f"timestamp read from column {finer!r} of {table.path.name}, which is finer than "
        f"{chosen!r} (to choose: --map {choose})"
    )
    interactions = {**columns.interactions, "timestamp": finer}
    return replace(columns, interactions=interactions), [note]


def _marks(
    table: Table, columns: dict[str, str], options: SourceOptions, notes: list[str]
) -> tuple[RowMarks, list[str]]:
    """The marks that the options give to the rows, and notes about the kinds of events."""
    chosen = None
    if options.where:
        chosen = chosen_rows(table, columns, options.where, notes)
    negative = negative_rows(table, columns, options.negative)
    weight = options.weights.of_rows(table, columns) if options.weights else None
    kinds = kinds_note(table, columns, chosen, negative, options.weights)
    return RowMarks(chosen, negative, weight), kinds


def _choices(tables: SourceTables, columns: MatchedColumns, options: SourceOptions) -> list[str]:
    """Notes about fields with several recognised columns: the one read, and how to choose."""
    if tables.known:
        return []
    unread = {"rating"} if options.min_rating is None else set()
    if not options.review_text:
        unread.add("review")
    notes: list[str] = []
    for name, others in columns.others.get("interactions", {}).items():
        if name not in unread:
            column = columns.interactions[name]
            notes.append(_choice(tables.interactions, name, column, others, name))
    for name, others in columns.others.get("items", {}).items():
        if tables.items is not None:
            column = columns.items[name]
            notes.append(_choice(tables.items, name, column, others, f"items.{name}"))
    return notes


def _choice(table: Table, name: str, column: str, others: Sequence[str], key: str) -> str:
    spare = key.startswith("items.") and name != "item"
    instead = "or where that is empty from" if spare else "not from"
    choose = f"--map {shlex.quote(f'{key}={others[0]}')}"
    return (
        f"{name} read from column {column!r} of {table.path.name}, {instead} "
        f"{' or '.join(map(repr, others))} (to choose: {choose})"
    )


def _header(table: Table) -> Header:
    return Header(str(table.path), table.frame.columns)


def _sources(tables: SourceTables) -> dict[str, str]:
    """Map file names to SHA-256; the name of a part in a folder begins with the folder's name."""
    sources: dict[str, str] = {}
    known: set[Path] = set()
    given = (tables.interactions, tables.items, tables.tags)
    for table in (table for table in given if table is not None):
        for file in table.files:
            if file not in known:
                known.add(file)
                inside = file.is_relative_to(table.path)
                name = file.relative_to(table.path.parent).as_posix() if inside else file.name
                sources[name if name not in sources else f"{name} (items)"] = sha256_of(file)
    return sources
