"""What a model must beat: rankings that need no training.

Axes: U users, B users of one chunk, N items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]

from benchmarks.peers.scoring import Score
from benchmarks.peers.split import TRAIN, Split


def popularity(split: Split) -> Score:
    """Everyone gets what was bought most in training."""
    trained = split.item_E[split.part_E == TRAIN]
    count_N = np.bincount(trained, minlength=split.items).astype(np.float32)
    return lambda user_B, _: np.tile(count_N, (len(user_B), 1))


def item_knn(split: Split, neighbours: int) -> Score:
    """Item-based nearest neighbours (Sarwar et al., WWW 2001).

    The likeness of two items is the cosine of who bought them in training; an item scores the sum
    of its likeness to all items of the history, of which only its `neighbours` nearest count.

    Args:
        split: The events.
        neighbours: Nearest items that each item keeps.
    """
    trained = split.part_E == TRAIN
    users, items = split.event_users()[trained], split.item_E[trained]
    shape = (split.users, split.items)
    bought_UN = sparse.csr_array((np.ones(len(users), np.float32), (users, items)), shape)
    bought_UN.data[:] = 1  # once is as good as twice
    length_N = np.sqrt(np.maximum(bought_UN.sum(0), 1))
    unit_UN = bought_UN / length_N
    like_NN = _nearest((unit_UN.T @ unit_UN).tocsr(), neighbours)

    def score(user_B: NDArray[np.int64], part: int) -> NDArray[np.float32]:
        end_U = split.history_end(part)
        known = np.concatenate([np.arange(split.indptr_U[u], end_U[u]) for u in user_B])
        row = np.repeat(np.arange(len(user_B)), end_U[user_B] - split.indptr_U[user_B])
        ones = np.ones(len(known), np.float32)
        history_BN = sparse.csr_array(
            (ones, (row, split.item_E[known])), (len(user_B), split.items)
        )
        scores: NDArray[np.float32] = (history_BN @ like_NN).toarray()
        return scores

    return score


def _nearest(like_NN: sparse.csr_array, neighbours: int) -> sparse.csr_array:
    """Each row's largest values but its own item's, transposed: item to those it is near to."""
    like_NN.setdiag(0)
    like_NN.eliminate_zeros()
    for start, end in zip(like_NN.indptr[:-1], like_NN.indptr[1:], strict=True):
        if end - start > neighbours:
            row = like_NN.data[start:end]
            row[np.argpartition(row, -neighbours)[:-neighbours]] = 0
    like_NN.eliminate_zeros()
    return like_NN.T.tocsr()
