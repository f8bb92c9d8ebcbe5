"""Column names of raw files, recognised or mapped to the field names of this project."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cammsr_cli.errors import UsageError, closest

FileKind = Literal["interactions", "items"]
KINDS: tuple[FileKind, FileKind] = ("interactions", "items")

# Names of each field, best first: if a file has several of them, the first in this list is used.
# They are compared in lower case without "_", "-" and spaces.
CANDIDATES: dict[FileKind, dict[str, tuple[str, ...]]] = {
    "interactions": {
        "user": (
            *("user", "userid", "uid", "reviewerid", "customerid", "customer", "reviewer"),
            *("memberid", "visitorid", "accountid", "username", "userpseudoid", "sessionid"),
        ),
        "item": (
            *("item", "itemid", "iid", "parentasin", "asin", "movieid", "productid", "product"),
            *("sku", "bookid", "articleid", "trackid", "songid", "gameid", "videoid", "movie"),
            *("businessid", "isbn", "newsid", "artistid", "appid"),
        ),
        "timestamp": (
            *("timestamp", "unixtimestamp", "time", "unixreviewtime", "unixtime", "datetime"),
            *("timems", "date", "createdat", "reviewdate", "eventtime", "ts", "tdat", "eventdate"),
            *("dateadded", "eventtimestamp", "orderdate", "purchasedate"),
        ),
        "rating": ("rating", "overall", "stars", "score", "starrating", "bookrating"),
        "review": ("review", "reviewtext", "text", "reviewbody"),
        "event": (
            *("event", "eventtype", "action", "actiontype", "behavior", "behaviour"),
            *("behaviortype", "interactiontype", "activity", "eventname", "feedback", "reaction"),
        ),
    },
    "items": {
        "item": (
            *("item", "itemid", "iid", "parentasin", "asin", "movieid", "productid", "product"),
            *("sku", "bookid", "articleid", "trackid", "songid", "gameid", "videoid", "businessid"),
            *("isbn", "newsid", "artistid", "appid", "id"),
        ),
        "title": (
            *("title", "name", "itemname", "productname", "producttitle", "prodname", "booktitle"),
            *("apptitle", "appname", "caption"),
        ),
        "description": (
            *("description", "plot", "overview", "desc", "summary", "features", "feature"),
            *("detaildesc", "abstract"),
        ),
        "category": (
            *("category", "categories", "genres", "genre", "maincategory", "maincat", "tag"),
            *("categorycode", "productgroupname", "producttypename", "categoryid"),
        ),
        "image": (
            *("image", "imagepath", "img", "poster", "picture", "images", "imageurlhighres"),
            *("imageurl", "imurl", "imagefile", "posterpath", "imageurll", "imageurlm"),
            *("coverurl", "cover"),
        ),
        "video": ("video", "videopath", "clip", "trailer", "videos", "videofile", "videourl"),
    },
}
# A date, or a number that is not the ordinal of a vector's component.
_VALUE = re.compile(r"[-+]?\d{4,}|\d+[.,]\d+|\d{4}-\d\d-\d\d.*")


class UnmatchedError(UsageError):
    """Columns of the interactions are not recognised.

    Attributes:
        hint: How to fix it.
        missing: The fields that no column was found for; empty if something else is wrong.
        found: Field to column for the other fields.
    """

    def __init__(
        self, message: str, hint: str, missing: Sequence[str], found: Mapping[str, str]
    ) -> None:
        super().__init__(message, hint)
        self.hint: str = hint
        self.missing = missing
        self.found = found


@dataclass(frozen=True)
class Header:
    """The column names of one file, and the name of the file in messages."""

    file: str
    columns: Sequence[str]


@dataclass(frozen=True)
class MatchedColumns:
    """Field to column name, for each of the two files; a field without a column has no entry.

    Attributes:
        interactions: The columns of the interactions file.
        items: The columns of the items file.
        others: By file, the other recognised columns of each field, best first. Fields that the
            user mapped have none.
    """

    interactions: dict[str, str]
    items: dict[str, str] = field(default_factory=dict)
    others: dict[FileKind, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def spares(self) -> dict[str, list[str]]:
        """Further columns of the items file, read where a cell of the field's column is empty."""
        return {name: own for name, own in self.others.get("items", {}).items() if name != "item"}


