"""Changes of a catalogue since a data set was prepared from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.errors import CammsrError
from cammsr_cli.prepare.options import PrepareOptions


@dataclass(frozen=True)
class Changes:
    """Number of items by the change of their encoder input: a text, or the content of a file.

    Attributes:
        added: Items with an input now, but not before.
        changed: Items with a different input.
        deleted: Items with an input before, but not now.
        unchanged: Items with the same input.
        same_encoder: Whether the encoder, its weights and its options are also the same.
    """

    added: int
    changed: int
    deleted: int
    unchanged: int
    same_encoder: bool

    def __str__(self) -> str:
        counts = (
            f"{self.added:,} added, {self.changed:,} changed, {self.deleted:,} deleted, "
            f"{self.unchanged:,} unchanged"
        )
        return counts if self.same_encoder else f"{counts}; the encoder or its options are others"


def changes_since(
    before: DataSet | None,
    modality: str,
    item_ids: Sequence[str],
    inputs: NDArray[np.uint8] | None,
    fingerprint: str,
) -> Changes | None:
    """Compare a modality's inputs, item by item, with those of an earlier data set.

    Args:
        before: The earlier data set.
        modality: The modality.
        item_ids: [N] the current catalogue.
        inputs: uint8 [N, 32], SHA-256 of each item's current input, zeros for an item without one.
        fingerprint: The encoder's current fingerprint.

    Returns:
        The counts; None if one side does not record its inputs, as with precomputed vectors.
    """
    if before is None or inputs is None or modality not in before.modalities:
        return None
    old_inputs = before.inputs(modality)
    if old_inputs is None:
        return None
    old = pl.DataFrame({"id": before.item_ids, "row": np.arange(len(before.item_ids))})
    new = pl.DataFrame({"id": item_ids})
    matched = new.join(old, on="id", how="left", maintain_order="left")["row"].fill_null(-1)
    row_N = matched.to_numpy()
    has_N = inputs.any(axis=1)
    before_N = np.zeros(len(row_N), bool)
    same_N = np.zeros(len(row_N), bool)
    there = row_N >= 0
    before_N[there] = old_inputs[row_N[there]].any(axis=1)
    same_N[there] = (old_inputs[row_N[there]] == inputs[there]).all(axis=1)
    return Changes(
        added=int((has_N & ~before_N).sum()),
        changed=int((has_N & before_N & ~same_N).sum()),
        deleted=int(old_inputs.any(axis=1).sum()) - int((has_N & before_N).sum()),
        unchanged=int((has_N & same_N).sum()),
        same_encoder=before.modalities[modality].fingerprint == fingerprint,
    )


class Replaced:
    """The data set that is to be replaced, if there is one and it can be read.

    Attributes:
        notes: Notes about this data set.
    """

    def __init__(self, options: PrepareOptions) -> None:
        self.notes: list[str] = []
        self._data: DataSet | None = None
        if options.out.exists() and options.features.shard.count == 1:
            with self._damage_noted():
                self._data = DataSet(options.out)

    def changes(
        self,
        modality: str,
        item_ids: Sequence[str],
        inputs: NDArray[np.uint8] | None,
        fingerprint: str,
    ) -> Changes | None:
        """Return what has changed since this data set; None if that is not known."""
        with self._damage_noted():
            return changes_since(self._data, modality, item_ids, inputs, fingerprint)
        return None

    @contextmanager
    def _damage_noted(self) -> Iterator[None]:
        """Record damage as a note: a damaged data set may be replaced."""
        try:
            yield
        except CammsrError as error:
            self._data = None
            self.notes.append(f"what has changed cannot be told: {error.message}")
