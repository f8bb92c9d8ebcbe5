"""What users are recommended, as people and programs read it.

Axes: U users, K best items, S streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cammsr_cli.ranking.pieces import PutForward

BECAUSE = 3
"""Past items told of a recommendation."""


@dataclass(frozen=True)
class PastItem:
    """An item of the history that mattered for a recommendation.

    Attributes:
        item: Its id.
        title: "" where it has none.
        effect: By how much the score is lower without it.
    """

    item: str
    title: str
    effect: float


@dataclass(frozen=True)
class Recommendation:
    """One item for one user.

    Attributes:
        rank: From 1.
        item: The item's id.
        title: "" where it has none.
        categories: Its categories.
        score: The model's score, a logit: only differences within one user mean anything.
        weights: Stream name to its share in what lifts this item for this user; sums to 1.
        put_forward: What to show; None for an item without content.
        new: Whether the item is new since training, known by its content alone.
        because: The past items that mattered most, where it was asked for.
        predicted: The item's likeliest categories as its content tells them, with their
            probabilities, where it was asked for.
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
    """What one user or visitor is recommended.

    Attributes:
        user: The user's id, or the visitor's name.
        items: Best first.
        popular: Whether nothing is known of them, so that these are the most popular items.
    """

    user: str
    items: list[Recommendation]
    popular: bool


@dataclass(frozen=True)
class Answers:
    """The best items of U users, best first, as arrays.

    Attributes:
        item_UK: int64 item index.
        score_UK: float32; minus infinity where a user has fewer items left, and the rest of that
            place means nothing.
        weight_UKS: float32 share of each stream in what lifts the item for the user.
        forward_UK: int64 index of the modality to put forward, -1 for an item without content.
        popular_U: bool, who has no event that the model knows and is given the most popular items:
            scores are then numbers of training events, and the rest is for the average user.
    """

    item_UK: NDArray[np.int64]
    score_UK: NDArray[np.float32]
    weight_UKS: NDArray[np.float32]
    forward_UK: NDArray[np.int64]
    popular_U: NDArray[np.bool_]


@dataclass(frozen=True)
class Recall:
    """How much of the exact answer an approximate index finds.

    Attributes:
        k: Length of the lists compared.
        share: Of the exact best `k` items that were found.
        users: How many users were asked about.
        seconds: What building and measuring the index took.
        used: Whether the index is used: not where "auto" finds its recall too low.
    """

    k: int
    share: float
    users: int
    seconds: float
    used: bool
