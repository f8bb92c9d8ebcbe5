"""Checks the vectors of a modality, to detect a bad encoder before a day of training.

Axes: N items, R of them sampled, C categories, D vector length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.data.dataset_file import pieces
from cammsr_cli.data.dataset_write import Rows
from cammsr_cli.data.readers.tables import counted

NEIGHBOURS = 10
_DRAWN = 1_000  # sample of items for the nearest neighbours


@dataclass(frozen=True)
class Look:
    """Statistics that show whether the vectors of an encoder distinguish the items.

    Attributes:
        present: Number of items that have the modality.
        alike: Number of these items whose vector is identical to that of another item.
        neighbours: Share of an item's nearest neighbours by cosine that have a category in common
            with it; None if too few items have a category.
        chance: The same share for random pairs of items.
    """

    present: int
    alike: int
    neighbours: float | None
    chance: float | None

    def __str__(self) -> str:
        share = f" ({self.alike / self.present:.0%})" if self.alike else ""
        text = f"{self.alike:,} of {counted(self.present, 'item')}{share} have another's vector"
        if self.neighbours is not None:
            text += (
                f"; {self.neighbours:.0%} of an item's {NEIGHBOURS} nearest neighbours share a "
                f"category with it, of items at random {self.chance:.0%}"
            )
        return text


def look_at(
    values: Rows,
    present: NDArray[np.bool_],
    category_indptr: NDArray[np.int64],
    category_index: NDArray[np.int32],
) -> Look | None:
    """Compute the statistics of a modality; return None if no item has it.

    Vectors are read once, piece by piece. Neighbours are searched within a random sample of items,
    which is the same at each call.

    Args:
        values: [N, D].
        present: bool [N].
        category_indptr: int64 [N + 1], CSR offsets of each item's categories.
        category_index: int32, the categories of all items.
    """
    if not present.any():
        return None
    able = np.flatnonzero(present & (np.diff(category_indptr) > 0))
    drawn = np.random.default_rng(0).permutation(able)[:_DRAWN]
    drawn.sort()
    digests: list[NDArray[np.int64]] = []
    taken: list[NDArray[np.float32]] = []
    for piece in pieces(len(present), int(values.dtype.itemsize * values.shape[1])):
        rows, own = values[piece], present[piece]
        found = (hash(row.tobytes()) for row in rows[own])
        digests.append(np.fromiter(found, np.int64, int(own.sum())))
        in_piece = drawn[(drawn >= piece.start) & (drawn < piece.stop)] - piece.start
        taken.append(rows[in_piece].astype(np.float32))
    _, times = np.unique(np.concatenate(digests), return_counts=True)
    alike = int(times[times > 1].sum())
    if len(drawn) <= NEIGHBOURS:
        return Look(int(present.sum()), alike, None, None)
    shared_RR = _sharing(drawn, category_indptr, category_index)
    vector_RD = np.concatenate(taken)
    vector_RD /= np.maximum(np.linalg.norm(vector_RD, axis=1, keepdims=True), 1e-12)
    score_RR = vector_RD @ vector_RD.T
    np.fill_diagonal(score_RR, -np.inf)
    nearest_RK = np.argpartition(-score_RR, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    near = float(np.take_along_axis(shared_RR, nearest_RK, axis=1).mean())
    pairs = len(drawn) * (len(drawn) - 1)
    chance = (int(shared_RR.sum()) - len(drawn)) / pairs
    return Look(int(present.sum()), alike, near, chance)


def _sharing(
    items: NDArray[np.int64], indptr: NDArray[np.int64], index: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Return which pairs of items have a category in common: bool [R, R]."""
    counts = np.diff(indptr)[items]
    row = np.repeat(np.arange(len(items)), counts)
    own = np.concatenate([index[indptr[item] : indptr[item + 1]] for item in items])
    known, column = np.unique(own, return_inverse=True)
    has_RC = np.zeros((len(items), len(known)), np.float32)
    has_RC[row, column] = 1
    return has_RC @ has_RC.T > 0
