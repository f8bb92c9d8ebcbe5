"""One training step's loss: L = L_rec + l_cat L_cat + l_swap L_swap (+ l_bal L_balance).

Axes: B windows, L positions, M positions with a target, N items, C candidates, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.config import TrainingConfig
from cammsr_cli.core.losses import (
    balance_loss,
    catalogue_cross_entropy,
    category_loss,
    sampled_cross_entropy,
    swap_loss,
)
from cammsr_cli.core.model import Cammsr, Catalogue, ItemStreams, ItemTables, has_content
from cammsr_cli.core.sampling import Candidates, all_candidates, draw_candidates
from cammsr_cli.core.windows import Events, Packed, cut, deal_ties, pack

EVEN_ROWS = 4
"""Rows of a step are a multiple of it, so that few shapes of tensors occur."""


@dataclass(frozen=True)
class Corpus:
    """What is learnt from, on the device; it stays the same from step to step.

    Attributes:
        catalogue: All items; their features may lie elsewhere if `share_N` is given.
        events: All events.
        ties: Whether some events of one user share their time and are to be dealt anew.
        label_NC: bool, the items' known categories.
        multi_label: Whether any item has more than one.
        share_N: float, each item's share of all training targets.
        sampled: Whether each step tells its targets from a sample of the catalogue, and computes
            no other items.
        large: Whether features are read where they lie as steps need them, unstandardised.
    """

    catalogue: Catalogue
    events: Events
    ties: bool
    label_NC: Tensor
    multi_label: bool
    share_N: Tensor
    sampled: bool
    large: bool


@dataclass(frozen=True)
class _Step:
    """The items one step needs, and its windows with items named by their place among those.

    Attributes:
        catalogue: Those items.
        label_NC: Their known categories.
        packed: The histories; the items that follow them are named as in the data set.
        target_M: The items that follow, named so too, and
        own_M: their place.
        candidates_R: Of each reader of the model, what it tells the targets from; None for all
            items. The first one's are named by their place, those of the ids' own reader as in
            the data set.
    """

    catalogue: Catalogue
    label_NC: Tensor
    packed: Packed
    target_M: Tensor
    own_M: Tensor
    candidates_R: list[Candidates | None]


class Objective(nn.Module):
    """What is minimised. A module, so that it can be run on many devices as one."""

    def __init__(self, model: Cammsr, corpus: Corpus, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.corpus = corpus
        self.config = config
        self.catalogue = corpus.catalogue
        self.rival_R = rivals(corpus.catalogue)
        if not corpus.large:  # once, not at each step; in the products' own type
            bfloat16 = config.precision == "bfloat16"
            self.catalogue = model.standardised(
                corpus.catalogue, torch.bfloat16 if bfloat16 else torch.float32
            )

    def forward(self, start_B: Tensor, end_B: Tensor) -> dict[str, Tensor]:
        """The weighted parts of the loss for a batch of windows; their sum is the loss.

        Item tables are computed once for the step. Every position's target is the event after it.
        """
        model = self.model
        step = self._step(start_B, end_B)
        streams = model.item_streams(step.catalogue)
        tables = model.item_tables(*streams)
        window = step.packed.window
        h_BLX = model.user_states(tables, window)
        # Queries of the padding too: M is new at each step, and a CPU makes code for each shape.
        every_MV = model.queries(h_BLX)[window.valid_BL]
        first, *others = model.readers
        query_MV, target_NV = every_MV[:, first], tables.target_NV[:, first]
        losses = [_next_item_loss(query_MV, target_NV, step.own_M, step.candidates_R[0])]
        for ids, candidates in zip(others, step.candidates_R[1:], strict=True):
            query_MD, target_ND = every_MV[:, ids], tables.target_NV[:, ids]
            losses.append(self._loss_of_ids(query_MD, target_ND, step, candidates))
        parts = {"recommendation": torch.stack(losses).sum()}
        if self.config.category_weight and tables.fused.category_NC.shape[1]:
            parts["category"] = self.config.category_weight * category_loss(
                tables.fused.category_NC, step.label_NC, self.corpus.multi_label
            )
        if self.config.swap_weight and len(model.modalities) > 1:
            parts["swap"] = self.config.swap_weight * self._swap(step, streams, tables, h_BLX)
        if self.config.balance_weight and tables.fused.gate_NSE is not None:
            parts["balance"] = self.config.balance_weight * balance_loss(tables.fused.gate_NSE)
        return parts

    def _step(self, start_B: Tensor, end_B: Tensor) -> _Step:
        """The windows, and the whole catalogue or the part of it that the first reader needs."""
        corpus = self.corpus
        both = cut(corpus.events, start_B, end_B + 1)
        if corpus.ties:
            both = deal_ties(both)
        packed = pack(both, self.model.length, EVEN_ROWS)
        valid_BL = packed.window.valid_BL
        target_M = packed.target_BL[valid_BL]
        candidates_R = self._candidates(target_M)
        drawn, *others = candidates_R
        if drawn is None or drawn.correction_C is None:  # all items, or all that are rivals
            return _Step(self.catalogue, corpus.label_NC, packed, target_M, target_M, candidates_R)
        needed_N, place = torch.unique(
            torch.cat([packed.window.item_BL[valid_BL], target_M, drawn.item_C]),
            return_inverse=True,
        )
        place_M, own_M, place_C = place.split([len(target_M), len(target_M), len(drawn.item_C)])
        place_BL = torch.zeros_like(packed.window.item_BL)
        place_BL[valid_BL] = place_M
        return _Step(
            self.catalogue.take(needed_N),
            corpus.label_NC[needed_N],
            replace(packed, window=replace(packed.window, item_BL=place_BL)),
            target_M,
            own_M,
            [replace(drawn, item_C=place_C), *others],
        )

    def _loss_of_ids(
        self, query_MD: Tensor, target_ND: Tensor, step: _Step, candidates: Candidates | None
    ) -> Tensor:
        """Cross-entropy of the ids' own reader, whose items need no features."""
        if candidates is None:
            every_ND = self.model.ids_alone(self.catalogue)
            return catalogue_cross_entropy(query_MD, every_ND, step.target_M)
        return sampled_cross_entropy(
            query_MD,
            functional.embedding(step.own_M, target_ND),
            self.model.ids_alone(self.catalogue.take(candidates.item_C, features=False)),
            candidates.own_M,
            candidates.correction_C,
        )

    def _candidates(self, target_M: Tensor) -> list[Candidates | None]:
        """What each reader of the model tells the targets from; None where from all items."""
        told = None
        if self.corpus.sampled:
            told = self._drawn(target_M, self.config.negatives)
        elif self.rival_R is not None:
            told = all_candidates(target_M, self.rival_R)
        if len(self.model.readers) == 1:
            return [told]
        few = self.config.fused_negatives
        return [self._drawn(target_M, few) if few else told, told]

    def _drawn(self, target_M: Tensor, number: int) -> Candidates:
        return draw_candidates(target_M, self.corpus.share_N, number, self.rival_R)

    def _swap(
        self,
        step: _Step,
        streams: ItemStreams,
        tables: ItemTables,
        h_BLX: Tensor,
    ) -> Tensor:
        """Modality swap: the same histories, some items with their content in other seats."""
        shift = int(torch.randint(1, len(self.model.modalities), ()))
        swapped = self.model.item_tables(*self.model.swapped(streams, shift))
        other_BLX = self.model.swapped_user_states(
            tables, swapped, step.packed.window, self.config.swap_share
        )
        last = step.packed.row_W, step.packed.last_W
        fused = slice(self.model.width)  # the ids' own reader is shown no content
        return swap_loss(
            h_BLX[last][:, fused],
            other_BLX[last][:, fused],
            step.packed.target_BL[last],
            self.config.swap_temperature,
        )


def rivals(catalogue: Catalogue) -> Tensor | None:
    """The items that targets are told from, int64 and rising; None if they are all.

    An item that training never met, but whose content is known, is not taught to be wrong: it is
    new, not unwanted, and would be ranked behind all others for that. One without content can be
    known by nothing else, and ranks behind them.
    """
    new_N = catalogue.id_row_N < 0
    if not catalogue.present or not bool(new_N.any()):
        return None
    return (~(new_N & has_content(catalogue))).nonzero().squeeze(1)


def _next_item_loss(
    query_MV: Tensor, target_NV: Tensor, own_M: Tensor, candidates: Candidates | None
) -> Tensor:
    """Cross-entropy over the whole catalogue, or over a sample of it."""
    if candidates is None:
        return catalogue_cross_entropy(query_MV, target_NV, own_M)
    return sampled_cross_entropy(
        query_MV,
        functional.embedding(own_M, target_NV),
        functional.embedding(candidates.item_C, target_NV),
        candidates.own_M,
        candidates.correction_C,
    )
