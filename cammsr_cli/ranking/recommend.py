"""Recommendations for users, with explanations: the core of `cammsr recommend`.

Axes: U users, N items, K best items, S streams, M modalities, V score width.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cammsr_cli.data.splits import TRAIN
from cammsr_cli.errors import CammsrError
from cammsr_cli.model.catalogue_tensors import are_new, unknown_items
from cammsr_cli.model.history_windows import Events
from cammsr_cli.ranking.content_pieces import (
    FindMedia,
    Pieces,
    PutForward,
    first_piece,
    media_unknown,
)
from cammsr_cli.ranking.diversity import spread
from cammsr_cli.ranking.explain import modality_weights, put_forward
from cammsr_cli.ranking.full_ranking import Ranking, item_tables, user_queries
from cammsr_cli.ranking.item_filter import Choice
from cammsr_cli.ranking.new_items import evenly, extended_queries, share_of_new, with_places
from cammsr_cli.ranking.recommendations import (
    BECAUSE,
    Answers,
    PastItem,
    Recall,
    Recommendation,
    RecommendedList,
)
from cammsr_cli.ranking.seen import Histories, Seen, without
from cammsr_cli.ranking.sessions import Sessions
from cammsr_cli.ranking.sessions import of_users as sessions_of_users
from cammsr_cli.ranking.top_k import RECALL_AIM, ExactIndex, FaissIndex, Index, Top, wants_faiss
from cammsr_cli.ranking.users import user_index
from cammsr_cli.runs.loading import LoadedRun

RECALL_USERS = 256
"""Number of users by whom the recall of an approximate index is measured."""


class Recommender:
    """Makes recommendations for users of a loaded run; the item tables are computed once.

    Items with neither an id nor content are not recommended.

    Args:
        run: A loaded run.
        new_share: Share of the top places for new items, over all users; None for their share of
            the catalogue.
        exclude_seen: Whether items that a user has seen are excluded; None to decide by the
            training data (`ModelSpec.repeats`).
        choice: Restrictions on recommendations; None for no restrictions.
        ranking: A ranking by the same model of the same catalogue, whose scores are reused; None
            to compute them.

    Attributes:
        passed_over: Items of `choice` that are not in the data set.

    Raises:
        CammsrError: The choice allows no item, or names a category that does not exist.
    """

    def __init__(
        self,
        run: LoadedRun,
        new_share: float | None = None,
        exclude_seen: bool | None = None,
        choice: Choice | None = None,
        ranking: Ranking | None = None,
    ) -> None:
        self.run = run
        self.choice = choice or Choice()
        self._pieces = Pieces(run)
        self.exclude_seen = not run.spec.repeats if exclude_seen is None else exclude_seen
        self.tables = ranking.tables if ranking else item_tables(run.model, run.catalogue)
        new_N, self._unknown_F = are_new(run.catalogue), unknown_items(run.catalogue)
        if ranking is not None:
            self._target_NV = ranking.target_NV
        else:
            self._target_NV = with_places(
                self.tables.target_NV,
                new_N,
                share_of_new(new_N, new_share),
                len(self.everyone),
                lambda some: self._queries(self.of_users(some.numpy())),
                self._unknown_F,
            )
        self._hidden_F = self._not_shown()
        self.index: Index = ExactIndex(self._target_NV, self._hidden_F)
        self._average_V = self.tables.target_NV.mean(0)
        present = [run.catalogue.present[name] for name in run.model.modalities]
        none_N0 = self.tables.present_NS[:, :0]
        self._has_NM = torch.stack(present, dim=1) if present else none_N0

    @property
    def score_width(self) -> int:
        """V, the width of queries and targets."""
        return self.tables.target_NV.shape[1]

    @property
    def everyone(self) -> NDArray[np.int64]:
        """Indices of all users."""
        return np.arange(len(self.run.data.event_indptr) - 1, dtype=np.int64)

    def index_of(self, item: str) -> int:
        """Index of an item, given by id."""
        return self._index[item]

    def choose_index(self, name: str, users: int, k: int) -> Recall | None:
        """Set the index for all further searches: "exact", "faiss" or "auto".

        Args:
            name: Name of the index. "auto" uses faiss only if it saves time and its recall is high.
            users: Number of users who will get recommendations.
            k: Number of items for each user.

        Returns:
            The recall of the approximate index, measured on evenly spaced users of the data set;
            None if the search is exact.

        Raises:
            UsageError: faiss is requested and not installed.
        """
        if not wants_faiss(name, len(self.tables.target_NV), users, self.run.device):
            return None
        began = time.perf_counter()
        index = FaissIndex(self._target_NV, self._hidden_F)
        drawn = evenly(len(self.everyone), RECALL_USERS).numpy()
        query_UV, seen = self._queries(self.of_users(drawn))
        query_UW = extended_queries(query_UV, self._target_NV)
        truth = index.exact.top_k(query_UW, k, seen)
        share = index.aim(query_UW, k, seen, truth)
        used = name == "faiss" or share >= RECALL_AIM
        if used:
            self.index = index
        return Recall(k, share, len(drawn), time.perf_counter() - began, used)

    def of_users(self, users: NDArray[np.int64]) -> Sessions:
        """The sessions of some of the data set's users, given by index."""
        return sessions_of_users(self.run.data, users)

    def answers(self, users: NDArray[np.int64], k: int) -> Answers:
        """The `k` best next items of each of `users`, given by index; fewer if there are fewer."""
        return self.answers_for(self.of_users(users), k)

    @torch.inference_mode()
    def answers_for(self, sessions: Sessions, k: int) -> Answers:
        """The `k` best next items of each session; fewer if there are fewer."""
        if self.choice.until is not None:
            sessions = sessions.until(self.choice.until)
        query_UV, seen = self._queries(sessions)
        top = self._best(self.index, extended_queries(query_UV, self._target_NV), k, seen)
        popular_U = torch.from_numpy(self.without_history(sessions))
        row_B = popular_U.nonzero().squeeze(1).to(query_UV.device)
        if len(row_B):
            query_UV[row_B] = self._average_query
            most = self._best(
                self._popularity,
                query_UV.new_ones(len(row_B), 1),
                k,
                seen.of(row_B) if seen else None,
            )
            top.item_UK[row_B], top.score_UK[row_B] = most.item_UK, most.score_UK
        weight_UKS = modality_weights(
            self.run.model, query_UV, self.tables, self._average_V, top.item_UK
        )
        forward_UK = put_forward(weight_UKS, self._has_NM[top.item_UK])
        return Answers(
            top.item_UK.cpu().numpy(),
            top.score_UK.cpu().numpy(),
            weight_UKS.cpu().numpy(),
            forward_UK.cpu().numpy(),
            popular_U.numpy(),
        )

    @property
    def item_vectors(self) -> Tensor:
        """Targets of all items for `queries`: [N, V], or [N, V + 1] if some items are new."""
        return self._target_NV

    @property
    def not_shown(self) -> Tensor | None:
        """Indices of the items that are never recommended, int64; None if there are none."""
        return self._hidden_F

    @torch.inference_mode()
    def queries(self, sessions: Sessions) -> tuple[Tensor, Seen | None]:
        """Compute each session's query vector, and its seen and rejected items.

        The inner products with `item_vectors` are the scores, except for seen and rejected items:
        these are excluded or have a bias. The vector of a session without events is zero.
        """
        if self.choice.until is not None:
            sessions = sessions.until(self.choice.until)
        query_UV, seen = self._queries(sessions)
        empty_U = torch.from_numpy(self.without_history(sessions)).to(query_UV.device)
        query_UV[empty_U] = 0.0
        return extended_queries(query_UV, self._target_NV), seen

    def _best(self, index: Index, query_UV: Tensor, k: int, seen: Seen | None) -> Top:
        """The `k` best items of each query, within the limit of items per category."""
        label_NC, most = self.run.catalogue.label_NC, self.choice.per_category
        if most is None or label_NC is None:
            return index.top_k(query_UV, k, seen)
        return spread(index, query_UV, k, seen, label_NC, most)

    def without_history(self, sessions: Sessions) -> NDArray[np.bool_]:
        """Whether each session has no event with an item that has an id or content."""
        known = np.ones(len(self.run.data.item_ids), dtype=bool)
        if self._unknown_F is not None:
            known[self._unknown_F.cpu().numpy()] = False
        before = np.append(0, np.cumsum(known[sessions.histories.item]))
        empty: NDArray[np.bool_] = np.diff(before[sessions.histories.indptr]) == 0
        return empty

    @cached_property
    def _index(self) -> dict[str, int]:
        """Item id to index."""
        return {item: at for at, item in enumerate(self.run.data.item_ids)}

    @cached_property
    def _popularity(self) -> ExactIndex:
        """Index of the items by their number of training events."""
        data = self.run.data
        counts = np.bincount(data.event_item[data.event_part == TRAIN], minlength=self._items)
        count_N1 = torch.from_numpy(counts).float().to(self.run.device)[:, None]
        return ExactIndex(count_N1, self._hidden_F)

    @cached_property
    def _average_query(self) -> Tensor:
        query_UV, _ = self._queries(self.of_users(evenly(len(self.everyone), RECALL_USERS).numpy()))
        return query_UV.mean(0)

    @property
    def _items(self) -> int:
        return len(self.run.data.item_ids)

    def _not_shown(self) -> Tensor | None:
        """Indices of the items never recommended: unknown to the model, or not in the choice."""
        data = self.run.data
        allowed, self.passed_over = self.choice.allowed(data)
        if self._unknown_F is not None:
            allowed[self._unknown_F.cpu().numpy()] = False
        if not allowed.any():
            raise CammsrError(
                f"of the {self._items:,} items of {data.path} none may be recommended",
                "Allow more: --items, --category and --exclude decide together",
            )
        if allowed.all():
            return None
        return torch.from_numpy(np.flatnonzero(~allowed)).to(self.run.device)

    def recommend(self, user: str, k: int) -> list[Recommendation]:
        """The `k` best next items for `user`, and the content to show for each.

        Raises:
            CammsrError: There is no such user. The message lists similar ids.
        """
        return self.lists(self.of_users(np.array([user_index(self.run.data, user)])), k)[0].items

    def lists(self, sessions: Sessions, k: int) -> list[RecommendedList]:
        """The `k` best next items of each session, and the content to show for each."""
        answers = self.answers_for(sessions, k)
        fields = {field for name in self.run.model.modalities for field in self._shown_by(name)}
        lists = []
        for row, name in enumerate(sessions.ids):
            places = np.flatnonzero(np.isfinite(answers.score_UK[row])).tolist()
            items = [int(answers.item_UK[row, place]) for place in places]
            texts = self.run.data.fields_of(sorted({"title", *fields}), items)
            found = [
                self._recommendation(
                    answers, row, place, {field: values[place] for field, values in texts.items()}
                )
                for place in places
            ]
            lists.append(RecommendedList(name, found, bool(answers.popular_U[row])))
        return lists

    def explained(
        self,
        one: RecommendedList,
        session: Sessions,
        remarks: list[str],
        find_media: FindMedia = media_unknown,
    ) -> RecommendedList:
        """Add influential past items, predicted categories and the best pieces to a list.

        Args:
            one: Result of `lists` for the session.
            session: That session only.
            remarks: Receives notes about why sentences and frames could not be chosen.
            find_media: Returns the path of a clip, or the reason why it cannot be used.
        """
        from cammsr_cli.ranking import reasons

        if self.choice.until is not None:
            session = session.until(self.choice.until)
        data, model, device = self.run.data, self.run.model, self.run.device
        item_K = torch.tensor([self._index[item.item] for item in one.items], device=device)
        history = session.histories
        last = slice(max(0, len(history.item) - model.length), None)
        if one.popular or not len(item_K):
            return one
        events = Events(
            torch.from_numpy(history.item[last]).to(device),
            torch.from_numpy(history.time[last]).to(device),
            torch.from_numpy(history.tied[last]).to(device),
        )
        effect_EK = reasons.influences(model, self.tables, self._average_V, events, item_K)
        past = history.item[last].tolist()
        titles = dict(zip(past, data.fields_of(["title"], past)["title"], strict=True))
        with torch.inference_mode():
            own = model.item_tables(self.run.catalogue.take(item_K))
        predicted = reasons.predicted_categories(model, own, item_K, data.category_names)
        query_V = self._queries(session)[0][0]
        found = []
        for place, item in enumerate(one.items):
            because = _most(effect_EK[:, place].tolist(), past)
            found.append(
                replace(
                    item,
                    because=[
                        PastItem(data.item_ids[at], titles[at], effect) for at, effect in because
                    ],
                    predicted=predicted[place],
                    put_forward=self._pieces.fitting(
                        item.put_forward, int(item_K[place]), query_V, remarks, find_media
                    ),
                )
            )
        return replace(one, items=found)

    def _recommendation(
        self, answers: Answers, row: int, place: int, texts: Mapping[str, str]
    ) -> Recommendation:
        data, model = self.run.data, self.run.model
        item, forward = int(answers.item_UK[row, place]), int(answers.forward_UK[row, place])
        weights = answers.weight_UKS[row, place].tolist()
        return Recommendation(
            rank=place + 1,
            item=data.item_ids[item],
            title=texts["title"],
            categories=data.item_categories(item),
            score=float(answers.score_UK[row, place]),
            weights=dict(zip(model.streams, weights, strict=True)),
            put_forward=None if forward < 0 else self._content(model.modalities[forward], texts),
            new=bool(self.run.catalogue.id_row_N[item] < 0),
        )

    def _content(self, modality: str, texts: Mapping[str, str]) -> PutForward:
        for name in self._shown_by(modality):
            if texts[name]:
                return PutForward(modality, name, first_piece(modality, texts[name]))
        return PutForward(modality, "", "")

    def _shown_by(self, modality: str) -> list[str]:
        """The item fields that can show a modality, without the title, which is always shown."""
        fields = self.run.data.modalities[modality].fields
        return [field for field in fields if field not in ("title", "reviews")]

    def _queries(self, sessions: Sessions) -> tuple[Tensor, Seen | None]:
        """The sessions' queries, and the items that are excluded or have a bias."""
        device = self.run.device
        history = sessions.histories
        rejected = [torch.from_numpy(pair_Q).to(device) for pair_Q in sessions.rejected[:2]]
        if not len(history.item):  # no session has events: there is nothing to encode
            query_UV = self.tables.target_NV.new_zeros(len(sessions), self.score_width)
            return query_UV, without(None, *rejected)
        events = Events(
            torch.from_numpy(history.item).to(device),
            torch.from_numpy(history.time).to(device),
            torch.from_numpy(history.tied).to(device),
        )
        bound = torch.from_numpy(history.indptr).to(device)
        start_U, end_U = bound[:-1], bound[1:]
        query_UV = user_queries(self.run.model, self.tables, events, start_U, end_U)
        histories = Histories(events, self.exclude_seen, self.run.model.repeats)
        return query_UV, without(histories.seen(start_U, end_U), *rejected)


def _most(effects: list[float], items: list[int]) -> list[tuple[int, float]]:
    """The items with the largest effects above 0, each once, by the sum over its events."""
    total: dict[int, float] = {}
    for item, effect in zip(items, effects, strict=True):
        total[item] = total.get(item, 0.0) + effect
    best = sorted(total.items(), key=lambda pair: -pair[1])[:BECAUSE]
    return [(item, effect) for item, effect in best if effect > 0]
