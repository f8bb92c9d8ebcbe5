"""What has changed in a catalogue since a data set was prepared from it."""

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
    """Items by what became of what is encoded of them: a text, the content of a file.

    Attributes:
        added: It is there now and was not.
        changed: It is another now.
        deleted: It is no longer there.
        unchanged: It is the same.
        same_encoder: Whether the encoder, its weights and its options are the same too.
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
        modality: Which modality.
        item_ids: [N] the catalogue now.
        inputs: uint8 [N, 32], SHA-256 of what is encoded now, zeros for nothing.
        fingerprint: The encoder's, now.

    Returns:
        The counts; None if either side does not tell, as with ready-made vectors.
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
        notes: What is to be said of it.
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
        """What has changed since; None if that cannot be told."""
        with self._damage_noted():
            return changes_since(self._data, modality, item_ids, inputs, fingerprint)
        return None

    @contextmanager
    def _damage_noted(self) -> Iterator[None]:
        """Damage is no reason not to make it again."""
        try:
            yield
        except CammsrError as error:
            self._data = None
            self.notes.append(f"what has changed cannot be told: {error.message}")
