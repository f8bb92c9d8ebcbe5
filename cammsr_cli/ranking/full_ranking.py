"""Full ranking: the rank of each user's target item in the whole catalogue.

Axes: U users, B users of one chunk, N items, F of them unknown, V score width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TRAIN
from cammsr_cli.model.cammsr import Cammsr, ItemTables
from cammsr_cli.model.catalogue_tensors import Catalogue, are_new, unknown_items
from cammsr_cli.model.device_kernels import most_on
from cammsr_cli.model.history_windows import Events, cut
from cammsr_cli.ranking.memory_budget import SCORES_AT_ONCE, in_parts
from cammsr_cli.ranking.new_items import extended_queries, with_places
from cammsr_cli.ranking.seen import Histories, Rejections, Seen, mark, put_last, rejections
from cammsr_cli.ranking.top_k import ExactIndex

ITEMS_AT_ONCE = 2**15
"""Number of items per chunk of tables: intermediate results are far larger than the tables."""

POSITIONS_AT_ONCE = {"cpu": 2**12, "cuda": 2**18}
"""Number of history positions encoded at once: what fits a CPU's cache, or keeps a GPU busy."""

ROWS_AT_LEAST = 64
"""Least number of users scored at once, even for a large catalogue: single rows are slow."""


@dataclass(frozen=True)
class EvaluationCases:
    """Histories, each with the target item that followed it.

    Attributes:
        user_U: Index of each user.
        start_U: First event of the user.
        end_U: One past the last event of the history.
        item_U: The target item, at event `end`.
        rejections: Items that users rejected, on the host; None if there are none.
    """

    user_U: NDArray[np.int64]
    start_U: NDArray[np.int64]
    end_U: NDArray[np.int64]
    item_U: NDArray[np.int64]
    rejections: Rejections | None = None

    def take(self, chosen: NDArray[np.int64] | slice) -> EvaluationCases:
        """Select some of the cases."""
        return replace(
            self,
            user_U=self.user_U[chosen],
            start_U=self.start_U[chosen],
            end_U=self.end_U[chosen],
            item_U=self.item_U[chosen],
        )

    def sample(self, most: int, seed: int) -> EvaluationCases:
        """Sample at most `most` of the cases with `seed`; their order is kept."""
        if len(self.user_U) <= most:
            return self
        drawn = np.random.default_rng(seed).choice(len(self.user_U), most, replace=False)
        return self.take(np.sort(drawn))


def evaluation_cases(data: DataSet, part: int) -> EvaluationCases:
    """Cases of all users with an event of `part` (VALIDATION or TEST) and a history before it."""
    at_U = np.flatnonzero(data.event_part == part)
    user_U = np.searchsorted(data.event_indptr, at_U, side="right") - 1
    start_U = data.event_indptr[user_U]
    kept = at_U > start_U
    at_U, user_U, start_U = at_U[kept], user_U[kept], start_U[kept]
    item_U = data.event_item[at_U].astype(np.int64)
    return EvaluationCases(user_U, start_U, at_U, item_U, rejections(data))


@torch.inference_mode()
def item_tables(model: Cammsr, catalogue: Catalogue) -> ItemTables:
    """Compute the tables of all items in chunks, for a model in evaluation mode.

    Ranking needs no category logits, which would take much memory. They are returned with no
    category.
    """
    every_N = torch.arange(len(catalogue.id_row_N), device=catalogue.id_row_N.device)

    def tables(first: int, past: int) -> ItemTables:
        part = model.item_tables(catalogue.take(every_N[first:past]))
        return replace(part, category_TNC=part.category_TNC[:, :, :0].clone())

    parts = in_parts(len(every_N), lambda _: ITEMS_AT_ONCE, tables)
    return parts[0] if len(parts) == 1 else _joined(parts)


def _joined(parts: list[ItemTables]) -> ItemTables:
    return ItemTables(
        input_NX=torch.cat([part.input_NX for part in parts]),
        target_NV=torch.cat([part.target_NV for part in parts]),
        guide_NT=torch.cat([part.guide_NT for part in parts]),
        category_TNC=torch.cat([part.category_TNC for part in parts], dim=1),
        present_NS=torch.cat([part.present_NS for part in parts]),
        present_NT=torch.cat([part.present_NT for part in parts]),
    )


