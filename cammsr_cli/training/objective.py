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
from cammsr_cli.core.windows import Events, Window, cut, deal_ties

EVEN_LENGTH = 8
"""Windows and their targets are padded to a multiple of it, so that few shapes of tensors occur."""


@dataclass(frozen=True)
class Corpus:
    """What is learnt from, on the device; it stays the same from step to step.

    Attributes:
        catalogue: All items; their features may lie elsewhere if `share_N` is given.
        events: All events.
        ties: Whether some events of one user share their time and are to be dealt anew.
        label_NC: bool, the items' known categories.
        multi_label: Whether any item has more than one.
        share_N: float, each item's share of all training targets, where the catalogue is so large
            that each step tells its targets from a sample of it; None where from all of it.
    """

    catalogue: Catalogue
    events: Events
    ties: bool
    label_NC: Tensor
    multi_label: bool
    share_N: Tensor | None


@dataclass(frozen=True)
class _Step:
    """The items one step needs, and its windows with items named by their place among those.

    Attributes:
        catalogue: Those items.
        label_NC: Their known categories.
        window: The histories.
        target_BL: The items that follow them, named as in the data set.
        own_M: Place of each position's target.
        candidate_C: Places of what it is told from, and
        candidates: the sample they are; None where it is told from all.
    """

    catalogue: Catalogue
    label_NC: Tensor
    window: Window
    target_BL: Tensor
    own_M: Tensor
    candidate_C: Tensor | None = None
    candidates: Candidates | None = None


class Objective(nn.Module):
    """What is minimised. A module, so that it can be run on many devices as one."""

    def __init__(self, model: Cammsr, corpus: Corpus, config: TrainingConfig) -> None:
        super().__init__()
        self.model = model
        self.corpus = corpus
        self.config = config
        self.catalogue = corpus.catalogue
        self.rival_R = rivals(corpus.catalogue)
        if config.precision == "bfloat16" and corpus.share_N is None:
            # What the matrix product would round them to, once and not at each step.
            self.catalogue = model.standardised(corpus.catalogue, torch.bfloat16)

    def forward(self, start_B: Tensor, end_B: Tensor) -> dict[str, Tensor]:
        """The weighted parts of the loss for a batch of windows; their sum is the loss.

        Item tables are computed once for the step. Every position's target is the event after it.
        """
        model = self.model
        step = self._step(start_B, end_B)
        streams = model.item_streams(step.catalogue)
        tables = model.item_tables(*streams)
        h_BLX = model.user_states(tables, step.window)
        # Queries of the padding too: M is new at each step, and a CPU makes code for each shape.
        query_MV = model.queries(h_BLX)[step.window.valid_BL]
        losses = [
            _next_item_loss(query_MV[:, reader], tables.target_NV[:, reader], step)
            for reader in model.readers
        ]
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
        """The windows, and the whole catalogue or the part of it that they need."""
        corpus = self.corpus
        both = cut(corpus.events, start_B, end_B + 1, EVEN_LENGTH)
        if corpus.ties:
            both = deal_ties(both)
        inputs = slice(min(both.item_BL.shape[1] - 1, self.model.length))
        targets = slice(1, inputs.stop + 1)
        window = Window(
            item_BL=both.item_BL[:, inputs],
            gap_BL=both.gap_BL[:, inputs],
            valid_BL=both.valid_BL[:, targets],
            length_B=both.length_B - 1,
        )
        target_BL = both.item_BL[:, targets]
        valid_BL = window.valid_BL
        target_M = target_BL[valid_BL]
        if corpus.share_N is None:
            step = _Step(self.catalogue, corpus.label_NC, window, target_BL, target_M)
            if self.rival_R is None:
                return step
            candidates = all_candidates(target_M, self.rival_R)
            return replace(step, candidate_C=candidates.item_C, candidates=candidates)
        candidates = draw_candidates(target_M, corpus.share_N, self.config.negatives, self.rival_R)
        needed_N, place = torch.unique(
            torch.cat([window.item_BL[valid_BL], target_M, candidates.item_C]),
            return_inverse=True,
        )
        place_M, own_M, candidate_C = place.split(
            [len(target_M), len(target_M), len(candidates.item_C)]
        )
        place_BL = torch.zeros_like(window.item_BL)
        place_BL[valid_BL] = place_M
        return _Step(
            corpus.catalogue.take(needed_N),
            corpus.label_NC[needed_N],
            replace(window, item_BL=place_BL),
            target_BL,
            own_M,
            candidate_C,
            candidates,
        )

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
            tables, swapped, step.window, self.config.swap_share
        )
        row_B = torch.arange(len(h_BLX), device=h_BLX.device)
        last_B = step.window.length_B - 1
        fused = slice(self.model.width)  # the ids' own reader is shown no content
        return swap_loss(
            h_BLX[row_B, last_B, fused],
            other_BLX[row_B, last_B, fused],
            step.target_BL[row_B, last_B],
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


def _next_item_loss(query_MV: Tensor, target_NV: Tensor, step: _Step) -> Tensor:
    """Cross-entropy over the whole catalogue, or over the step's sample of it."""
    if step.candidate_C is None or step.candidates is None:
        return catalogue_cross_entropy(query_MV, target_NV, step.own_M)
    return sampled_cross_entropy(
        query_MV,
        functional.embedding(step.own_M, target_NV),
        functional.embedding(step.candidate_C, target_NV),
        step.candidates.own_M,
        step.candidates.correction_C,
    )
