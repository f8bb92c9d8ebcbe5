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
    NOWHERE,
    balance_loss,
    catalogue_cross_entropy,
    category_loss,
    sampled_cross_entropy,
    swap_loss,
)
from cammsr_cli.core.model import Cammsr, Catalogue, ItemStreams, ItemTables, are_new
from cammsr_cli.core.sampling import Candidates, all_candidates, draw_candidates, places
from cammsr_cli.core.windows import Events, Packed, cut, deal_ties, pack

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
        item_U: int64, how those items are named in the data set.
        catalogue: The first N of them, whose tables are wanted; of the others the ids alone are.
        items: How many of the N are wanted indeed; the others make N even.
        label_NC: The known categories of these.
        packed: The histories; the items that follow them are named as in the data set.
        own_M: int64, the items that follow.
        candidates_R: Of each reader of the model, what it tells them from; None for all of
            `item_U`, which then is the whole catalogue in order.
    """

    item_U: Tensor
    catalogue: Catalogue
    items: int
    label_NC: Tensor
    packed: Packed
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
        streams, alone_UD = self._streams(step)
        tables = model.item_tables(*streams)
        window = step.packed.window
        h_BLX = model.user_states(tables, window)
        # Queries of the padding too: M is new at each step, and a CPU makes code for each shape.
        every_MV = model.queries(h_BLX)[window.valid_BL]
        recommendation = self._recommendation(step, every_MV, tables.target_NV, alone_UD)
        parts = {"recommendation": recommendation}
        if self.config.category_weight and tables.fused.category_NC.shape[1]:
            parts["category"] = self.config.category_weight * category_loss(
                tables.fused.category_NC[: step.items], step.label_NC, self.corpus.multi_label
            )
        if self.config.swap_weight and len(model.modalities) > 1:
            parts["swap"] = self.config.swap_weight * self._swap(step, streams, tables, h_BLX)
        if self.config.balance_weight and tables.fused.gate_NSE is not None:
            parts["balance"] = self.config.balance_weight * balance_loss(
                tables.fused.gate_NSE[: step.items]
            )
        return parts

    def _recommendation(
        self, step: _Step, every_MV: Tensor, every_NV: Tensor, alone_UD: Tensor | None
    ) -> Tensor:
        """The readers' own cross-entropies of the next item, summed."""
        # Split, not sliced: the gradient of a slice is as wide as what it was cut from.
        widths = [reader.stop - reader.start for reader in self.model.readers]
        query_R = torch.split(every_MV, widths, dim=1)
        target_R = [torch.split(every_NV, widths, dim=1)[0]]
        if alone_UD is not None:  # of more items than have tables
            target_R.append(alone_UD)
        losses = [
            _loss(query_MV, target_XV, step.own_M, candidates)
            for query_MV, target_XV, candidates in zip(
                query_R, target_R, step.candidates_R, strict=True
            )
        ]
        return torch.stack(losses).sum()

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
            every_N = self._every_item()
            return _Step(
                every_N,
                self.catalogue,
                len(every_N),
                corpus.label_NC,
                packed,
                target_M,
                candidates_R,
            )
        needed_N, place = torch.unique(
            torch.cat([packed.window.item_BL[valid_BL], target_M, drawn.item_C]),
            return_inverse=True,
        )
        place_M, own_M, place_C = place.split([len(target_M), len(target_M), len(drawn.item_C)])
        place_BL = torch.zeros_like(packed.window.item_BL)
        place_BL[valid_BL] = place_M
        candidates_R = [replace(drawn, item_C=place_C)]
        item_U, items = needed_N, len(needed_N)
        for told in others:
            if told is None:
                told = all_candidates(target_M, self._every_item())
            item_U, place_C = _joined(needed_N, told.item_C)
            candidates_R.append(replace(told, item_C=place_C))
        even = items + -items % EVEN_ITEMS
        item_U = torch.cat([item_U, item_U[:1].expand(max(0, even - len(item_U)))])
        return _Step(
            item_U,
            self.catalogue.take(item_U[:even]),
            items,
            corpus.label_NC[needed_N],
            replace(packed, window=replace(packed.window, item_BL=place_BL)),
            own_M,
            candidates_R,
        )

    def _every_item(self) -> Tensor:
        """All items as the data set names them, int64 [N]."""
        return torch.arange(len(self.corpus.label_NC), device=self.corpus.label_NC.device)

    def _streams(self, step: _Step) -> tuple[ItemStreams, Tensor | None]:
        """The streams of the items that have tables; all items as the ids' own reader sees them."""
        if len(step.candidates_R) == 1:
            return self.model.item_streams(step.catalogue), None
        ids = self.model.ids(self.catalogue.take(step.item_U, features=False))
        first = ids.first(len(step.catalogue.id_row_N))
        return self.model.item_streams(step.catalogue, first), ids.alone_ND

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
        """A sample, and after it one of its items again and again, with no part in any sum."""
        drawn = draw_candidates(target_M, self.corpus.share_N, number, self.rival_R)
        assert drawn.correction_C is not None
        item_C, lacking = drawn.item_C, -len(drawn.item_C) % EVEN_CANDIDATES
        return replace(
            drawn,
            item_C=torch.cat([item_C, item_C[:1].expand(lacking)]),
            correction_C=functional.pad(drawn.correction_C, (0, lacking), value=NOWHERE),
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
    if not catalogue.present or not bool((catalogue.id_row_N < 0).any()):
        return None
    return (~are_new(catalogue)).nonzero().squeeze(1)


def _joined(item_N: Tensor, other_C: Tensor) -> tuple[Tensor, Tensor]:
    """Rising items, and after them those of `other_C` that are not among them; places of these."""
    place_C = places(other_C, item_N)
    absent_C = place_C < 0
    after_C = len(item_N) - 1 + absent_C.cumsum(0)
    return torch.cat([item_N, other_C[absent_C]]), torch.where(absent_C, after_C, place_C)


def _loss(
    query_MV: Tensor, target_NV: Tensor, own_M: Tensor, candidates: Candidates | None
) -> Tensor:
    """Cross-entropy of the rows `own_M` of `target_NV` against all of them, or the candidates."""
    if candidates is None:
        return catalogue_cross_entropy(query_MV, target_NV, own_M)
    told_CV = functional.embedding(candidates.item_C, target_NV)
    own_MV = functional.embedding(own_M, target_NV)
    return sampled_cross_entropy(
        query_MV, own_MV, told_CV, candidates.own_M, candidates.correction_C
    )
