"""The sequence encoder: from a history of item vectors to a user state at every position.

Axes: B users, L positions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cammsr_cli.core.layers import Dropout, Norm, TransformerBlock, make_norm
from cammsr_cli.core.windows import TIME_BUCKETS


class SequenceEncoder(nn.Module):
    """A causal Transformer with learnt positions and, if asked, log-bucketed time gaps.

    Args:
        width: D.
        layers: Number of Transformer blocks.
        heads: Attention heads a block; must divide `width`.
        length: Longest history, L at most.
        dropout: Share of activations dropped in training.
        norm: "dyt" or "layernorm".
        time: Whether the gap to the event before is added to each position.
        distances: Whether attention has a learnt bias for each distance back.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        length: int,
        dropout: float,
        norm: Norm,
        time: bool,
        distances: bool = True,
    ) -> None:
        super().__init__()
        self.drop = Dropout(dropout)
        self.input_scale = nn.Parameter(torch.tensor(float(width) ** 0.5))
        self.position = nn.Embedding(length, width)
        self.gap = nn.Embedding(TIME_BUCKETS, width) if time else None
        for table in (self.position, self.gap):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, dropout, norm, length if distances else 0)
            for _ in range(layers)
        )
        self.final_norm = make_norm(norm, width)

    def forward(self, x_BLD: Tensor, gap_BL: Tensor, within_BL: Tensor | None = None) -> Tensor:
        """User states h_BLD: what is known of each user after each event.

        Args:
            x_BLD: The events' items.
            gap_BL: int64 bucket of the time since the event before.
            within_BL: int64 place of each position in its own history, where a row holds several;
                none sees another.
        """
        x_BLD = self._placed(x_BLD, gap_BL, within_BL)
        apart_BLL = None if within_BL is None else _apart(within_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, apart_BLL)
        h_BLD: Tensor = self.final_norm(x_BLD)
        return h_BLD

    def last(self, x_BLD: Tensor, gap_BL: Tensor, last_B: Tensor) -> Tensor:
        """The state at position `last` of each row alone, [B, D]: what `forward` has there."""
        x_BLD = self._placed(x_BLD, gap_BL)
        *blocks, final = self.blocks
        for block in blocks:
            x_BLD = block(x_BLD)
        assert isinstance(final, TransformerBlock)
        h_BD: Tensor = self.final_norm(final.last(x_BLD, last_B))
        return h_BD

    def _placed(self, x_BLD: Tensor, gap_BL: Tensor, within_BL: Tensor | None = None) -> Tensor:
        if within_BL is None:
            position = self.position.weight[: x_BLD.shape[1]]
        else:
            position = self.position(within_BL)
        x_BLD = x_BLD * self.input_scale + position
        if self.gap is not None:
            x_BLD = x_BLD + self.gap(gap_BL)
        placed_BLD: Tensor = self.drop(x_BLD)
        return placed_BLD


def _apart(within_BL: Tensor) -> Tensor:
    """What keeps histories in one row apart, [B, L, L]: 0 within one, else far below.

    By arithmetic: a CPU takes four times as long for booleans and filling by them.
    """
    at_L = torch.arange(within_BL.shape[1], device=within_BL.device, dtype=torch.float32)
    distance_LL = at_L[:, None] - at_L[None, :]
    return (within_BL.float()[:, :, None] - distance_LL).clamp_(max=0.0).mul_(1e30)
