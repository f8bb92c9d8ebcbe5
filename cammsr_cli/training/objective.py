"""One training step's loss: L = L_rec + l_cat L_cat + l_swap L_swap (+ l_bal L_balance).

Axes: B windows, L positions, M positions with a target, N items, D width, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cammsr_cli.config import TrainingConfig
from cammsr_cli.core.losses import (
    balance_loss,
    catalogue_cross_entropy,
    category_loss,
    swap_loss,
)
from cammsr_cli.core.model import Cammsr, Catalogue, ItemTables
from cammsr_cli.core.windows import Events, Window, cut


@dataclass(frozen=True)
class Labels:
    """The items' known categories.

    Attributes:
        label_NC: float 0 or 1.
        multi_label: Whether any item has more than one.
    """

    label_NC: Tensor
    multi_label: bool


@dataclass(frozen=True)
class Objective:
    """What is minimised, given everything that stays the same from step to step."""

    catalogue: Catalogue
    events: Events
    labels: Labels
    config: TrainingConfig

    def losses(self, model: Cammsr, start_B: Tensor, end_B: Tensor) -> dict[str, Tensor]:
        """The weighted parts of the loss for a batch of windows; their sum is the loss.

        Item tables are computed once for the step. Every position's target is the event after it.
        """
        x_NSD, present_NS = model.item_streams(self.catalogue)
        tables = model.item_tables(x_NSD, present_NS)
        window = cut(self.events, start_B, end_B)
        target_BL = cut(self.events, start_B + 1, end_B + 1).item_BL
        h_BLD = model.user_states(tables, window)
        query_MV = model.queries(h_BLD[window.valid_BL])
        parts = {
            "recommendation": catalogue_cross_entropy(
                query_MV, tables.target_NV, target_BL[window.valid_BL]
            )
        }
        if self.config.category_weight and tables.fused.category_NC.shape[1]:
            parts["category"] = self.config.category_weight * category_loss(
                tables.fused.category_NC, self.labels.label_NC, self.labels.multi_label
            )
        if self.config.swap_weight and len(model.modalities) > 1:
            parts["swap"] = self.config.swap_weight * self._swap(
                model, (x_NSD, present_NS), tables, window, (h_BLD, target_BL)
            )
        if self.config.balance_weight and tables.fused.gate_NSE is not None:
            parts["balance"] = self.config.balance_weight * balance_loss(tables.fused.gate_NSE)
        return parts

    def _swap(
        self,
        model: Cammsr,
        streams: tuple[Tensor, Tensor],
        tables: ItemTables,
        window: Window,
        plain: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Modality swap: the same histories, some items with their content in other seats."""
        h_BLD, target_BL = plain
        shift = int(torch.randint(1, len(model.modalities), ()))
        swapped = model.item_tables(*model.swapped(*streams, shift))
        other_BLD = model.swapped_user_states(tables, swapped, window, self.config.swap_share)
        row_B, last_B = torch.arange(len(h_BLD), device=h_BLD.device), window.length_B - 1
        return swap_loss(
            h_BLD[row_B, last_B],
            other_BLD[row_B, last_B],
            target_BL[row_B, last_B],
            self.config.swap_temperature,
        )
