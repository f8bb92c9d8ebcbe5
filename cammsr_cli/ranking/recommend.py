"""The next items for a user, and why: what `cammsr recommend` prints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from heapq import nsmallest
from itertools import takewhile

import torch

from cammsr_cli.core.model import ItemTables
from cammsr_cli.errors import CammsrError
from cammsr_cli.ranking.explain import modality_weights, put_forward
from cammsr_cli.ranking.full_ranking import hide_seen, item_tables, user_queries
from cammsr_cli.run_folder import LoadedRun

_SENTENCE = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)


@dataclass(frozen=True)
class PutForward:
    """What of an item to show this user.

    Attributes:
        modality: The content that counts most for this user and item.
        field: The item field it comes from; "" where the modality came as ready-made vectors.
        content: The picture's or clip's path as the shop wrote it, or a sentence of the text.
    """

    modality: str
    field: str
    content: str


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
    """

    rank: int
    item: str
    title: str
    categories: list[str]
    score: float
    weights: dict[str, float]
    put_forward: PutForward | None
    new: bool


class Recommender:
    """Answers for one user at a time; the item tables are computed once.

    Args:
        run: A loaded run.
    """

    def __init__(self, run: LoadedRun) -> None:
        self.run = run
        self.tables: ItemTables = item_tables(run.model, run.catalogue)
        self._user_index = {user: index for index, user in enumerate(run.data.user_ids)}
        self._fields = {name: run.data.field(name) for name in run.data.field_names}

    @torch.inference_mode()
    def recommend(self, user: str, k: int, exclude_seen: bool = True) -> list[Recommendation]:
        """The `k` best next items for `user`, fewer if the catalogue has fewer.

        Raises:
            CammsrError: There is no such user; the message has those whose ids are close.
        """
        index = self._user(user)
        run = self.run
        bounds = run.data.event_indptr[index : index + 2]
        start_1, end_1 = (torch.tensor([int(at)], device=run.device) for at in bounds)
        query_1V = user_queries(run.model, self.tables, run.events, start_1, end_1)
        score_1N = query_1V @ self.tables.target_NV.T
        if exclude_seen:
            hide_seen(score_1N, run.events, start_1, end_1)
        score_B, item_B = score_1N[0].topk(min(k, score_1N.shape[1]))
        item_B, score_B = item_B[score_B.isfinite()], score_B[score_B.isfinite()]
        weights = modality_weights(run.model, query_1V[0], self.tables, item_B)
        return [
            self._recommendation(
                rank, int(item), float(score), {s: float(w[rank - 1]) for s, w in weights.items()}
            )
            for rank, (item, score) in enumerate(zip(item_B, score_B, strict=True), start=1)
        ]

    def _user(self, user: str) -> int:
        if user in self._user_index:
            return self._user_index[user]
        near = nsmallest(3, self._user_index, key=lambda other: _unlike(user, other))
        raise CammsrError(
            f"there is no user '{user}' in {self.run.data.path} "
            f"({len(self._user_index):,} users; ids like: {', '.join(near)})",
            "Name one of its users: --user ID",
        )

    def _recommendation(
        self, rank: int, item: int, score: float, weights: dict[str, float]
    ) -> Recommendation:
        data = self.run.data
        present = {m: bool(has[item]) for m, has in self.run.catalogue.present.items()}
        modality = put_forward(weights, present)
        return Recommendation(
            rank=rank,
            item=data.item_ids[item],
            title=self._fields["title"][item] if "title" in self._fields else "",
            categories=data.item_categories(item),
            score=score,
            weights=weights,
            put_forward=None if modality is None else self._content(modality, item),
            new=bool(self.run.catalogue.id_row_N[item] < 0),
        )

    def _content(self, modality: str, item: int) -> PutForward:
        for field in self.run.data.modalities[modality].fields:
            value = self._fields[field][item] if field in self._fields else ""
            if value and field not in ("title", "reviews"):  # the title stands there anyway
                return PutForward(modality, field, _piece(modality, value))
        return PutForward(modality, "", "")


def _unlike(asked: str, other: str) -> tuple[int, int, str]:
    """Sort key: ids that begin alike come first, then those of like length."""
    alike = sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, other, strict=False))
    )
    return -alike, abs(len(asked) - len(other)), other


def _piece(modality: str, value: str) -> str:
    """A path as it is; of a text, its first sentence."""
    if modality != "text":
        return value
    sentence = _SENTENCE.match(value)
    return (sentence.group() if sentence else value).strip()
