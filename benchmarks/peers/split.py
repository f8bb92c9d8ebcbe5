"""A data set's events as plain integers, in a form that any library can read.

    events.npz   indptr int64 [U + 1], item int32 [E], part uint8 [E]: user u's events are
                 `indptr[u]` to `indptr[u + 1]` in time order; part is 0 train, 1 validation, 2 test
    meta.json    users, items, and the content digest of the data set they come from

It is read inside the peers' environments: only NumPy is imported here.

Axes: U users, N items, E events.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cammsr_cli.data.dataset import DataSet

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True)
class Split:
    """Events of all users, and which of them are held out.

    Attributes:
        indptr_U: First event of each user and, last, the number of events; [U + 1].
        item_E: Item of each event.
        part_E: TRAIN, VALIDATION or TEST.
        items: N, items without events counted.
        content: Digest of the data set.
    """

    indptr_U: NDArray[np.int64]
    item_E: NDArray[np.int32]
    part_E: NDArray[np.uint8]
    items: int
    content: str

    @property
    def users(self) -> int:
        """U."""
        return len(self.indptr_U) - 1

    def event_users(self) -> NDArray[np.int64]:
        """User of each event, [E]."""
        return np.repeat(np.arange(self.users), np.diff(self.indptr_U))

    def event_positions(self) -> NDArray[np.int64]:
        """Place of each event in its user's history, from 0; [E]."""
        return np.arange(len(self.item_E)) - self.indptr_U[self.event_users()]

    def history_end(self, part: int) -> NDArray[np.int64]:
        """One past the last event that is known when the event of `part` is to be found; [U]."""
        known = np.bincount(self.event_users()[self.part_E < part], minlength=self.users)
        return self.indptr_U[:-1] + known

    def asked(self, part: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users with an event of `part` and a history before it, and the item of that event."""
        at = np.flatnonzero(self.part_E == part)
        at = at[self.event_positions()[at] > 0]
        return self.event_users()[at], self.item_E[at].astype(np.int64)

    def training_targets(self) -> int:
        """Training events that have one before them."""
        return int(((self.part_E == TRAIN) & (self.event_positions() > 0)).sum())

    def save(self, folder: Path) -> None:
        """Write `events.npz` and `meta.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "events.npz", indptr=self.indptr_U, item=self.item_E, part=self.part_E)
        meta = {"users": self.users, "items": self.items, "content": self.content}
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def load(folder: Path) -> Split:
    """Read what `Split.save` wrote.

    Raises:
        OSError: It is not there.
    """
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    with np.load(folder / "events.npz") as events:
        return Split(
            events["indptr"], events["item"], events["part"], meta["items"], meta["content"]
        )


def split_of(data: DataSet) -> Split:
    """The events of one of our data sets."""
    return Split(
        data.event_indptr, data.event_item, data.event_part, len(data.item_ids), data.content
    )
