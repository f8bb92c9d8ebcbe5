"""How much each branch's score counts in the sum, where each has learnt to rank by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.catalogue import Catalogue
from cammsr_cli.model.windows import Events
from cammsr_cli.ranking.full_ranking import EvaluationCases, Ranking

WEIGHTS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
"""Those tried of a branch, as multiples of the others'."""


@torch.inference_mode()
def weigh_branches(
    model: Cammsr,
    catalogue: Catalogue,
    events: Events,
    cases: EvaluationCases,
    exclude_seen: bool,
    quality: Callable[[NDArray[np.int64]], float],
) -> float:
    """Give the branches of a trained model the weights that rank best, one branch after another.

    Args:
        model: Its `branch_weight_T` is set, to a mean of 1.
        catalogue: All items.
        events: All events.
        cases: Validation's histories and items.
        exclude_seen: Whether seen items are left out of the ranking.
        quality: Of the ranks of the items asked about; the larger, the better.

    Returns:
        The quality with those weights.
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
