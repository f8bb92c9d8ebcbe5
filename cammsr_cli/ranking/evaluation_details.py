"""Details behind the mean metrics: slices, properties of the lists, and the value of modalities.

Axes: U users, K items of a list, N items, C categories, P pairs of a user and a recommended item,
M modalities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cammsr_cli.data.splits import TRAIN
from cammsr_cli.model.catalogue_tensors import Catalogue, are_new
from cammsr_cli.ranking.by_category import (
    CategoryWeights,
    ExpertUse,
    experts_by_category,
    weights_by_category,
)
from cammsr_cli.ranking.explain import modality_weights
from cammsr_cli.ranking.full_ranking import EvaluationCases, Ranking, item_tables
from cammsr_cli.ranking.metrics import Estimate, bootstrap_interval, per_user
from cammsr_cli.ranking.new_items import evenly
from cammsr_cli.runs.loading import LoadedRun

CUTOFF = 10
"""Length of the lists that are analysed."""

LENGTHS = (5, 10, 20, 50, 100)
"""Upper limits of the slices by history length, in events; longer histories are one more slice."""

CATEGORIES = 20
"""Number of categories with a slice: the largest by held-out events."""

PAIRS = 5_000
"""Number of users whose best item is used to test the explanation."""


@dataclass(frozen=True)
class Slice:
    """Metrics of a subset of the held-out events.

    Attributes:
        by: Kind of the slice: "history", "popularity", "category", "item" or a modality.
        value: Description of the subset.
        users: Number of users.
        ndcg: NDCG@10 with its interval.
        recall: Recall@10.
    """

    by: str
    value: str
    users: int
    ndcg: Estimate
    recall: float


@dataclass(frozen=True)
class Lists:
    """Properties of the top ten lists of all users.

    Attributes:
        coverage: Share of the catalogue that is in at least one list.
        gini: Gini coefficient of how often items are listed, over the catalogue: 0 if all are
            listed equally often, near 1 if few items fill all lists.
        novelty: Mean of -log2 of an item's share of all training events, over all places.
        diversity: Share of the pairs within a list that have no category in common; None if there
            are no categories.
    """

    coverage: float
    gini: float
    novelty: float
    diversity: float | None


@dataclass(frozen=True)
class Worth:
    """Contribution of a modality to a trained model.

    Attributes:
        without: NDCG@10 if no item has the modality.
        lost: The loss of NDCG@10 by that, with its interval, paired by user.
    """

    without: float
    lost: Estimate


@dataclass(frozen=True)
class Faithfulness:
    """Whether the displayed weights agree with the modalities' effects on the score.

    Attributes:
        pairs: Number of pairs of a user and their first item, if it has two or more modalities.
        share: Share of the pairs in which removing the modality with the largest weight changes
            the score more than removing that with the smallest; with its interval.
    """

    pairs: int
    share: Estimate


@dataclass(frozen=True)
class Details:
    """Detailed results of an evaluation.

    Attributes:
        slices: Metrics by slice of the held-out events.
        lists: Properties of the top ten lists.
        worth: Modality to its contribution.
        faithfulness: Test of the explanation; None if no listed item has two modalities.
        weights: Weights of the streams by category of the item; empty without categories.
        experts: Use of the experts, by category; empty for a model without experts.
    """

    slices: list[Slice]
    lists: Lists
    worth: dict[str, Worth]
    faithfulness: Faithfulness | None
    weights: list[CategoryWeights]
    experts: list[ExpertUse]


def details(run: LoadedRun, ranking: Ranking, rank: NDArray[np.int64], seed: int = 0) -> Details:
    """Compute the details of a run's ranking; `rank` holds the ranks that it gave."""
    top_UK = ranking.top(CUTOFF)
    return Details(
        slices=slices(run, ranking.cases, rank, seed),
        lists=like(run, top_UK.cpu().numpy()),
        worth={name: _worth(run, ranking, rank, name, seed) for name in run.model.modalities},
        faithfulness=faithfulness(run, ranking, top_UK[:, 0], seed),
        weights=weights_by_category(run, ranking, top_UK),
        experts=experts_by_category(run, ranking),
    )


