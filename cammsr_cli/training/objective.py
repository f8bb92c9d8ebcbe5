"""One training step's loss: L = L_rec + l_cat L_cat + l_swap L_swap.

Axes: B rows of histories, L positions, X = B L, M positions with a target, N items, C candidates,
T branches, K scores, D width, V score width, W histories.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.config import TrainingConfig
from cammsr_cli.errors import UsageError
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.layers import gathered
from cammsr_cli.model.losses import CrossEntropy, category_loss, sampled_cross_entropy, swap_loss
from cammsr_cli.model.repeat_bias import LastSeen
from cammsr_cli.training.plan import Corpus, Plan

Sides = Sequence[tuple[Tensor, Tensor, Tensor]]
"""For each score: the positions' queries, their target items and the candidate items."""


class Objective(nn.Module):
    """The training objective. It is a module, so that DDP can run it on several devices."""

    def __init__(self, model: Cammsr, corpus: Corpus, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.corpus = corpus
        self.config = config
        self.catalogue = corpus.catalogue
        self.scores = _scores(model.branches, config.branch_share)
        # Tensors on the model's device: a copy at each step would make the host wait.
        self.weight_K, self.scale_K = (
            torch.tensor(values, device=model.device)
            for values in zip(*((one.weight, one.scale) for one in self.scores), strict=True)
        )
        self.swapped = [
            torch.tensor(pair, device=model.device)
            for pair in _swapped_pairs(model.branch_names, config.swap_pairs)
        ]
        if not corpus.large:  # once, not at each step; in the dtype of the matrix products
            bfloat16 = config.precision == "bfloat16"
            self.catalogue = model.items.standardised(
                corpus.catalogue, torch.bfloat16 if bfloat16 else torch.float32
            )

    def forward(self, plan: Plan) -> dict[str, Tensor]:
        """Compute the weighted parts of the loss of a plan; their sum is the loss.

        Item tables are computed once per plan.
        """
        model, config = self.model, self.config
        catalogue = self.catalogue if plan.item_U is None else self.catalogue.take(plan.item_U)
        tables = model.item_tables(catalogue)
        e_TBLD, mask_BLL = model.history(tables, plan)
        h_TBLD = model.encode(e_TBLD, mask_BLL)
        query_BLV = model.queries_of(h_TBLD)
        parts = {"recommendation": self._recommendation(plan, query_BLV, tables.target_NV)}
        if config.category_weight and model.guide is not None:
            assert catalogue.label_NC is not None  # a guide exists only if there are categories
            parts["category"] = config.category_weight * category_loss(
                tables.category_TNC, catalogue.label_NC, tables.present_NT, plan.counted_U
            )
        if config.swap_weight and self.swapped:
            parts["swap"] = config.swap_weight * self._swap(plan, e_TBLD, mask_BLL)
        return parts

    def _recommendation(self, plan: Plan, query_BLV: Tensor, target_NV: Tensor) -> Tensor:
        """Cross-entropy of the next item against the whole catalogue or the candidate items."""
        query_MV = gathered(query_BLV.flatten(0, 1), plan.place_M, plan.number_X)
        own_MV = functional.embedding(plan.target_M, target_NV)
        candidate_CV = target_NV
        if plan.candidate_C is not None:
            candidate_CV = functional.embedding(plan.candidate_C, target_NV)
        sides = list(zip(*map(self._split, (query_MV, own_MV, candidate_CV)), strict=True))
        if plan.seen is None:
            weights = [plan.weight_M] * len(sides)
            loss_K = torch.stack([one.loss for one in _cross_entropies(plan, sides, weights)])
        else:
            loss_K = self._biased(plan, plan.seen, sides, query_BLV, target_NV)
        return (loss_K * self.weight_K).sum()

    def _biased(
        self, plan: Plan, seen: LastSeen, sides: Sides, query_BLV: Tensor, target_NV: Tensor
    ) -> Tensor:
        """Cross-entropy of each score when items of the history have a bias: [K]."""
        repeats = self.model.repeats
        assert repeats is not None
        with torch.set_grad_enabled(repeats.separate):
            each = _cross_entropies(plan, sides, [plan.weight_M] * len(sides))
        with torch.set_grad_enabled(not repeats.separate):
            logits = self._logits_of_seen(plan, query_BLV, target_NV)
        with torch.no_grad(), torch.autocast(query_BLV.device.type, enabled=False):
            sums_KM = torch.stack([x for one in each for x in (one.log_sum_M, one.own_share_M)])
            sums_KX = sums_KM.index_select(1, plan.number_X).view(len(each), 2, -1)
            kept_BLJ = repeats.kept(seen)
            shares = [
                repeats.shares(logit, log_sum, kept_BLJ, seen.correction_BJ)
                for logit, log_sum in zip(
                    logits, sums_KX[:, 0].view(len(each), *plan.item_BL.shape), strict=True
                )
            ]
            share_KXR = torch.stack([repeats.by_age(share_BLJ) for share_BLJ in shares])
            weight_X = plan.weight_M[plan.number_X]
        of_bias = share_KXR, sums_KX[:, 1], self.scale_K, seen.age_BL.view(-1)
        with torch.autocast(query_BLV.device.type, enabled=False):
            loss_K = torch.stack([one.loss for one in each]) + repeats.loss(*of_bias, weight_X)
        if repeats.separate:
            return loss_K
        # This has the gradients of the biased logits. Only its gradient is used, not its value.
        slopes = repeats.slopes(shares, *of_bias)
        factor_KM, own_KM = (
            x_KX.index_select(1, plan.place_M) * plan.weight_M
            for x_KX in (slopes.factor_KX, slopes.own_KX)
        )
        weight_BL1 = weight_X.view(*plan.item_BL.shape, 1)
        each = _cross_entropies(plan, sides, factor_KM.unbind())
        gradient_K = torch.stack(
            [
                one.loss + own_M @ (query * own).float().sum(1) + (slope * weight_BL1 * logit).sum()
                for one, own_M, (query, own, _), slope, logit in zip(
                    each, own_KM, sides, slopes.seen_K, logits, strict=True
                )
            ]
        )
        return loss_K + (gradient_K - gradient_K.detach())

    def _logits_of_seen(self, plan: Plan, query_BLV: Tensor, target_NV: Tensor) -> list[Tensor]:
        """For each score, logits of all events of a row at each position of it: [B, L, J]."""
        item_BJV = functional.embedding(plan.item_BL, target_NV)
        widths = self.model.score_widths
        pairs = zip(*(torch.split(x, widths, -1) for x in (query_BLV, item_BJV)), strict=True)
        logits = [query @ item.mT for query, item in pairs]
        if self.scores[0].whole and len(logits) > 1:
            logits = [torch.stack(logits).sum(0), *logits][: len(self.scores)]
        return logits

    def _split(self, x: Tensor) -> list[Tensor]:
        """Split queries or targets by score: all columns, or those of one branch."""
        whole = [x] * self.scores[0].whole
        if len(whole) == len(self.scores):
            return whole
        # Split, not sliced: the gradient of a slice is as wide as the tensor it was cut from.
        return [*whole, *torch.split(x, self.model.score_widths, dim=-1)]

    def _swap(self, plan: Plan, e_TBLD: Tensor, mask_BLL: Tensor | None) -> Tensor:
        """Modality swap loss (equations 16 to 18), summed over the pairs of streams.

        At each position, the two streams of a pair are exchanged with probability `swap_rate`.
        Each of the two sequences is encoded by the Transformer of its own stream.
        """
        losses = []
        for pair in self.swapped:
            traded_BL1 = (
                torch.rand(e_TBLD.shape[1:3], device=e_TBLD.device) < self.config.swap_rate
            ).unsqueeze(-1)
            one_BLD, other_BLD = e_TBLD[pair]
            swapped_TBLD = torch.stack(
                [
                    torch.where(traded_BL1, other_BLD, one_BLD),
                    torch.where(traded_BL1, one_BLD, other_BLD),
                ]
            )
            h_TBLD = self.model.encode(swapped_TBLD, mask_BLL, pair)
            one_WD, other_WD = h_TBLD.flatten(1, 2).index_select(1, plan.last_W)
            losses.append(swap_loss(one_WD, other_WD, self.config.swap_temperature))
        return torch.stack(losses).sum()


def _cross_entropies(plan: Plan, sides: Sides, weight_KM: Sequence[Tensor]) -> list[CrossEntropy]:
    """Cross-entropy of each score, summed over the positions with the given weights."""
    return [
        sampled_cross_entropy(*side, plan.own_M, plan.correction_C, weight_M)
        for side, weight_M in zip(sides, weight_KM, strict=True)
    ]


class _Score(NamedTuple):
    """A score with a cross-entropy of its own.

    Attributes:
        whole: Whether it is the summed score of all branches; otherwise it is that of one branch.
        weight: Weight of its cross-entropy in the loss.
        scale: Factor of the repeat bias in this score. It is 1 for the summed score.
    """

    whole: bool
    weight: float
    scale: float


def _scores(branches: int, branch_share: float) -> list[_Score]:
    """The summed score and those of the branches; scores without weight in the loss are omitted."""
    share = branch_share if branches > 1 else 0.0
    whole = [_Score(True, 1 - share, 1.0)] if share < 1 else []
    each = [_Score(False, share / branches, 1 / branches)] * branches if share else []
    return whole + each


def _swapped_pairs(branches: Sequence[str], pairs: Sequence[str] | None) -> list[tuple[int, int]]:
    """Index pairs of the branches that the swap loss compares; `pairs` is as in the settings.

    Raises:
        UsageError: A pair does not exist.
    """
    every = list(combinations(range(len(branches)), 2))
    if pairs is None:
        return every
    named = {
        f"{branches[one]}-{branches[other]}": pair
        for pair in every
        for one, other in (pair, pair[::-1])
    }
    unknown = [name for name in pairs if name not in named]
    if unknown:
        raise UsageError(
            f"training.swap_pairs: no pair {', '.join(unknown)}; there are: "
            + (", ".join(f"{branches[m]}-{branches[n]}" for m, n in every) or "none")
        )
    return sorted({named[name] for name in pairs})
