"""Weights of the branches' scores in the sum, for branches that were trained on separate losses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.model.history_windows import Events
from cammsr_cli.ranking.full_ranking import EvaluationCases, Ranking

WEIGHTS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Weights tried for a branch, as multiples of the first branch's."""


@torch.inference_mode()
def weigh_branches(
    model: Cammsr,
    catalogue: Catalogue,
    events: Events,
    cases: EvaluationCases,
    exclude_seen: bool,
    quality: Callable[[NDArray[np.int64]], float],
) -> float:
    """Set the branch weights of a trained model that rank best, one branch after another.

    Args:
        model: The model. Its `branch_weight_T` is set, with a mean of 1.
        catalogue: All items.
        events: All events.
        cases: Evaluation cases of the validation split.
        exclude_seen: Whether seen items are excluded from the ranking.
        quality: Computes a metric from the ranks of the target items; larger is better.

    Returns:
        The quality with these weights.
    """
    model.branch_weight_T.fill_(1.0)
    ranking = Ranking(model, catalogue, events, cases, exclude_seen)

    def found(weight_T: torch.Tensor) -> float:
        return quality(ranking.ranks(model.weights_of_scores(weight_T)))

    best_T = torch.ones_like(model.branch_weight_T)
    best = found(best_T)
    for branch in range(1, model.branches):
        for weight in WEIGHTS:
            weight_T = best_T.clone()
            weight_T[branch] = weight * best_T[0]
            weight_T *= len(weight_T) / weight_T.sum()
            if (quality_here := found(weight_T)) > best:
                best, best_T = quality_here, weight_T
    model.branch_weight_T.copy_(best_T)
    return best
