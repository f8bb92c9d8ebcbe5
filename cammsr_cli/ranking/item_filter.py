"""Restrictions on recommendations: allowed items and categories, and excluded items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.errors import CammsrError, closest


@dataclass(frozen=True)
class Choice:
    """Restrictions on recommendations.

    Attributes:
        items: Ids of the allowed items; None for all.
        categories: An item must have at least one of these; empty for any.
        excluded: Ids of excluded items.
        per_category: Largest number of items of one category in a list; None for no limit.
        until: Histories are cut off after this timestamp, in seconds since 1970; None for the full
            histories.
    """

    items: Sequence[str] | None = None
    categories: Sequence[str] = ()
    excluded: Sequence[str] = ()
    per_category: int | None = None
    until: int | None = None

    def allowed(self, data: DataSet) -> tuple[NDArray[np.bool_], list[str]]:
        """Whether each item of a data set is allowed, and ids of the choice that are not in it.

        Raises:
            CammsrError: A category is not in the data set.
        """
        allowed, absent = np.ones(len(data.item_ids), dtype=bool), []
        if self.items is not None:
            named, unknown = _named(data, self.items)
            allowed &= named
            absent += unknown
        if self.categories:
            allowed &= _of_categories(data, self.categories)
        if self.excluded:
            named, unknown = _named(data, self.excluded)
            allowed &= ~named
            absent += unknown
        return allowed, absent


def _named(data: DataSet, ids: Sequence[str]) -> tuple[NDArray[np.bool_], list[str]]:
    """Whether each item is among `ids`, and the ids that no item has."""
    wanted = set(ids)
    named = np.array([item in wanted for item in data.item_ids], dtype=bool)
    if named.sum() == len(wanted):
        return named, []
    there = {data.item_ids[at] for at in np.flatnonzero(named)}
    return named, [item for item in dict.fromkeys(ids) if item not in there]


def _of_categories(data: DataSet, names: Sequence[str]) -> NDArray[np.bool_]:
    index = {name.casefold(): at for at, name in enumerate(data.category_names)}
    unknown = [name for name in names if name.casefold() not in index]
    if unknown:
        near = closest(unknown[0], data.category_names, 3)
        raise CammsrError(
            f"{data.path} has no category '{unknown[0]}'",
            f"Its categories are like: {', '.join(near or data.category_names[:5])}"
            if data.category_names
            else "It has no categories",
        )
    indptr, of = data.categories
    wanted = {index[name.casefold()] for name in names}
    hit = np.append(0, np.cumsum(np.isin(of, list(wanted))))
    return np.diff(hit[indptr]) > 0
