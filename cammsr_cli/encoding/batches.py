"""In which order the inputs of a catalogue are encoded, and which of them by whom.

Legend: K distinct inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from cammsr_encoders.protocol import Encoder
from numpy.typing import NDArray

from cammsr_cli.encoding.engine import encoder_faults
from cammsr_cli.encoding.features import FeatureOptions
from cammsr_cli.encoding.inputs import Inputs


def items_a_batch(encoder: Encoder, name: str, options: FeatureOptions) -> int:
    """Items a batch: fewer where one counts as several samples."""
    with encoder_faults(name, "to tell what an item counts as"):
        counts_as = int(getattr(encoder, "counts_as", 1))
    return max(1, options.batch_size // max(1, counts_as))


class Batches:
    """The plan: all distinct inputs in chunks, those of like cost together; some are this shard's.

    Chunks are of one number of items. Up to four times as many of cheap ones, so that a batch is of
    one size with its padding, were no faster on a CPU: 28.4 texts a second against 28.8 (512 plots
    of MovieLens 1M through all-MiniLM-L6-v2, one thread), 326 against 333 (titles alone). It has
    not been tried on a GPU; `--batch-size` is there.

    Attributes:
        mine: bool [K], whether an input is this shard's.
        total: How many are.
        elsewhere: Items whose input is another shard's.
    """

    def __init__(self, inputs: Inputs, options: FeatureOptions, size: int) -> None:
        if inputs.cost is None:
            self._order_K = np.arange(len(inputs.keys))
        else:
            # Dearest first: what does not fit the memory fails at once, not at the end.
            words = inputs.keys.view(">u8")
            self._order_K = np.lexsort((*words.T[::-1], -inputs.cost))
        self._size, self._shard = size, options.shard
        self.mine = np.zeros(len(inputs.keys), bool)
        for chunk in self._own():
            self.mine[chunk] = True
        self.total = int(self.mine.sum())
        number_of_row = inputs.number_of_row[inputs.number_of_row >= 0]
        self.elsewhere = int(np.count_nonzero(~self.mine[number_of_row]))

    def chunks(self, missing: NDArray[np.bool_]) -> Iterator[NDArray[np.int64]]:
        """This shard's chunks, each left with only its missing inputs."""
        for chunk in self._own():
            left = chunk[missing[chunk]]
            if len(left):
                yield left

    def _own(self) -> Iterator[NDArray[np.int64]]:
        step = self._size * self._shard.count
        for start in range(self._size * (self._shard.number - 1), len(self._order_K), step):
            yield self._order_K[start : start + self._size]
