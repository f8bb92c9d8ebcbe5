"""The Python interface of a loaded run: takes ids, returns tables and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.errors import UsageError
from cammsr_cli.ranking import sessions
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.recommendation_file import Frames
from cammsr_cli.ranking.recommendations import RecommendedList
from cammsr_cli.ranking.sessions import Sessions
from cammsr_cli.ranking.users import user_indices

Event = str | tuple[str, int | datetime]
"""An item, or an item and its timestamp: seconds since 1970, or a date."""


class Model:
    """A trained model that makes recommendations; created by `cammsr_cli.api.load`.

    Args:
        recommender: Recommender for users and visitors of one data set.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._frames = Frames(recommender)

    @property
    def users(self) -> list[str]:
        """The users of the data set."""
        return list(self._recommender.run.data.user_ids)

    @property
    def items(self) -> list[str]:
        """The items of the data set, in the order of `item_vectors`."""
        return list(self._recommender.run.data.item_ids)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams: the id, if the model has it, then the modalities."""
        return self._recommender.run.model.streams

    def recommend(
        self,
        users: Sequence[str] | None = None,
        *,
        histories: Mapping[str, Sequence[Event]] | None = None,
        k: int = 10,
    ) -> pl.DataFrame:
        """Recommend next items to users of the data set, or to visitors by their histories.

        Args:
            users: Users of the data set.
            histories: Name to items, or to pairs of item and time, oldest first. Items that are not
                in the data set are ignored.
            k: Largest number of items for each.

        Returns:
            One row per item: user, rank from 1, item, score, put_forward (a modality),
            weight_STREAM for each stream, and popular. `popular` is True if nothing is known about
            the user, who then gets the most popular items, scored by their number of training
            events.

        Raises:
            CammsrError: A user is unknown, or no item of the histories is known.
        """
        sessions = self._sessions(users, histories)
        answers = self._recommender.answers_for(sessions, _positive(k))
        frame = self._frames.frame(sessions.ids, answers)
        per_user = np.isfinite(answers.score_UK).sum(1)
        return frame.with_columns(popular=pl.Series(np.repeat(answers.popular_U, per_user)))

    def explain(
        self,
        users: Sequence[str] | None = None,
        *,
        histories: Mapping[str, Sequence[Event]] | None = None,
        k: int = 10,
    ) -> list[RecommendedList]:
        """Recommend items with explanations: titles, the content to show, influential past items.

        Arguments and errors are those of `recommend`.
        """
        sessions = self._sessions(users, histories)
        lists = self._recommender.lists(sessions, _positive(k))
        remarks: list[str] = []
        return [
            self._recommender.explained(one, sessions.part(at, at + 1), remarks)
            for at, one in enumerate(lists)
        ]

    def item_vectors(self) -> NDArray[np.float32]:
        """Vectors of all items, [items, width]; scores are inner products with user vectors."""
        vectors: NDArray[np.float32] = self._recommender.item_vectors.cpu().numpy()
        return vectors

    def user_vectors(
        self,
        users: Sequence[str] | None = None,
        *,
        histories: Mapping[str, Sequence[Event]] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors of users or visitors, [users, width].

        The inner product with an item's vector is its score. Items of the user's own history are an
        exception: `recommend` excludes them, or adds a bias that depends on how long ago they
        occurred (`cammsr export` writes which).

        The vector is zero for users without an event that the model knows.

        Raises:
            CammsrError: A user is unknown.
        """
        sessions = self._sessions(users, histories)
        vectors: NDArray[np.float32] = self._recommender.queries(sessions)[0].cpu().numpy()
        return vectors

    def _sessions(
        self, users: Sequence[str] | None, histories: Mapping[str, Sequence[Event]] | None
    ) -> Sessions:
        if (users is None) == (histories is None):
            raise UsageError("for whom? Give either users or histories")
        if isinstance(users, str):
            raise UsageError(f"users is one text, '{users}'", f"Write a list: users=['{users}']")
        if not (users or histories):
            raise UsageError("for whom? The list is empty")
        if histories is not None:
            return sessions.of_histories(self._recommender.run.data, histories)
        return self._recommender.of_users(
            user_indices(self._recommender.run.data, list(users or ()))
        )


def _positive(k: int) -> int:
    if k < 1:
        raise UsageError(f"k is {k}", "Ask for one item at least")
    return k
