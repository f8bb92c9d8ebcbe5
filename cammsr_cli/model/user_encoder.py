"""The user encoder: from a history's item vectors to a user state at every position, a stream.

Axes: S streams, B users, L positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cammsr_cli.model.layers import StreamNorm, TransformerBlock


class UserEncoder(nn.Module):
    """S causal Transformers side by side, one a stream (equations 12 and 14 of the paper).

    Args:
        dyt: Of each of the S streams, whether its Transformer has DyT in place of LayerNorm.
        width: D.
        layers: Number of Transformer blocks.
        heads: Attention heads a block; must divide `width`.
        length: Longest history, L at most.
        dropout: Rate of dropout.
        relative_positions: Whether attention has a learnt bias for each distance back.
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
        """User states [S, B, L, D]: what is known of each user after each event.

        Args:
            x_SBLD: The events' items.
            mask_BLL: What keeps histories in one row apart (`segment_mask`), where there are any.
            of: Which streams' Transformers read `x_SBLD`, if not all, in order.
        """
        for block in self.blocks:
            x_SBLD = block(x_SBLD, mask_BLL, of)
        h_SBLD: Tensor = self.final_norm(x_SBLD, of)
        return h_SBLD

    def last(self, x_SBLD: Tensor, last_B: Tensor) -> Tensor:
        """The state at position `last` of each row alone, [S, B, D]: what `forward` has there."""
        *blocks, final = self.blocks
        for block in blocks:
            x_SBLD = block(x_SBLD)
        assert isinstance(final, TransformerBlock)
        h_SBD: Tensor = self.final_norm(final.last(x_SBLD, last_B))
        return h_SBD


def causal_mask(length: int, device: torch.device) -> Tensor:
    """What hides later positions, [L, L]: 0 up to a position, -inf ahead of it."""
    ahead_LL = torch.full((length, length), float("-inf"), device=device)
    return ahead_LL.triu(1)
