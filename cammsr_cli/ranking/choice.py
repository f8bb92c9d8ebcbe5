"""What may be recommended at all: of some items, of some categories, without others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.errors import CammsrError, closest


@dataclass(frozen=True)
class Choice:
    """What may be recommended.

    Attributes:
        items: Ids of the only items that may be; None for all.
        categories: An item must have one of these; none for any.
        excluded: Ids of items that may not be.
        per_category: Most items of one category in a list; None for any number.
        until: Histories end at this moment, in seconds since 1970; None for their end.
    """

    items: Sequence[str] | None = None
    categories: Sequence[str] = ()
    excluded: Sequence[str] = ()
    per_category: int | None = None
    until: int | None = None

    def allowed(self, data: DataSet) -> tuple[NDArray[np.bool_], list[str]]:
        """Which items of a data set may be, and ids of the choice that it does not have.

        Raises:
            CammsrError: It has no such category.
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
    """Which items are called so, and the ids that no item has."""
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