def slices(
    run: LoadedRun, cases: EvaluationCases, rank: NDArray[np.int64], seed: int = 0
) -> list[Slice]:
    """NDCG@10 and Recall@10 by history, popularity, category, novelty and modality of the item."""
    data, catalogue = run.data, run.catalogue
    found: list[Slice] = []

    def add(by: str, value: str, chosen_U: NDArray[np.bool_]) -> None:
        if chosen_U.any():
            ndcg_U = per_user(rank[chosen_U], "NDCG", CUTOFF)
            recall = per_user(rank[chosen_U], "Recall", CUTOFF).mean()
            found.append(Slice(by, value, int(chosen_U.sum()), _estimate(ndcg_U, seed), recall))

    length_U = cases.end_U - cases.start_U
    for shortest, longest in zip((0, *LENGTHS), LENGTHS, strict=False):
        here_U = (length_U > shortest) & (length_U <= longest)
        add("history", f"{shortest + 1} to {longest} events", here_U)
    add("history", f"more than {LENGTHS[-1]} events", length_U > LENGTHS[-1])
    count_N = _counts(run)
    count_U = count_N[cases.item_U]
    order = np.argsort(np.argsort(-count_N, kind="stable"), kind="stable")[cases.item_U]
    place_U = order / len(count_N)
    for name, first, past in (
        ("the 10 % most popular items", 0.0, 0.1),
        ("the next 40 %", 0.1, 0.5),
        ("the other half", 0.5, 1.1),
    ):
        add("popularity", name, (place_U >= first) & (place_U < past) & (count_U > 0))
    new_U = are_new(catalogue).cpu().numpy()[cases.item_U]
    if new_U.any():
        add("item", "new", new_U)
        add("item", "known", ~new_U)
    label_UC = data.category_labels()[cases.item_U]
    for category in _largest(label_UC):
        add("category", data.category_names[category], label_UC[:, category])
    for modality in run.model.modalities:
        there_U = catalogue.present[modality].cpu().numpy()[cases.item_U]
        if not there_U.all():
            add(modality, "there", there_U)
            add(modality, "missing", ~there_U)
    return found


def _largest(label_UC: NDArray[np.bool_]) -> list[int]:
    count_C = label_UC.sum(0)
    return [int(at) for at in np.argsort(-count_C, kind="stable")[:CATEGORIES] if count_C[at]]


def _counts(run: LoadedRun) -> NDArray[np.int64]:
    """Number of training events of each item."""
    data = run.data
    return np.bincount(data.event_item[data.event_part == TRAIN], minlength=len(data.item_ids))


def like(run: LoadedRun, top_UK: NDArray[np.int64]) -> Lists:
    """Properties of lists; `top_UK` is padded with -1 where a list is shorter."""
    count_N = _counts(run)
    there_UK = top_UK >= 0
    exposure_N = np.bincount(top_UK[there_UK], minlength=len(count_N))
    share_N = np.maximum(count_N, 1) / max(1, count_N.sum())
    novelty = float(-np.log2(share_N[top_UK[there_UK]]).mean()) if there_UK.any() else 0.0
    return Lists(
        float((exposure_N > 0).mean()),
        gini(exposure_N),
        novelty,
        _diversity(run.data.category_labels(), top_UK) if run.data.category_names else None,
    )


def gini(count_N: NDArray[np.int64]) -> float:
    """Gini coefficient of non-negative numbers.

    >>> gini(np.array([1, 1, 1, 1])), gini(np.array([0, 0, 0, 4]))
    (0.0, 0.75)
    """
    if not count_N.sum():
        return 0.0
    sorted_N = np.sort(count_N).astype(np.float64)
    place_N = np.arange(1, len(sorted_N) + 1)
    total = sorted_N.sum() * len(sorted_N)
    return float(((2 * place_N - len(sorted_N) - 1) * sorted_N).sum() / total)


