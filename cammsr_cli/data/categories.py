"""Categories: sets of names, or paths in a hierarchy. One level of it guides the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from cammsr_cli.data.readers.cells import cleaned, decoded, text_parts
from cammsr_cli.errors import UsageError

CategoryPath = tuple[str, ...]
"""A path in a hierarchy, coarsest level first; a name without a hierarchy is a path of one."""

Level = int | Literal["all"]
"""A level of the hierarchy, 1 the coarsest, or all of them."""

LEAST_CATEGORIES = 3
LARGEST_SHARE = 0.8
LEAST_COVERAGE = 0.5
NO_CATEGORY = frozenset({"", "(no genres listed)"})
_STEP = re.compile(r"\s+[>›]\s+")  # "Home > Kitchen > Knives"
_JOINTS = (",", ";")
_OTHER_FORMS = r"^\s*[\[{]|\||\s[>›]\s"  # lists, sets between "|", and paths


@dataclass(frozen=True)
class Labels:
    """The categories that guide the model.

    Attributes:
        names: [N] category names of each item, unique.
        level: The level of the hierarchy that they are from, or "all".
        counts: Number of categories on each level, coarsest first; one entry if all are sets.
        beside: Number of items without a category because all their paths end before the level.
    """

    names: list[list[str]]
    level: Level
    counts: list[int]
    beside: int


def joint_of(cells: pl.Series) -> str | None:
    """Detect the separator of category names in a column of texts: "," or ";"; None if none.

    The character may also be part of a name. Names in sets occur in several cells, next to
    different names; the parts of "Clothing, Shoes & Jewelry" do not. So the character is a
    separator only if more than half of the joined names also occur in another cell.
    """
    if cells.dtype != pl.String:
        return None
    texts = cells.drop_nulls().unique().to_frame("text")
    texts = texts.filter(~pl.col("text").str.contains(_OTHER_FORMS)).with_row_index("cell")
    for joint in _JOINTS:
        joined = pl.col("text").str.contains(joint, literal=True).alias("joined")
        names = (
            texts.select("cell", joined, pl.col("text").str.split(joint).alias("name"))
            .explode("name")
            .with_columns(pl.col("name").str.strip_chars())
            .filter(pl.col("name") != "")
            .group_by("name")
            .agg(pl.col("joined").any(), pl.col("cell").n_unique().alias("cells"))
            .filter("joined")
        )
        if names.height and int((names["cells"] > 1).sum()) * 2 > names.height:
            return joint
    return None


def category_paths(
    value: object, lists_are_paths: bool = False, joint: str | None = None
) -> list[CategoryPath]:
    """The category paths of a cell, without duplicates, in order.

    A string is one category; "|" separates several categories, and " > " separates the levels of a
    path. A list is a set of names, and a list of lists is a set of paths. "(no genres listed)" is
    no category.

    Args:
        value: The cell.
        lists_are_paths: Whether several names, in a list or between "|", are the levels of one
            path.
        joint: A further separator of categories in a string, in addition to "|"; see `joint_of`.
    """
    value = decoded(value)
    entries = value if isinstance(value, list) else [value]
    paths: list[CategoryPath] = []
    for entry in map(decoded, entries):
        if isinstance(entry, list):
            paths.append(tuple(text_parts(entry)))
        elif isinstance(entry, str) and not isinstance(value, list):
            for names in entry.split("|"):
                several = joint and not _STEP.search(names)
                paths += [_steps(name) for name in (names.split(joint) if several else [names])]
        else:
            paths += [_steps(name) for name in text_parts(entry)]
    paths = [path for names in paths if (path := _named(names))]
    if lists_are_paths and all(len(path) == 1 for path in paths):
        paths = [tuple(name for path in paths for name in path)]
    return list(dict.fromkeys(path for path in paths if path))


def _steps(name: str) -> CategoryPath:
    return tuple(_STEP.split(cleaned(name)))


def _named(path: CategoryPath) -> CategoryPath:
    """Remove the levels of a path that have no name."""
    names = (name.strip() for name in path)
    return tuple(name for name in names if name not in NO_CATEGORY)


def labels_of(paths: Sequence[Sequence[CategoryPath]], wanted: Level | None) -> Labels:
    """Each item's categories on one level, or on all levels.

    If no level is requested, the choice is among the levels that at least half of the items reach.
    It is the coarsest one that has at least three categories, none of which holds more than 80 % of
    the items. If there is no such level, it is the one whose largest category holds the smallest
    share of the items. Without a hierarchy, there is only one level.

    Args:
        paths: [N] category paths of each item.
        wanted: The requested level, from 1, or "all"; None chooses one.

    Raises:
        UsageError: No path is as deep as the requested level.
    """
    depth = max((len(path) for own in paths for path in own), default=0)
    if isinstance(wanted, int) and wanted > depth:
        deepest = f"the deepest category path has {depth}" if depth else "no item has a category"
        raise UsageError(
            f"--category-level {wanted}: {deepest}",
            f"Choose 1 to {depth}, or all." if depth else "Leave it out.",
        )
    levels = [_at_level(paths, level) for level in range(1, depth + 1)]
    counts = [len({name for names in level for name in names}) for level in levels]
    if depth < 2:
        names = levels[0] if levels else [[] for _ in paths]
        return Labels(names, wanted or 1, counts, 0)
    if wanted == "all":
        every = [
            list(dict.fromkeys(name for names in item for name in names))
            for item in zip(*levels, strict=True)
        ]
        return Labels(every, "all", counts, 0)
    level = wanted or _chosen(levels, counts)
    names = levels[level - 1]
    beside = sum(bool(own) and not got for own, got in zip(paths, names, strict=True))
    return Labels(names, level, counts, beside)


def _at_level(paths: Sequence[Sequence[CategoryPath]], level: int) -> list[list[str]]:
    """Category names on a level; "Men > Shoes" if several paths on the level end in one name."""
    places = {path[:level] for own in paths for path in own if len(path) >= level}
    shared = Counter(place[-1] for place in places)

    def name(place: CategoryPath) -> str:
        return place[-1] if shared[place[-1]] == 1 else " > ".join(place)

    return [
        list(dict.fromkeys(name(path[:level]) for path in own if len(path) >= level))
        for own in paths
    ]


def _chosen(levels: Sequence[Sequence[Sequence[str]]], counts: Sequence[int]) -> int:
    labelled = sum(bool(names) for names in levels[0])
    largest = []
    for names in levels:
        reached = sum(bool(own) for own in names)
        holding = Counter(name for own in names for name in own)
        few = reached < LEAST_COVERAGE * labelled
        largest.append(2.0 if few else max(holding.values()) / reached)
    for level, (share, count) in enumerate(zip(largest, counts, strict=True), 1):
        if count >= LEAST_CATEGORIES and share <= LARGEST_SHARE:
            return level
    return int(np.argmin(largest)) + 1
