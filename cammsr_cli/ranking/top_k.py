"""The k best items for many users: by exact search, or an approximate index for large catalogues.

Both use the users' queries and the items' targets, whose inner products are the scores.

Axes: U users, B users of one chunk, N items, H of them hidden and I in the index, K best items,
V score width, P pairs of a user and a seen item, F candidates fetched from the index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cammsr_cli.errors import UsageError
from cammsr_cli.model.device_kernels import most_on
from cammsr_cli.ranking.memory_budget import SCORES_AT_ONCE, in_parts
from cammsr_cli.ranking.seen import Seen, hide_items, mark

FAISS_FROM_ITEMS = 100_000
FAISS_FROM_USERS = 10_000
"""Least size of the catalogue, and least number of users, for which "auto" uses faiss on a CPU.

Below these, building the index costs more time than it saves (docs/results.md).
"""

RECALL_AIM = 0.98
"""Target recall of an approximate index, relative to exact search."""

VISITED_AT_MOST = 1 / 4
"""Largest share of groups that faiss searches; from about a third, exact search is as fast."""

CHUNK_ITEMS = 2**14
"""Number of items scored at once."""

FETCHED_MORE = 32
"""Extra items fetched from an approximate index, as some of the items may have been seen."""


@dataclass(frozen=True)
class Top:
    """The best items of each user, best first.

    Attributes:
        item_UK: int64 item index.
        score_UK: Score; minus infinity where a user has fewer items. The item there is meaningless.
    """

    item_UK: Tensor
    score_UK: Tensor


class Index(Protocol):
    """Finds the items whose targets have the largest inner products with a query."""

    def top_k(self, query_UV: Tensor, k: int, seen: Seen | None) -> Top:
        """The `k` best items of each user, with `seen` excluded or biased; fewer if too few."""


class ExactIndex:
    """Scores every item, in chunks of users and items, so that U x N scores never exist.

    Args:
        target_NV: Targets of the items.
        hidden_H: int64 items that are never returned; None if there are none.
    """

    def __init__(self, target_NV: Tensor, hidden_H: Tensor | None = None) -> None:
        self.target_NV = target_NV
        self.hidden_H = hidden_H

    @torch.inference_mode()
    def top_k(self, query_UV: Tensor, k: int, seen: Seen | None) -> Top:
        """The `k` best items of each user, with `seen` excluded or biased; fewer if too few."""
        width = min(len(self.target_NV), CHUNK_ITEMS)
        rows = max(1, most_on(query_UV.device, SCORES_AT_ONCE) // width)

        def best(first: int, past: int) -> Top:
            return self._best(query_UV[first:past], k, seen.rows(first, past) if seen else None)

        return _joined(in_parts(len(query_UV), lambda _: rows, best))

    def _best(self, query_BV: Tensor, k: int, seen: Seen | None) -> Top:
        best: Top | None = None
        for first in range(0, len(self.target_NV), CHUNK_ITEMS):
            score_BN = query_BV @ self.target_NV[first : first + CHUNK_ITEMS].T
            if seen is not None:
                mark(score_BN, seen, first)
            hide_items(score_BN, self.hidden_H, first)
            score_BK, at_BK = score_BN.topk(min(k, score_BN.shape[1]))
            found = Top(at_BK + first, score_BK)
            best = found if best is None else _better(best, found, k)
        assert best is not None  # a catalogue has items
        return best


def _better(one: Top, other: Top, k: int) -> Top:
    """The `k` best of two disjoint lists."""
    score_BF = torch.cat([one.score_UK, other.score_UK], dim=1)
    item_BF = torch.cat([one.item_UK, other.item_UK], dim=1)
    score_BK, at_BK = score_BF.topk(min(k, score_BF.shape[1]))
    return Top(item_BF.gather(1, at_BK), score_BK)


def _joined(tops: list[Top]) -> Top:
    return Top(torch.cat([top.item_UK for top in tops]), torch.cat([top.score_UK for top in tops]))


class FaissIndex:
    """An inverted file (IVF) of half-precision targets, on the CPU.

    Items are grouped by k-means. A query is compared with the items of the nearest groups.
    Compared with HNSW, the usual alternative, on score vectors of this model: 0.9 s instead of
    5.5 s to build, and 155 us instead of 247 us per user at recall 0.97 instead of 0.86 (100,000
    items, one core).

    Args:
        target_NV: Targets of the items.
        hidden_H: int64 items that are never returned; None if there are none.

    Raises:
        UsageError: faiss is not installed.
    """

    def __init__(self, target_NV: Tensor, hidden_H: Tensor | None = None) -> None:
        require_faiss()
        import faiss

        self.target_NV = target_NV
        self.exact = ExactIndex(target_NV, hidden_H)
        self._item_I = torch.arange(len(target_NV), device=target_NV.device)
        if hidden_H is not None:
            self._item_I = self._item_I[~torch.isin(self._item_I, hidden_H)]
            target_NV = target_NV[self._item_I]
        items, width = target_NV.shape
        # Faiss requires at least 39 points per group; a limited number of points is enough.
        self.lists = max(1, min(int(2 * math.sqrt(items)), items // 39))
        metric = faiss.METRIC_INNER_PRODUCT
        self._groups = faiss.IndexFlatIP(width)  # the index below does not keep it alive
        self._index = faiss.IndexIVFScalarQuantizer(
            self._groups, width, self.lists, faiss.ScalarQuantizer.QT_fp16, metric
        )
        self._index.cp.niter = 8
        values = target_NV.cpu().numpy()
        drawn = np.random.default_rng(0).permutation(items)[: 50 * self.lists]
        self._index.train(values[np.sort(drawn)])
        for first in range(0, items, CHUNK_ITEMS):
            self._index.add(values[first : first + CHUNK_ITEMS])

    @property
    def visited(self) -> int:
        """Number of groups searched for each user."""
        return int(self._index.nprobe)

    def aim(self, query_UV: Tensor, k: int, seen: Seen | None, truth: Top) -> float:
        """Search as many groups as `RECALL_AIM` requires, up to a limit; return the recall.

        Args:
            query_UV: Queries of some users.
            k: Number of items to find.
            seen: Seen items of these users.
            truth: The exact best items of these users.
        """
        share = 1 / 64
        while True:
            self._index.nprobe = math.ceil(self.lists * share)
            found = recall(self.top_k(query_UV, k, seen), truth)
            if found >= RECALL_AIM or share >= VISITED_AT_MOST:
                return found
            share = min(1.5 * share, VISITED_AT_MOST)

    @torch.inference_mode()
    def top_k(self, query_UV: Tensor, k: int, seen: Seen | None) -> Top:
        """The `k` best items of each user, with `seen` excluded or biased, as the index finds them.

        More than `k` items are fetched, as some may have been seen. If too few remain for a user,
        the search is repeated with more, and finally done exactly. Seen items with a bias are
        excluded from the search and scored one by one.
        """
        if seen is not None and seen.bias_P is not None:
            others = self.top_k(query_UV, k, Seen(seen.row_P, seen.item_P))
            return _better(others, self._scored(query_UV, seen), k)
        most = 0 if seen is None else int(torch.bincount(seen.row_P, minlength=1).max())
        limit = min(k + most, len(self.target_NV))
        fetched = min(k + FETCHED_MORE, limit)
        item_UK = query_UV.new_zeros(len(query_UV), min(k, limit), dtype=torch.int64)
        score_UK = query_UV.new_full(item_UK.shape, float("-inf"))
        row_B = torch.arange(len(query_UV), device=query_UV.device)
        while True:
            item_UK[row_B], score_UK[row_B] = self._search(query_UV, row_B, k, fetched, seen)
            row_B = row_B[score_UK[row_B].isinf().any(1)]
            if not len(row_B) or fetched == limit:
                break
            fetched = min(4 * fetched, limit)
        if len(row_B):
            rest = self.exact.top_k(query_UV[row_B], k, seen.of(row_B) if seen else None)
            width = item_UK.shape[1]
            item_UK[row_B], score_UK[row_B] = rest.item_UK[:, :width], rest.score_UK[:, :width]
        # The index has the targets in half precision: compute the exact scores.
        exact_UK = torch.einsum("uv,ukv->uk", query_UV, self.target_NV[item_UK])
        exact_UK = exact_UK.masked_fill(score_UK.isinf(), float("-inf"))
        score_UK, order_UK = exact_UK.sort(dim=1, descending=True)
        return Top(item_UK.gather(1, order_UK), score_UK)

    def _scored(self, query_UV: Tensor, seen: Seen) -> Top:
        """The seen items of each user with their scores, padded with minus infinity."""
        assert seen.bias_P is not None
        count_U = torch.bincount(seen.row_P, minlength=len(query_UV))
        first_U = count_U.cumsum(0) - count_U
        place_P = torch.arange(len(seen.row_P), device=query_UV.device) - first_U[seen.row_P]
        item_UF = count_U.new_zeros(len(query_UV), max(1, int(count_U.max())))
        score_UF = query_UV.new_full(item_UF.shape, float("-inf"))
        at = seen.row_P, place_P
        item_UF[at] = seen.item_P
        score_UF[at] = (query_UV[seen.row_P] * self.target_NV[seen.item_P]).sum(1) + seen.bias_P
        if self.exact.hidden_H is not None:
            hidden_UF = torch.isin(item_UF, self.exact.hidden_H)
            score_UF.masked_fill_(hidden_UF, float("-inf"))
        return Top(item_UF, score_UF)

    def _search(
        self, query_UV: Tensor, row_B: Tensor, k: int, fetched: int, seen: Seen | None
    ) -> tuple[Tensor, Tensor]:
        """Items and scores of the `k` best of the `fetched` nearest items, for users `row_B`."""
        score, item = self._index.search(query_UV[row_B].cpu().numpy(), fetched)
        score_BF, at_BF = (torch.from_numpy(found).to(query_UV.device) for found in (score, item))
        gone_BF = at_BF < 0  # faiss found fewer items than requested
        item_BF = self._item_I[at_BF.clamp(min=0)]
        if seen is not None:
            items = len(self.target_NV)
            pair_P = seen.row_P * items + seen.item_P
            gone_BF |= torch.isin(row_B[:, None] * items + item_BF, pair_P)
        score_BK, at_BK = score_BF.masked_fill(gone_BF, float("-inf")).topk(min(k, fetched))
        return item_BF.gather(1, at_BK), score_BK


def faiss_is_installed() -> bool:
    """Whether the extra `faiss` is installed."""
    return find_spec("faiss") is not None


def require_faiss() -> None:
    """Raise an error if faiss is not installed.

    Raises:
        UsageError: The extra `faiss` is not installed.
    """
    if not faiss_is_installed():
        raise UsageError(
            "--index faiss needs faiss, which is not installed",
            "Install it: pip install 'cammsr[faiss]'",
        )


def recall(found: Top, truth: Top) -> float:
    """Share of the true best items that were found, over all users."""
    true_U1K = truth.item_UK.masked_fill(truth.score_UK.isinf(), -1)[:, None, :]
    found_UK1 = found.item_UK.masked_fill(found.score_UK.isinf(), -2)[:, :, None]
    return float((found_UK1 == true_U1K).sum()) / max(1, int(truth.score_UK.isfinite().sum()))


def wants_faiss(name: str, items: int, users: int, device: torch.device) -> bool:
    """Whether to use faiss for the index `name` (auto, exact or faiss)."""
    if name != "auto":
        return name == "faiss"
    large = items >= FAISS_FROM_ITEMS and users >= FAISS_FROM_USERS
    return large and device.type == "cpu" and faiss_is_installed()