def _diversity(label_NC: NDArray[np.bool_], top_UK: NDArray[np.int64]) -> float:
    """Share of the pairs within lists that have no category in common."""
    without_common = pairs = 0
    for first in range(0, len(top_UK), 1024):
        list_BK = top_UK[first : first + 1024]
        label_BKC = label_NC[list_BK].astype(np.float32)
        common_BKK = label_BKC @ label_BKC.transpose(0, 2, 1) > 0
        there_BK = list_BK >= 0
        both_BKK = np.triu(there_BK[:, :, None] & there_BK[:, None, :], 1)
        pairs += int(both_BKK.sum())
        without_common += int((both_BKK & ~common_BKK).sum())
    return without_common / pairs if pairs else 0.0


def _worth(
    run: LoadedRun, ranking: Ranking, rank: NDArray[np.int64], modality: str, seed: int
) -> Worth:
    masked = Ranking(
        run.model,
        without(run.catalogue, modality),
        run.events,
        ranking.cases,
        ranking.exclude_seen,
        ranking.new_share,
    )
    ndcg_U = per_user(masked.ranks(), "NDCG", CUTOFF)
    lost_U = per_user(rank, "NDCG", CUTOFF) - ndcg_U
    return Worth(float(ndcg_U.mean()), _estimate(lost_U, seed))


def without(catalogue: Catalogue, modality: str) -> Catalogue:
    """The catalogue with a modality removed from all items."""
    none_N = torch.zeros_like(catalogue.present[modality])
    return replace(catalogue, present={**catalogue.present, modality: none_N})


@torch.inference_mode()
def faithfulness(
    run: LoadedRun, ranking: Ranking, item_U: Tensor, seed: int = 0
) -> Faithfulness | None:
    """Compare the effects on the score of removing an item's heaviest and lightest modality.

    The weights are those that `recommend` shows. Scores are measured relative to the user's mean
    score over all items.

    Args:
        run: The run.
        ranking: Ranking of the run, with the users' queries.
        item_U: int64 each user's first item; -1 for none.
        seed: Seed of the bootstrap.
    """
    model, tables = run.model, ranking.tables
    present = [run.catalogue.present[name] for name in model.modalities]
    if len(present) < 2:
        return None
    has_NM = torch.stack(present, dim=1).to(item_U.device)
    drawn = evenly(len(item_U), PAIRS).to(item_U.device)
    drawn = drawn[(item_U[drawn] >= 0) & (has_NM[item_U[drawn].clamp(min=0)].sum(1) >= 2)]
    if not len(drawn):
        return None
    item_P, query_PV = item_U[drawn], ranking.query_UV[drawn]
    average_V = tables.target_NV.mean(0)
    weight_PS = modality_weights(model, query_PV, tables, average_V, item_P[:, None])[:, 0]
    weight_PM = weight_PS[:, -len(present) :]
    has_PM = has_NM[item_P]
    heaviest_P = weight_PM.masked_fill(~has_PM, -1.0).argmax(1)
    lightest_P = weight_PM.masked_fill(~has_PM, 2.0).argmin(1)
    own_P = (query_PV * (tables.target_NV[item_P] - average_V)).sum(1)
    moved_PM = []
    for modality in model.modalities:
        masked = item_tables(model, without(run.catalogue, modality)).target_NV
        then_P = (query_PV * (masked[item_P] - masked.mean(0))).sum(1)
        moved_PM.append((own_P - then_P).abs())
    moved = torch.stack(moved_PM, dim=1)
    place_P1 = torch.arange(len(drawn), device=moved.device)
    right_P = moved[place_P1, heaviest_P] > moved[place_P1, lightest_P]
    return Faithfulness(len(drawn), _estimate(right_P.cpu().numpy().astype(np.float64), seed))


def _estimate(value_U: NDArray[np.float64], seed: int) -> Estimate:
    low, high = bootstrap_interval(value_U[:, None], seed=seed)
    return Estimate(float(value_U.mean()), float(low[0]), float(high[0]))
