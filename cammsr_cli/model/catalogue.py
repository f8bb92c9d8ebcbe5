"""The items of a catalogue as the model is given them.

Axes: N items, D width, U some of the items, J neighbours of an item, C categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Met(NamedTuple):
    """Which rows of the id table some items have, each once; found on the host, without a GPU.

    Attributes:
        row_K: int64 rows, rising; an item without an id counts as one with the first.
        place_U: int64 place of each item's row among those.
        new_B: int64 the items, by their place among the U, with content and without an id.
    """

    row_K: Tensor
    place_U: Tensor
    new_B: Tensor


class Needed(NamedTuple):
    """Items of a catalogue, and what the host has found out for a device that computes on them.

    Attributes:
        item_U: int64 indices.
        met: Their rows of the id table; None where gradients of that are not sparse.
        features: Of modalities that do not lie on the device, the items' features.
    """

    item_U: Tensor
    met: Met | None
    features: Mapping[str, Tensor]


@dataclass(frozen=True)
class Catalogue:
    """What the model is told of N items.

    Attributes:
        id_row_N: int64 row of the id table, -1 for an item that has none (new since training).
        features: Modality to float [N, dim].
        present: Modality to bool [N].
        label_NC: bool, the known categories; None where there are none at all.
        standardised: Whether the features have been through `ItemEncoder.standardised`.
        near_NJ: int64 rows of the id table, those of each item's neighbours, -1 for none; if not
            given, items with an id have those found by `ItemEncoder.measure`, and others none.
        initial_ND: float, where the ids of items with content begin, made by
            `ItemEncoder.standardised`; if not given, it is made as needed.
        met: The items' rows of the id table, each once, if they are known.
    """

    id_row_N: Tensor
    features: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    label_NC: Tensor | None = None
    standardised: bool = False
    near_NJ: Tensor | None = None
    initial_ND: Tensor | None = None
    met: Met | None = None

    def to(self, device: torch.device, features: bool = True) -> Catalogue:
        """The same catalogue on `device`; without `features`, those stay where they are."""
        return Catalogue(
            self.id_row_N.to(device),
            {m: f.to(device) if features else f for m, f in self.features.items()},
            {m: p.to(device) for m, p in self.present.items()},
            None if self.label_NC is None else self.label_NC.to(device),
            self.standardised,
            None if self.near_NJ is None else self.near_NJ.to(device),
            None if self.initial_ND is None else self.initial_ND.to(device),
        )

    def take(self, items: Tensor | Needed) -> Catalogue:
        """Some items alone, int64, or with what is known of them.

        Features that were not brought come from wherever they lie to the items' device.
        """
        needed = items if isinstance(items, Needed) else Needed(items, None, {})
        item_U, brought = needed.item_U, needed.features
        device = item_U.device
        return Catalogue(
            self.id_row_N[item_U],
            {
                m: brought[m] if m in brought else f[item_U.to(f.device)].to(device)
                for m, f in self.features.items()
            },
            {m: p[item_U] for m, p in self.present.items()},
            None if self.label_NC is None else self.label_NC[item_U],
            self.standardised,
            None if self.near_NJ is None else self.near_NJ[item_U],
            None if self.initial_ND is None else self.initial_ND[item_U],
            needed.met,
        )


def known_items(catalogue: Catalogue) -> Tensor:
    """The items with an id and some content, int64 and rising."""
    return ((catalogue.id_row_N >= 0) & has_content(catalogue)).nonzero().squeeze(1)


def has_content(catalogue: Catalogue) -> Tensor:
    """Which items have any modality, bool [N]."""
    if not catalogue.present:
        return torch.zeros_like(catalogue.id_row_N, dtype=torch.bool)
    return torch.stack(list(catalogue.present.values())).any(0)


def are_new(catalogue: Catalogue) -> Tensor:
    """bool [N]: without an id, but with content."""
    return (catalogue.id_row_N < 0) & has_content(catalogue)


def unknown_items(catalogue: Catalogue) -> Tensor | None:
    """Items with neither id nor content, int64 and rising: no score of theirs means anything.

    None where there are none.
    """
    item_F = ((catalogue.id_row_N < 0) & ~has_content(catalogue)).nonzero().squeeze(1)
    return item_F if len(item_F) else None
