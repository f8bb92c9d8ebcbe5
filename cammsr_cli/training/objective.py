"""One training step's loss: L = L_rec + l_cat L_cat + l_swap L_swap.

Axes: B windows, L positions, M positions with a target, N items, C candidates, T branches, D width,
V score width, P pairs of a position and an item of its history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.config import TrainingConfig
from cammsr_cli.core.items import Catalogue, are_new
from cammsr_cli.core.losses import (
    NOWHERE,
    Bias,
    category_loss,
    sampled_cross_entropy,
    swap_loss,
)
from cammsr_cli.core.model import Cammsr
from cammsr_cli.core.repeats import seen_before
from cammsr_cli.core.sampling import Candidates, all_candidates, draw_candidates
from cammsr_cli.core.windows import Events, Packed, cut, deal_ties, pack
from cammsr_cli.errors import UsageError

EVEN_ROWS = 4
"""Rows of a step are a multiple of it, so that few shapes of tensors occur."""

EVEN_ITEMS, EVEN_CANDIDATES = 256, 128
"""Likewise the items of a step, and what its targets are told from: a CPU makes code for each shape
of a bfloat16 product, which takes longer than the product."""


@dataclass(frozen=True)
class Corpus:
    """What is learnt from, on the device; it stays the same from step to step.

    Attributes:
        catalogue: All items; their features may lie elsewhere if `share_N` is given.
        events: All events.
        ties: Whether some events of one user share their time and are to be dealt anew.
        share_N: float, each item's share of all training targets.
        sampled: Whether each step tells its targets from a sample of the catalogue, and computes
            no other items.
        large: Whether features are read where they lie as steps need them, unstandardised.
    """

    catalogue: Catalogue
    events: Events
    ties: bool
    share_N: Tensor
    sampled: bool
    large: bool


@dataclass(frozen=True)
class _Step:
    """The items one step needs, and its windows with items named by their place among those.

    Attributes:
        catalogue: The items whose tables are wanted.
        items: How many of them are wanted indeed; the others make their number even.
        packed: The histories.
        target_M: int64, the items that follow.
        candidates: What these are told from; None for all of the catalogue.
    """

    catalogue: Catalogue
    items: int
    packed: Packed
    target_M: Tensor
    candidates: Candidates | None


class Objective(nn.Module):
    """What is minimised. A module, so that it can be run on many devices as one."""

    def __init__(self, model: Cammsr, corpus: Corpus, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.corpus = corpus
        self.config = config
        self.catalogue = corpus.catalogue
        self.rival_R = rivals(corpus.catalogue)
        # As tensors where the model is: the host waits for what it copies there.
        self.swapped = [
            torch.tensor(pair, device=model.device)
            for pair in _swapped_pairs(model.branch_names, config.swap_pairs)
        ]
        if not corpus.large:  # once, not at each step; in the products' own type
            bfloat16 = config.precision == "bfloat16"
            self.catalogue = model.items.standardised(
                corpus.catalogue, torch.bfloat16 if bfloat16 else torch.float32
            )

    def forward(self, start_B: Tensor, end_B: Tensor) -> dict[str, Tensor]:
        """The weighted parts of the loss for a batch of windows; their sum is the loss.

        The windows' bounds lie on the host, so that it need not wait for the device to know them.

        Item tables are computed once for the step. Every position's target is the event after it.
        """
        model, config = self.model, self.config
        step = self._step(start_B, end_B)
        tables = model.item_tables(step.catalogue)
        e_TBLD, mask_BLL = model.history(tables, step.packed.window)
        h_TBLD = model.encode(e_TBLD, mask_BLL)
        query_MV = model.queries_of(h_TBLD).flatten(0, 1)[step.packed.place_M]
        parts = {"recommendation": self._recommendation(step, query_MV, tables.target_NV)}
        if config.category_weight and model.guide is not None:
            label_NC = step.catalogue.label_NC
            assert label_NC is not None  # there is a guide where there are categories
            parts["category"] = config.category_weight * category_loss(
                tables.category_TNC[:, : step.items],
                label_NC[: step.items],
                tables.present_NT[: step.items],
            )
        if config.swap_weight and self.swapped:
            parts["swap"] = config.swap_weight * self._swap(step.packed, e_TBLD, mask_BLL)
        return parts

    def _recommendation(self, step: _Step, query_MV: Tensor, target_NV: Tensor) -> Tensor:
        """Cross-entropy of the next item against the whole catalogue, or the candidates."""
        candidates = step.candidates
        if candidates is None:
            told_CV, own_M, correction_C = target_NV, step.target_M, None
        else:
            told_CV = functional.embedding(candidates.item_C, target_NV)
            own_M, correction_C = candidates.own_M, candidates.correction_C
        own_MV = functional.embedding(step.target_M, target_NV)
        bias = self._repeats(step)
        branches = self.model.branches
        share = self.config.branch_share if branches > 1 else 0.0
        losses = []
        if share < 1:
            whole = sampled_cross_entropy(query_MV, own_MV, told_CV, own_M, correction_C, bias)
            losses.append((1 - share) * whole)
        if share:
            # Split, not sliced: the gradient of a slice is as wide as what it was cut from.
            each = (
                torch.split(x, self.model.score_widths, dim=1) for x in (query_MV, own_MV, told_CV)
            )
            # The bias is one of the summed score: each branch has its part of it.
            if bias is not None:
                bias = bias._replace(value_P=bias.value_P / branches, own_M=bias.own_M / branches)
            for query, own, told in zip(*each, strict=True):
                branch = sampled_cross_entropy(query, own, told, own_M, correction_C, bias)
                losses.append(share / branches * branch)
        return torch.stack(losses).sum()

    def _repeats(self, step: _Step) -> Bias | None:
        """What is added to the scores of items that the history of a position holds."""
        if self.model.repeats is None:
            return None
        position_P, item_P, age_P = seen_before(step.packed.window)
        value_P = self.model.repeats(age_P)
        own_P = (item_P == step.target_M[position_P]).nonzero().squeeze(1)
        own_bias_M = value_P.new_zeros(len(step.target_M)).index_add(
            0, position_P[own_P], value_P[own_P]
        )
        if step.candidates is not None:
            item_C = step.candidates.item_C
            place_N = item_P.new_full((len(step.catalogue.id_row_N),), -1)
            # What fills the candidates up, at their end, is the first of them again.
            place_N[item_C[1:]] = torch.arange(1, len(item_C), device=item_C.device)
            place_N[item_C[:1]] = 0
            item_P = place_N[item_P]
            kept_P = (item_P >= 0).nonzero().squeeze(1)
            position_P, item_P, value_P = position_P[kept_P], item_P[kept_P], value_P[kept_P]
        return Bias(position_P, item_P, value_P, own_bias_M)

    def _step(self, start_B: Tensor, end_B: Tensor) -> _Step:
        """The windows, and the whole catalogue or the part of it that they need."""
        corpus = self.corpus
        both = cut(corpus.events, start_B, end_B + 1)
        if corpus.ties:
            both = deal_ties(both)
        packed = pack(both, self.model.length, EVEN_ROWS, end_B - start_B)
        target_M = packed.target_BL.flatten()[packed.place_M]
        drawn = self._candidates(target_M)
        if not corpus.sampled or drawn is None:
            items = len(self.catalogue.id_row_N)
            return _Step(self.catalogue, items, packed, target_M, drawn)
        needed_N, place = torch.unique(
            torch.cat([packed.window.item_BL.flatten()[packed.place_M], target_M, drawn.item_C]),
            return_inverse=True,
        )
        place_M, own_M, place_C = place.split([len(target_M), len(target_M), len(drawn.item_C)])
        place_BL = torch.zeros_like(packed.window.item_BL)
        place_BL.view(-1)[packed.place_M] = place_M
        items = len(needed_N)
        lacking = -items % EVEN_ITEMS
        return _Step(
            self.catalogue.take(torch.cat([needed_N, needed_N[:1].expand(lacking)])),
            items,
            replace(packed, window=replace(packed.window, item_BL=place_BL)),
            own_M,
            replace(drawn, item_C=place_C),
        )

    def _candidates(self, target_M: Tensor) -> Candidates | None:
        """What a step's targets are told from; None for all items."""
        if self.corpus.sampled:
            return self._drawn(target_M, self.config.negatives)
        if self.rival_R is not None:
            return all_candidates(target_M, self.rival_R)
        return None

    def _drawn(self, target_M: Tensor, number: int) -> Candidates:
        """A sample, and after it one of its items again and again, with no part in any sum."""
        drawn = draw_candidates(target_M, self.corpus.share_N, number, self.rival_R)
        assert drawn.correction_C is not None
        item_C, lacking = drawn.item_C, -len(drawn.item_C) % EVEN_CANDIDATES
        return replace(
            drawn,
            item_C=torch.cat([item_C, item_C[:1].expand(lacking)]),
            correction_C=functional.pad(drawn.correction_C, (0, lacking), value=NOWHERE),
        )

    def _swap(self, packed: Packed, e_TBLD: Tensor, mask_BLL: Tensor | None) -> Tensor:
        """Modality swap (equations 16 to 18), summed over the pairs of streams.

        At each position, with the probability `swap_rate`, the two streams of a pair trade places;
        each of the two sequences goes through the Transformer of its own stream.
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
            one_WD, other_WD = h_TBLD[:, packed.row_W, packed.last_W]
            losses.append(swap_loss(one_WD, other_WD, self.config.swap_temperature))
        return torch.stack(losses).sum()


def _swapped_pairs(branches: Sequence[str], pairs: Sequence[str] | None) -> list[tuple[int, int]]:
    """The branches that the swap loss compares, by index; `pairs` as in the settings.

    Raises:
        UsageError: A pair that there is not.
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


def rivals(catalogue: Catalogue) -> Tensor | None:
    """The items that targets are told from, int64 and rising; None if they are all.

    An item that training never met, but whose content is known, is not taught to be wrong: it is
    new, not unwanted, and would be ranked behind all others for that. One without content can be
    known by nothing else, and ranks behind them.
    """
    if not catalogue.present or not bool((catalogue.id_row_N < 0).any()):
        return None
    return (~are_new(catalogue)).nonzero().squeeze(1)