def normalised(name: str) -> str:
    """A column name in lower case without underscores, hyphens and spaces."""
    return re.sub(r"[_\-\s]", "", name.lower())


def item_column(columns: Sequence[str], kind: FileKind) -> str:
    """Find the column that is recognised as the item's id.

    Raises:
        StopIteration: There is no such column.
    """
    by_name = {normalised(column): column for column in reversed(columns)}
    return next(by_name[name] for name in CANDIDATES[kind]["item"] if name in by_name)


def is_index(name: str) -> bool:
    """Whether a column holds the row numbers that pandas writes by default."""
    return not name.strip() or name in ("Unnamed: 0", "__index_level_0__")


def distinct_names(header: Sequence[str]) -> list[str]:
    """Make column names unique as polars does: a second `x` becomes `x_duplicated_0`."""
    seen: dict[str, int] = {}
    names: list[str] = []
    for name in header:
        names.append(f"{name}_duplicated_{seen[name] - 1}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return names


def looks_like_data(columns: Sequence[str]) -> bool:
    """Whether a header looks like a row of values: a name is a number or a date."""
    return any(_VALUE.fullmatch(name.strip()) for name in columns if not is_index(name))


def listed(columns: Iterable[str]) -> str:
    """List column names for a message, on one line."""
    return ", ".join(name if name.isprintable() else repr(name) for name in columns)


def match_columns(
    interactions: Header,
    items: Header | None,
    overrides: Mapping[str, str],
    required: Iterable[str] = ("user", "item", "timestamp"),
) -> MatchedColumns:
    """Find the column of every field in the interactions file and in the items file.

    Args:
        interactions: The interactions file's header.
        items: The items file's header, if there is such a file; its `item` column is required.
        overrides: Field to column, as given by `--map field=column`. A field applies to the file
            that has the column; `interactions.item` and `items.item` name the file.
        required: The fields that the interactions file must have.

    Raises:
        UsageError: An override names an unknown field or column, or a required column is missing.
            The message reports all errors at once; the hint says how to map missing columns.
    """
    headers: dict[FileKind, Header] = {"interactions": interactions}
    if items is not None:
        headers["items"] = items
    mapped, faults = _apply_overrides(headers, overrides)
    matched = {kind: _matched(kind, header, mapped[kind]) for kind, header in headers.items()}
    needed: dict[FileKind, tuple[str, ...]] = {"interactions": tuple(required), "items": ("item",)}
    hints: list[str] = []
    headerless: list[str] = []
    for kind, header in headers.items():
        missing = [name for name in needed[kind] if name not in matched[kind]]
        if missing and looks_like_data(header.columns):
            file = header.file.replace("\\", "/").rpartition("/")[2]
            given = "" if kind == "interactions" else f"{file}="
            faults.append(f"{header.file} seems to have no header: {_first_row(header)}")
            headerless.append(f"--columns {given}{','.join(['NAME'] * len(header.columns))}")
        elif missing:
            faults.append(_missing_message(header, missing))
            prefix = "items." if kind == "items" else ""
            hints += [f"--map {prefix}{name}=COLUMN" for name in missing]
    if faults:
        unlisted = [key for key in overrides if items is None and _target(key)[0] == ["items"]]
        advice = ["Give the file that tells of the items: --items FILE."] if unlisted else []
        if headerless:
            names = ", ".join(dict.fromkeys(name for kind in headers for name in needed[kind]))
            advice.append(
                f"Name its columns in their order: {' '.join(headerless)}, with {names} among them"
            )
        if hints or len(faults) > len(unlisted) + len(headerless):
            advice.append(_hint(hints))
        unmatched = [name for name in required if name not in matched["interactions"]]
        raise UnmatchedError(
            "; ".join(faults), " ".join(advice), unmatched, matched["interactions"]
        )
    others = {kind: _others(kind, header, mapped[kind]) for kind, header in headers.items()}
    return MatchedColumns(matched["interactions"], matched.get("items", {}), others)


def _recognised(kind: FileKind, header: Header, mapped: Mapping[str, str]) -> dict[str, list[str]]:
    """The columns that are recognised by name for each field, best first, without mapped ones."""
    by_name: dict[str, list[str]] = {}
    for column in header.columns:
        if column not in mapped.values():
            by_name.setdefault(normalised(column), []).append(column)
    return {
        name: [column for candidate in candidates for column in by_name.get(candidate, ())]
        for name, candidates in CANDIDATES[kind].items()
    }


def _others(kind: FileKind, header: Header, mapped: Mapping[str, str]) -> dict[str, list[str]]:
    recognised = _recognised(kind, header, mapped)
    return {
        name: columns[1:]
        for name, columns in recognised.items()
        if name not in mapped and len(columns) > 1
    }


def _matched(kind: FileKind, header: Header, mapped: Mapping[str, str]) -> dict[str, str]:
    recognised = _recognised(kind, header, mapped)
    return {name: columns[0] for name, columns in recognised.items() if columns} | dict(mapped)


def _apply_overrides(
    headers: Mapping[FileKind, Header], overrides: Mapping[str, str]
) -> tuple[dict[FileKind, dict[str, str]], list[str]]:
    mapped: dict[FileKind, dict[str, str]] = {"interactions": {}, "items": {}}
    faults: list[str] = []
    # A field with the name of its file takes precedence over the same field without it.
    for key, column in sorted(overrides.items(), key=lambda pair: "." in pair[0]):
        kinds, name = _target(key)
        if not kinds:
            faults.append(_unknown_field(key))
            continue
        present = [kind for kind in kinds if kind in headers]
        holders = [kind for kind in present if column in headers[kind].columns]
        for kind in holders:
            mapped[kind][name] = column
        if not present:
            faults.append(f"{name!r} is read from an items file, and there is none")
        elif not holders:
            faults.append(_unknown_column(name, column, [headers[kind] for kind in present]))
    return mapped, faults


def _target(key: str) -> tuple[list[FileKind], str]:
    """The files that an override's key may refer to (none if it is unknown), and the field."""
    prefix, dot, name = key.strip().lower().rpartition(".")
    return [k for k in KINDS if name in CANDIDATES[k] and (not dot or prefix == k)], name


def _unknown_field(key: str) -> str:
    fields = {kind: ", ".join(CANDIDATES[kind]) for kind in KINDS}
    return (
        f"no field {key!r} to map (interactions: {fields['interactions']}; "
        f"items: {fields['items']})"
    )


def _unknown_column(name: str, column: str, headers: Sequence[Header]) -> str:
    files = " nor ".join(header.file for header in headers)
    there = "; ".join(f"{header.file}: {listed(header.columns)}" for header in headers)
    known = [known for header in headers for known in header.columns]
    meant = closest(column, known, 1)
    question = f", did you mean {meant[0]!r}?" if meant else ""
    return f"column {column!r}, mapped to {name}, is not in {files}{question} (columns of {there})"


def _missing_message(header: Header, missing: Sequence[str]) -> str:
    return (
        f"{header.file} has no column recognised as {', '.join(missing)} "
        f"(its columns: {listed(header.columns)})"
    )


def _first_row(header: Header) -> str:
    return f"its first row, taken for one, is {listed(header.columns)}"


def _hint(mappings: Sequence[str]) -> str:
    if not mappings:
        return "Give --map FIELD=COLUMN with a field and a column named above."
    which = "which column it is" if len(mappings) == 1 else "which columns they are"
    hint = f"Say {which}: {' '.join(mappings)}"
    if "--map timestamp=COLUMN" in mappings:
        hint = f"If the rows stand in the order they happened: --order file. Else s{hint[1:]}"
    return hint
