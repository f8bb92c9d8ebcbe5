"""Weights of the streams and use of the experts, per category.

Axes: U users, K items of a list, C categories, S streams, T branches, E experts, B users of one
chunk, L positions of a history.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cammsr_cli.model.history_windows import cut
from cammsr_cli.ranking.explain import modality_weights
from cammsr_cli.ranking.full_ranking import Ranking
from cammsr_cli.ranking.memory_budget import in_parts
from cammsr_cli.ranking.new_items import evenly
from cammsr_cli.runs.loading import LoadedRun

USERS = 2_000
"""Number of evenly spaced users that are sampled."""

CATEGORIES = 20
"""Number of categories shown: those with the most recommendations or events."""

_USERS_AT_ONCE = 256


@dataclass(frozen=True)
class CategoryWeights:
    """Mean weights of the streams for recommended items of one category.

    Attributes:
        category: Name of the category.
        recommendations: Number of recommendations counted.
        weights: Stream name to its mean share, as `recommend` shows it; they sum to 1.
    """

    category: str
    recommendations: int
    weights: dict[str, float]


@dataclass(frozen=True)
class ExpertUse:
    """Use of each expert for history events with items of one category.

    Attributes:
        category: Name of the category.
        events: Number of events counted.
        shares: Branch name to each expert's mean share of the gates' absolute values.
    """

    category: str
    events: int
    shares: dict[str, list[float]]


@torch.inference_mode()
def weights_by_category(run: LoadedRun, ranking: Ranking, top_UK: Tensor) -> list[CategoryWeights]:
    """Mean weights of the streams in the users' lists, by category of the recommended item.

    Args:
        run: The run.
        ranking: Ranking of the run, with the users' queries.
        top_UK: int64 the users' lists; padded with -1 if shorter.
    """
    label_NC = run.catalogue.label_NC
    if label_NC is None or not len(top_UK):
        return []
    drawn = evenly(len(top_UK), USERS).to(top_UK.device)
    item_UK = top_UK[drawn]
    there_UK = item_UK >= 0
    weight_UKS = modality_weights(
        run.model,
        ranking.query_UV[drawn],
        ranking.tables,
        ranking.tables.target_NV.mean(0),
        item_UK.clamp(min=0),
    )
    label_PC = label_NC[item_UK[there_UK]].cpu().double()
    sum_CS = label_PC.T @ weight_UKS[there_UK].cpu().double()
    count_C = label_PC.sum(0).numpy()
    mean_CS = (sum_CS / label_PC.sum(0).clamp(min=1)[:, None]).numpy()
    names, streams = run.data.category_names, run.model.streams
    return [
        CategoryWeights(
            names[at], int(count_C[at]), dict(zip(streams, mean_CS[at].tolist(), strict=True))
        )
        for at in _largest(count_C)
    ]


@torch.inference_mode()
def experts_by_category(run: LoadedRun, ranking: Ranking) -> list[ExpertUse]:
    """Mean shares of the experts, by category of the history events; empty without experts."""
    model, label_NC = run.model, run.catalogue.label_NC
    if model.camoe is None or label_NC is None or not len(ranking.query_UV):
        return []
    cases = ranking.cases.take(evenly(len(ranking.query_UV), USERS).numpy())
    device = run.events.item_E.device
    end_U = torch.from_numpy(cases.end_U).to(device)
    start_U = torch.maximum(torch.from_numpy(cases.start_U).to(device), end_U - model.length)
    gates: list[Tensor] = []
    hook = model.camoe.router.register_forward_hook(lambda _router, _in, gate: gates.append(gate))

    def sums(first: int, past: int) -> Tensor:
        window = cut(run.events, start_U[first:past], end_U[first:past])
        model.history(ranking.tables, window)
        size_TBLE = gates.pop().abs().float()
        share_TBLE = size_TBLE / size_TBLE.sum(-1, keepdim=True).clamp(min=1e-12)
        at_L = torch.arange(window.item_BL.shape[1], device=device)
        there_BL = at_L < window.length_B[:, None]
        label_PC = label_NC[window.item_BL[there_BL]].cpu().double()
        sum_TCE = label_PC.T @ share_TBLE[:, there_BL].cpu().double()
        # One more column holds the number of events.
        count_TC1 = label_PC.sum(0)[None, :, None].expand(len(sum_TCE), -1, 1)
        return torch.cat([sum_TCE, count_TC1], dim=-1)[None]

    try:
        parts = in_parts(len(end_U), lambda _: _USERS_AT_ONCE, sums)
    finally:
        hook.remove()
    total_TCE = torch.cat(parts).sum(0)
    count_C = total_TCE[0, :, -1].numpy()
    mean_TCE = (total_TCE[..., :-1] / total_TCE[..., -1:].clamp(min=1)).numpy()
    return [
        ExpertUse(
            run.data.category_names[at],
            int(count_C[at]),
            {name: mean_TCE[branch, at].tolist() for branch, name in enumerate(model.branch_names)},
        )
        for at in _largest(count_C)
    ]


def _largest(count_C: NDArray[np.float64]) -> list[int]:
    order = np.argsort(-count_C, kind="stable")[:CATEGORIES]
    return [int(at) for at in order if count_C[at]]
