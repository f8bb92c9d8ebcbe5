"""Recommendations as data types, for output and for programs.

Axes: U users, K best items, S streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.ranking.content_pieces import PutForward

BECAUSE = 3
"""Number of past items reported for a recommendation."""


@dataclass(frozen=True)
class PastItem:
    """An item of the history that influenced a recommendation.

    Attributes:
        item: Id of the item.
        title: Title of the item; "" if it has none.
        effect: Decrease of the score without the item.
    """

    item: str
    title: str
    effect: float


@dataclass(frozen=True)
class Recommendation:
    """One item for one user.

    Attributes:
        rank: Counted from 1.
        item: Id of the item.
        title: Title of the item; "" if it has none.
        categories: Its categories.
        score: The model's score, a logit. Only differences within one user are meaningful.
        weights: Stream name to its share in raising this item's score for this user; sums to 1.
        put_forward: The content to show; None for an item without content.
        new: Whether the item is new since training and known by its content only.
        because: The most influential past items, if requested.
        predicted: The item's most likely categories, predicted by the model, with their
            probabilities, if requested.
    """

    rank: int
    item: str
    title: str
    categories: list[str]
    score: float
    weights: dict[str, float]
    put_forward: PutForward | None
    new: bool
    because: list[PastItem] = field(default_factory=list)
    predicted: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RecommendedList:
    """Recommendations for one user or visitor.

    Attributes:
        user: The user's id, or the visitor's name.
        items: The recommendations, best first.
        popular: Whether these are the most popular items, because nothing is known about the user.
    """

    user: str
    items: list[Recommendation]
    popular: bool


@dataclass(frozen=True)
class Answers:
    """The best items of U users, best first, as arrays.

    Attributes:
        item_UK: int64 item index.
        score_UK: float32 score; minus infinity where a user has fewer items. The other values of
            such a place are meaningless.
        weight_UKS: float32 share of each stream in raising the item's score for the user.
        forward_UK: int64 index of the modality to show; -1 for an item without content.
        popular_U: bool, whether the user has no event that the model knows, and gets the most
            popular items. Scores are then numbers of training events, and weights are those of the
            average user.
    """

    item_UK: NDArray[np.int64]
    score_UK: NDArray[np.float32]
    weight_UKS: NDArray[np.float32]
    forward_UK: NDArray[np.int64]
    popular_U: NDArray[np.bool_]


@dataclass(frozen=True)
class Recall:
    """Recall of an approximate index, compared with exact search.

    Attributes:
        k: Length of the compared lists.
        share: Share of the exact best `k` items that the index found.
        users: Number of users in the measurement.
        seconds: Time to build and measure the index.
        used: Whether the index is used; False if its recall is too low for "auto".
    """

    k: int
    share: float
    users: int
    seconds: float
    used: bool
