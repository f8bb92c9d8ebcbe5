"""The user encoder: from a history's item vectors to a user state per position and stream.

Axes: S streams, B users, L positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cammsr_cli.model.layers import StreamNorm, TransformerBlock


class UserEncoder(nn.Module):
    """S parallel causal Transformers, one per stream (equations 12 and 14 of the paper).

    Args:
        dyt: For each of the S streams, whether its Transformer has DyT instead of LayerNorm.
        width: D.
        layers: Number of Transformer blocks.
        heads: Attention heads per block; must divide `width`.
        length: Longest history; L is at most this.
        dropout: Dropout rate.
        relative_positions: Whether attention has a learnt bias for each relative position.
    """

    def __init__(
        self,
        dyt: Sequence[bool],
        width: int,
        layers: int,
        heads: int,
        length: int,
        dropout: float,
        relative_positions: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(dyt, width, heads, dropout, length if relative_positions else 0)
            for _ in range(layers)
        )
        self.final_norm = StreamNorm(dyt, width)

    def forward(
        self, x_SBLD: Tensor, mask_BLL: Tensor | None = None, of: Tensor | None = None
    ) -> Tensor:
        """Compute user states [S, B, L, D]: the state of each user after each event.

        Args:
            x_SBLD: The events' items.
            mask_BLL: Mask that separates histories in one row (`segment_mask`); None if each row
                has one history.
            of: int64 indices of the streams that `x_SBLD` holds; None for all, in order.
        """
        for block in self.blocks:
            x_SBLD = block(x_SBLD, mask_BLL, of)
        h_SBLD: Tensor = self.final_norm(x_SBLD, of)
        return h_SBLD

    def last(self, x_SBLD: Tensor, last_B: Tensor) -> Tensor:
        """Compute only the state at position `last` of each row: [S, B, D], as `forward` does."""
        *blocks, final = self.blocks
        for block in blocks:
            x_SBLD = block(x_SBLD)
        assert isinstance(final, TransformerBlock)
        h_SBD: Tensor = self.final_norm(final.last(x_SBLD, last_B))
        return h_SBD


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Causal mask [L, L]: 0 up to and including a position, -inf after it."""
    ahead_LL = torch.full((length, length), float("-inf"), device=device)
    return ahead_LL.triu(1)
