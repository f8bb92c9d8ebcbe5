"""The items of a catalogue, as input of the model.

Axes: N items, D width, U some of the items, J neighbours of an item, C categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Met(NamedTuple):
    """Deduplicated rows of the id table for some items; computed on the host, without a GPU.

    Attributes:
        row_K: int64 rows in ascending order, each once. An item without an id uses the first row
            of the table.
        place_U: int64 index of each item's row in `row_K`.
        new_B: int64 indices, among the U, of the items with content and without an id.
    """

    row_K: Tensor
    place_U: Tensor
    new_B: Tensor


class Needed(NamedTuple):
    """Items of a catalogue, with data that the host has prepared for the device.

    Attributes:
        item_U: int64 item indices.
        met: Their rows of the id table; None if its gradients are not sparse.
        features: The items' features of the modalities that are not on the device.
    """

    item_U: Tensor
    met: Met | None
    features: Mapping[str, Tensor]


@dataclass(frozen=True)
class Catalogue:
    """The model's input about N items.

    Attributes:
        id_row_N: int64 row of the id table; -1 for an item without one (new since training).
        features: Modality to its features, float [N, dim].
        present: Modality to whether each item has it, bool [N].
        label_NC: bool, the known categories; None if there are no categories.
        standardised: Whether the features are standardised by `ItemEncoder.standardised`.
        near_NJ: int64 rows of the id table of each item's neighbours; -1 for none. If None, items
            with an id have the neighbours found by `ItemEncoder.measure`, and others have none.
        initial_ND: float, initial id embeddings of the items with content, computed by
            `ItemEncoder.standardised`. If None, they are computed as needed.
        met: The items' deduplicated rows of the id table, if they are known.
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
        """The same catalogue on `device`; if not `features`, the features are not moved."""
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
        """Select items, given by int64 index or as `Needed`.

        Features that `Needed` does not hold are copied to the items' device.
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
    """The items with an id and some content, int64 in ascending order."""
    return ((catalogue.id_row_N >= 0) & has_content(catalogue)).nonzero().squeeze(1)


def has_content(catalogue: Catalogue) -> Tensor:
    """Whether each item has any modality, bool [N]."""
    if not catalogue.present:
        return torch.zeros_like(catalogue.id_row_N, dtype=torch.bool)
    return torch.stack(list(catalogue.present.values())).any(0)


def are_new(catalogue: Catalogue) -> Tensor:
    """Whether each item has no id but has content, bool [N]."""
    return (catalogue.id_row_N < 0) & has_content(catalogue)


def unknown_items(catalogue: Catalogue) -> Tensor | None:
    """Items with neither id nor content, int64 in ascending order; None if there are none.

    Their scores are meaningless.
    """
    item_F = ((catalogue.id_row_N < 0) & ~has_content(catalogue)).nonzero().squeeze(1)
    return item_F if len(item_F) else None