@torch.inference_mode()
def user_queries(
    model: Cammsr, tables: ItemTables, events: Events, start_U: Tensor, end_U: Tensor
) -> Tensor:
    """Compute each user's query after the events `[start, end)`: [U, V].

    Users with histories of similar length are encoded together, so that there is little padding.
    """
    start_U = torch.maximum(start_U, end_U - model.length)
    order_U = torch.argsort(end_U - start_U, descending=True)
    at_once = most_on(start_U.device, POSITIONS_AT_ONCE)
    length_U = (end_U - start_U)[order_U].clamp(min=1).tolist()
    query_UV = tables.target_NV.new_empty(len(start_U), tables.target_NV.shape[1])

    def encode(first: int, past: int) -> None:
        user_B = order_U[first:past]
        window = cut(events, start_U[user_B], end_U[user_B])
        query_UV[user_B] = model.last_queries(tables, window)

    # Histories are sorted by length, longest first.
    in_parts(len(length_U), lambda first: max(1, at_once // length_U[first]), encode)
    return query_UV


class Ranking:
    """Ranking of the whole catalogue for some histories by a model's scores.

    Items with neither id nor content rank last. With a `new_share`, new items get that share of
    the top places (see `new_items`).

    Attributes:
        cases: The histories and their target items.
        exclude_seen: Whether seen items are excluded.
        new_share: Share of the top places for new items; None if they are not boosted.
        tables: Tables of all items.
        query_UV: The histories' queries.
        target_NV: Targets for the queries: the tables' targets, with new items boosted.
    """

    def __init__(
        self,
        model: Cammsr,
        catalogue: Catalogue,
        events: Events,
        cases: EvaluationCases,
        exclude_seen: bool = True,
        new_share: float | None = None,
    ) -> None:
        self.cases, self.exclude_seen, self.new_share = cases, exclude_seen, new_share
        self.tables = item_tables(model, catalogue)
        device = events.item_E.device
        self._start_U, self._end_U = (
            torch.from_numpy(at_U).to(device) for at_U in (cases.start_U, cases.end_U)
        )
        self.query_UV = user_queries(model, self.tables, events, self._start_U, self._end_U)
        self.target_NV = self.tables.target_NV
        self._unknown_F = unknown_items(catalogue)
        self._history = Histories(events, exclude_seen, model.repeats, cases.rejections)
        if new_share is not None:
            self.target_NV = with_places(
                self.target_NV,
                are_new(catalogue),
                new_share,
                len(self.query_UV),
                self._ask,
                self._unknown_F,
            )

    def _ask(self, user_B: Tensor) -> tuple[Tensor, Seen | None]:
        at_B = user_B.to(self.query_UV.device)
        return self.query_UV[at_B], self._history.seen(self._start_U[at_B], self._end_U[at_B])

    def ranks(self, factor_V: Tensor | None = None) -> NDArray[np.int64]:
        """Rank of each case's target item; queries are multiplied by `factor_V`, if given."""
        query_UV = self.query_UV if factor_V is None else self.query_UV * factor_V
        query_UW = extended_queries(query_UV, self.target_NV)
        return ranks(query_UW, self.target_NV, self._history, self.cases, self._unknown_F)

    def top(self, k: int) -> Tensor:
        """The `k` best items of each case, best first, int64 [U, K]; -1 where there are fewer."""
        index = ExactIndex(self.target_NV, self._unknown_F)
        seen = self._history.seen(self._start_U, self._end_U)
        best = index.top_k(extended_queries(self.query_UV, self.target_NV), k, seen)
        return best.item_UK.masked_fill(best.score_UK.isinf(), -1)


def model_ranks(
    model: Cammsr,
    catalogue: Catalogue,
    events: Events,
    cases: EvaluationCases,
    exclude_seen: bool = True,
    new_share: float | None = None,
) -> NDArray[np.int64]:
    """Rank of the target item for each user, by the model's scores; see `Ranking`."""
    return Ranking(model, catalogue, events, cases, exclude_seen, new_share).ranks()


def popularity_ranks(
    data: DataSet, events: Events, cases: EvaluationCases, exclude_seen: bool = True
) -> NDArray[np.int64]:
    """Rank of the target item for each user, by the number of training events (popularity)."""
    counts = np.bincount(data.event_item[data.event_part == TRAIN], minlength=len(data.item_ids))
    count_N1 = torch.from_numpy(counts).float().to(events.item_E.device)[:, None]
    history = Histories(events, exclude_seen, rejections=cases.rejections)
    return ranks(count_N1.new_ones(len(cases.item_U), 1), count_N1, history, cases)


@torch.inference_mode()
def ranks(
    query_UV: Tensor,
    target_NV: Tensor,
    history: Histories,
    cases: EvaluationCases,
    unknown_F: Tensor | None = None,
) -> NDArray[np.int64]:
    """Rank of each target item, with the inner product of query and target as the score.

    Ties are pessimistic: rank = 1 + the number of other items with at least the same score. If seen
    items are excluded from the ranking, they tie with no item, and the target item itself is never
    excluded. The items `unknown_F` rank last, and tie with one another.
    """
    device, items = query_UV.device, len(target_NV)
    rows = max(ROWS_AT_LEAST, most_on(device, SCORES_AT_ONCE) // items)
    start_U, end_U, item_U = (
        torch.from_numpy(at).to(device) for at in (cases.start_U, cases.end_U, cases.item_U)
    )

    def rank(first: int, past: int) -> Tensor:
        score_BN = query_UV[first:past] @ target_NV.T
        put_last(score_BN, unknown_F)
        seen = history.seen(start_U[first:past], end_U[first:past])
        item_B = item_U[first:past]
        if seen is not None and seen.bias_P is not None:
            mark(score_BN, seen)
        lowest = torch.finfo(score_BN.dtype).min  # replaces NaN; excluded items are lower
        own_B1 = score_BN.gather(1, item_B[:, None]).nan_to_num(nan=lowest)
        if seen is not None and seen.bias_P is None:
            mark(score_BN, seen)
        score_BN.scatter_(1, item_B[:, None], float("-inf"))
        # Count lower scores, so that a NaN score ranks last and never first. Summing bytes is
        # several times as fast as summing booleans.
        lower_B = (score_BN < own_B1).view(torch.uint8).sum(1, dtype=torch.int32)
        return (1 + items - lower_B.long()).clamp(max=items)

    found = in_parts(len(query_UV), lambda _: rows, rank)
    return torch.cat(found).cpu().numpy() if found else np.zeros(0, dtype=np.int64)
