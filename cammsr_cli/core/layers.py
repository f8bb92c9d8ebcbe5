"""Normalisation and the Transformer block.

Axes: B users, L positions, D width, A heads.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
        out: Tensor = _ScaledTanh.apply(x, self.alpha, self.weight, self.bias)
        return out


class _ScaledTanh(torch.autograd.Function):
    """`weight * tanh(alpha * x) + bias`; its gradients in fewer passes than torch finds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # tanh(z) = 2 sigmoid(2 z) - 1, which takes a CPU a quarter of the time.
        squashed = torch.sigmoid(2 * alpha * x).mul_(2).sub_(1)
        ctx.save_for_backward(x, alpha, weight, squashed)
        return torch.addcmul(bias, weight, squashed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, alpha, weight, squashed = ctx.saved_tensors
        grad_XD, squashed_XD = (one.reshape(-1, x.shape[-1]) for one in (grad, squashed))
        inner = torch.ops.aten.tanh_backward(grad * weight, squashed)
        alpha_grad = torch.dot(inner.flatten(), x.to(inner).flatten()).reshape(alpha.shape)
        return (
            (inner * alpha).to(x),
            alpha_grad,
            (grad_XD * squashed_XD).sum(0),
            grad_XD.sum(0),
        )


def make_norm(kind: Norm, width: int) -> nn.Module:
    """The normalisation layer called `kind` for a last axis of `width`."""
    return DynamicTanh(width) if kind == "dyt" else nn.LayerNorm(width)


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al., 2014).

    On the CPU, where drawing numbers is most of dropout's cost, one draw of 64 bits serves eight
    values, so that `share` is rounded to a 256th.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Drop a share of the values of `x`, any shape, and scale up the others."""
        if not self.training or not self.share:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.share)
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
        dropped = min(max(round(self.share * 256), 1), 255)
        kept = draws.view(torch.uint8)[: x.numel()].view(x.shape)
        # Bytes into bytes: a CPU makes booleans, and numbers of those, one at a time.
        torch.ge(kept, dropped, out=kept)
        return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


class TransformerBlock(nn.Module):
    """Pre-norm causal self-attention and a feed-forward layer (Vaswani et al., 2017).

    Sequences are filled from the left, so a causal mask alone keeps real positions from ever
    seeing the padding behind them. Where a row holds several, another mask keeps them apart.

    Args:
        width: D; a multiple of `heads`.
        heads: A.
        dropout: Share of attention weights and of what each layer gives that training drops.
        norm: "dyt" or "layernorm".
        distances: How far back attention has a learnt bias for each distance and head (Raffel et
            al., JMLR 2020, section 2.1, without buckets); 0 for no such bias.
    """

    def __init__(
        self, width: int, heads: int, dropout: float, norm: Norm, distances: int = 0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.drop = Dropout(dropout)
        self.attention_norm = make_norm(norm, width)
        self.distance_bias_LA = nn.Parameter(torch.zeros(distances, heads)) if distances else None
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward_norm = make_norm(norm, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(4 * width, width),
        )

    def forward(self, x_BLD: Tensor, apart_BLL: Tensor | None = None) -> Tensor:
        """Mix positions, then channels; same shape out.

        `apart_BLL` is added to the attention of each position to each: 0, or far below it where
        one shall not see the other. What is ahead is hidden without it.
        """
        x_BLD = x_BLD + self.drop(self._attend(self.attention_norm(x_BLD), apart_BLL))
        out: Tensor = x_BLD + self.drop(self.feed_forward(self.feed_forward_norm(x_BLD)))
        return out

    def last(self, x_BLD: Tensor, last_B: Tensor) -> Tensor:
        """What `forward` makes of position `last` of each row, [B, D], without the others.

        Only keys and values are wanted of the other positions: a third of the work.
        """
        batch, length, width = x_BLD.shape
        row_B = torch.arange(batch, device=x_BLD.device)
        normed_BLD = self.attention_norm(x_BLD)
        weight, bias = self.query_key_value.weight, self.query_key_value.bias
        q_BD = functional.linear(normed_BLD[row_B, last_B], weight[:width], bias[:width])
        q_BA1d = q_BD.view(batch, self.heads, 1, width // self.heads)
        k_BALd, v_BALd = (
            functional.linear(normed_BLD, weight[width:], bias[width:])
            .view(batch, length, 2, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        bias_BA1L = self._bias(length, x_BLD.device)[:, last_B].transpose(0, 1).unsqueeze(2)
        scale = (width // self.heads) ** -0.5
        weight_BA1L = (q_BA1d * scale @ k_BALd.mT + bias_BA1L).softmax(-1)
        mixed_BD = (weight_BA1L @ v_BALd).view(batch, width)
        x_BD = x_BLD[row_B, last_B] + self.drop(self.attention_out(mixed_BD))
        out: Tensor = x_BD + self.drop(self.feed_forward(self.feed_forward_norm(x_BD)))
        return out

    def _attend(self, x_BLD: Tensor, apart_BLL: Tensor | None) -> Tensor:
        batch, length, width = x_BLD.shape
        q_BALd, k_BALd, v_BALd = (
            self.query_key_value(x_BLD)
            .view(batch, length, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        bias = self._bias(length, x_BLD.device)  # [A, L, L], or with another axis B before
        if apart_BLL is not None:
            bias = bias + apart_BLL.unsqueeze(1)
        if self.training and x_BLD.device.type == "cpu":
            # Torch's own attention with dropout takes half as long again on a CPU.
            scale = (width // self.heads) ** -0.5
            weight_BALL = (q_BALd * scale @ k_BALd.mT + bias).softmax(-1)
            mixed_BALd = self.drop(weight_BALL) @ v_BALd
        else:
            mixed_BALd = functional.scaled_dot_product_attention(
                q_BALd,
                k_BALd,
                v_BALd,
                attn_mask=bias.to(q_BALd.dtype),
                dropout_p=self.drop.share if self.training else 0.0,
            )
        out: Tensor = self.attention_out(mixed_BALd.transpose(1, 2).reshape(batch, length, width))
        return out

    def _bias(self, length: int, device: torch.device) -> Tensor:
        """What is added to the attention of each position to each, [A, L, L]; -inf ahead."""
        at_L = torch.arange(length, device=device)
        distance_LL = at_L[:, None] - at_L[None, :]
        if self.distance_bias_LA is None:
            bias_LLA = torch.zeros(length, length, self.heads, device=device)
        else:
            bias_LLA = functional.embedding(distance_LL.clamp(min=0), self.distance_bias_LA)
        ahead_LL = distance_LL < 0
        bias_LLA = bias_LLA.masked_fill(ahead_LL[:, :, None], float("-inf"))
        return bias_LLA.permute(2, 0, 1).contiguous()  # what is added to it takes its layout
