"""Normalisation and the Transformer block.

Axes: B users, L positions, D width, A heads.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Norm = Literal["dyt", "layernorm"]


class DynamicTanh(nn.Module):
    """Dynamic Tanh: `weight * tanh(alpha * x) + bias`, element by element.

    Takes the place of LayerNorm without computing any statistics (Zhu et al., "Transformers
    without Normalization", arXiv 2503.10622, equation 3).

    Args:
        width: Size of the last axis.
        alpha: Start value of the one learnt scale; the paper's default is 0.5.
    """

    def __init__(self, width: int, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), alpha))
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Squash `x` [..., D], same shape out."""
        return self.weight * torch.tanh(self.alpha * x) + self.bias


def make_norm(kind: Norm, width: int) -> nn.Module:
    """The normalisation layer called `kind` for a last axis of `width`."""
    return DynamicTanh(width) if kind == "dyt" else nn.LayerNorm(width)


class TransformerBlock(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer (Vaswani et al., 2017).

    Sequences are filled from the left, so a causal mask alone keeps real positions from ever
    seeing the padding behind them.
    """

    def __init__(self, width: int, heads: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = make_norm(norm, width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = make_norm(norm, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Mix positions, then channels; same shape out."""
        x_BLD = x_BLD + self._drop(self._attend(self.attention_norm(x_BLD)))
        return x_BLD + self._drop(self.feed_forward(self.feed_forward_norm(x_BLD)))

    def _attend(self, x_BLD: Tensor) -> Tensor:
        batch, length, width = x_BLD.shape
        q_BALd, k_BALd, v_BALd = (
            self.query_key_value(x_BLD)
            .view(batch, length, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        mixed_BALd = functional.scaled_dot_product_attention(
            q_BALd,
            k_BALd,
            v_BALd,
            is_causal=True,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.attention_out(mixed_BALd.transpose(1, 2).reshape(batch, length, width))
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)
