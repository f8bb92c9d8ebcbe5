"""Layers for S streams at once: each stream has its own weights, in one batched product.

Axes: S streams, B users, L positions, D width, A heads, I inputs, O outputs. Of a table: R rows, U
requested rows, K distinct ones among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cammsr_cli.model.device_kernels import attention, dropout


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_XD: Tensor, at_M: Tensor, back_X: Tensor) -> Tensor:
        ctx.save_for_backward(back_X)
        return x_XD.index_select(0, at_M)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MD: Tensor) -> tuple[Tensor, None, None]:
        (back_X,) = ctx.saved_tensors
        return grad_MD.index_select(0, back_X), None, None


def gathered(x_XD: Tensor, at_M: Tensor, back_X: Tensor) -> Tensor:
    """`x[at]` with a gather instead of a sum in the backward pass: `back_X` maps X to M.

    So the gradient does not depend on the order of a sum. Rows of X that are not among the M must
    point to one of the M whose gradient is zero.
    """
    out: Tensor = _Gathered.apply(x_XD, at_M, back_X)
    return out


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table_RD: Tensor, row_U: Tensor, met_K: Tensor, place_U: Tensor
    ) -> Tensor:
        ctx.save_for_backward(met_K, place_U)
        ctx.shape = table_RD.shape
        return table_RD.index_select(0, row_U)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_UD: Tensor) -> tuple[Tensor, None, None, None]:
        met_K, place_U = ctx.saved_tensors
        grad_KD = grad_UD.new_zeros(len(met_K), grad_UD.shape[1]).index_add_(0, place_U, grad_UD)
        grad = torch.sparse_coo_tensor(
            met_K.unsqueeze(0), grad_KD, ctx.shape, check_invariants=False, is_coalesced=True
        )
        return grad, None, None, None


def rows_of_table(table_RD: Tensor, row_U: Tensor, met_K: Tensor, place_U: Tensor) -> Tensor:
    """`table[row]`, with a coalesced sparse gradient: its rows are sorted and unique.

    Torch's own sparse gradients hold a row as often as it was looked up. To count the distinct
    rows, the host would wait for the GPU repeatedly.

    Args:
        table_RD: The table.
        row_U: int64 requested rows.
        met_K: int64 the same rows, sorted and deduplicated.
        place_U: int64 index of each requested row in `met_K`.
    """
    rows: Tensor = _Rows.apply(table_RD, row_U, met_K, place_U)
    return rows


class StreamLinear(nn.Module):
    """One linear layer per stream.

    Args:
        streams: S.
        inputs: I.
        outputs: O.
        uniform: For each stream, whether its weights have torch's uniform initialisation; False
            for all if empty.
    """

    def __init__(
        self, streams: int, inputs: int, outputs: int, uniform: Sequence[bool] = ()
    ) -> None:
        super().__init__()
        self.weight_SIO = nn.Parameter(torch.empty(streams, inputs, outputs))
        self.bias_SO = nn.Parameter(torch.zeros(streams, outputs))
        # Small compared with the residual stream, so that an untrained encoder passes its input
        # on. With torch's or Xavier initialisation, training takes several epochs more
        # (docs/notebook.md).
        nn.init.normal_(self.weight_SIO, std=0.02)
        bound = inputs**-0.5
        for stream, is_uniform in enumerate(uniform):
            if is_uniform:
                nn.init.uniform_(self.weight_SIO[stream], -bound, bound)
                nn.init.uniform_(self.bias_SO[stream], -bound, bound)

    def forward(self, x: Tensor, of: Tensor | None = None) -> Tensor:
        """Map [S, M, ..., I] to [S, M, ..., O]; `of`: int64 indices of the streams in `x`."""
        if of is None:
            return _linear(x, self.weight_SIO, self.bias_SO)
        return _linear(x, self.weight_SIO[of], self.bias_SO[of])

    def part(self, x: Tensor, outputs: slice) -> Tensor:
        """Like `forward`, for some of the outputs only."""
        return _linear(x, self.weight_SIO[:, :, outputs], self.bias_SO[:, outputs])


def _linear(x: Tensor, weight_SIO: Tensor, bias_SO: Tensor) -> Tensor:
    out = torch.baddbmm(bias_SO.unsqueeze(1), x.flatten(1, -2), weight_SIO)
    return out.view(*x.shape[:-1], out.shape[-1])


class StreamNorm(nn.Module):
    """Normalisation of the last axis for each stream: LayerNorm, or DyT instead.

    LayerNorm: Ba et al., arXiv 1607.06450. DyT(x) = tanh(alpha x), elementwise, without statistics
    (Zhu et al., arXiv 2503.10622), with one learnt alpha per stream.

    Args:
        dyt: For each of the S streams, whether it has DyT.
        width: D, for a learnt scale and shift of each stream after it; 0 for neither.
    """

    ALPHA = 0.5
    """Initial value of alpha, as in Zhu et al."""

    def __init__(self, dyt: Sequence[bool], width: int = 0) -> None:
        super().__init__()
        self.dyt = tuple(dyt)
        self.alpha_S = (
            nn.Parameter(torch.full((sum(self.dyt),), self.ALPHA)) if any(self.dyt) else None
        )
        self.scale_SD = nn.Parameter(torch.ones(len(self.dyt), width)) if width else None
        self.shift_SD = nn.Parameter(torch.zeros(len(self.dyt), width)) if width else None

    def forward(self, x_SXD: Tensor, of: Tensor | None = None) -> Tensor:
        """Normalise `x` [S, ..., D], same shape out; `of`: int64 indices of the streams in `x`."""
        normed_SXD = self._normed(x_SXD, of)
        if self.scale_SD is None or self.shift_SD is None:
            return normed_SXD
        scale_SD: Tensor = self.scale_SD
        shift_SD: Tensor = self.shift_SD
        if of is not None:
            scale_SD, shift_SD = scale_SD[of], shift_SD[of]
        shape = (len(scale_SD), *(1 for _ in x_SXD.shape[1:-1]), x_SXD.shape[-1])
        return torch.addcmul(shift_SD.view(shape), normed_SXD, scale_SD.view(shape))

    def _normed(self, x_SXD: Tensor, of: Tensor | None) -> Tensor:
        if self.alpha_S is None:
            return functional.layer_norm(x_SXD, x_SXD.shape[-1:])
        if all(self.dyt):
            alpha_S = self.alpha_S if of is None else self.alpha_S[of]
            return torch.tanh(x_SXD * alpha_S.view(-1, *(1 for _ in x_SXD.shape[1:])))
        streams = range(len(self.dyt)) if of is None else of.tolist()
        return torch.stack(
            [
                torch.tanh(x_XD * self.alpha_S[sum(self.dyt[:stream])])
                if self.dyt[stream]
                else functional.layer_norm(x_XD, x_XD.shape[-1:])
                for x_XD, stream in zip(x_SXD, streams, strict=True)
            ]
        )


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al., 2014)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Drop a share of the values of `x`, any shape, and scale up the others."""
        return dropout(x, self.share) if self.training and self.share else x


class TransformerBlock(nn.Module):
    """Pre-norm causal self-attention and feed-forward layer (Vaswani et al., 2017) per stream.

    Padding is on the right. So the causal mask alone keeps real positions from attending to
    padding. If a row holds several sequences, a second mask separates them. Normalisation has no
    scale and shift here: the linear layer that follows has them.

    Args:
        dyt: For each of the S streams, whether it has DyT instead of LayerNorm.
        width: D; a multiple of `heads`.
        heads: A.
        dropout: Dropout rate of attention weights and of each layer's output.
        relative_positions: Number of relative positions with a learnt bias for each stream and head
            (Raffel et al., JMLR 2020, section 2.1, without buckets); 0 for no such bias.
    """

    def __init__(
        self,
        dyt: Sequence[bool],
        width: int,
        heads: int,
        dropout: float,
        relative_positions: int = 0,
    ) -> None:
        super().__init__()
        streams = len(dyt)
        self.streams, self.heads = streams, heads
        self.attention_norm, self.feed_forward_norm = StreamNorm(dyt), StreamNorm(dyt)
        self.drop = Dropout(dropout)
        self.distance_bias_LX = (
            nn.Parameter(torch.zeros(relative_positions, streams * heads))
            if relative_positions
            else None
        )
        # Unlike LayerNorm, DyT does not scale its input to unit variance. With weights as small as
        # for LayerNorm, a branch learns slowly at first and ranks worse in the end
        # (docs/notebook.md).
        self.query_key_value = StreamLinear(streams, width, 3 * width, dyt)
        self.attention_out = StreamLinear(streams, width, width, dyt)
        self.feed_forward_in = StreamLinear(streams, width, 4 * width, dyt)
        self.feed_forward_out = StreamLinear(streams, 4 * width, width, dyt)

    def forward(
        self, x_SBLD: Tensor, mask_BLL: Tensor | None = None, of: Tensor | None = None
    ) -> Tensor:
        """Apply attention and the feed-forward layer; same shape out.

        Args:
            x_SBLD: The sequences.
            mask_BLL: Added to the attention logits: 0, or very negative for masked pairs of
                positions. Later positions are masked without it.
            of: int64 indices of the streams that `x_SBLD` holds; None for all.
        """
        x_SBLD = x_SBLD + self.drop(self._attend(self.attention_norm(x_SBLD, of), mask_BLL, of))
        out: Tensor = x_SBLD + self.drop(self._feed_forward(x_SBLD, of))
        return out

    def last(self, x_SBLD: Tensor, last_B: Tensor) -> Tensor:
        """Compute `forward` for position `last` of each row only: [S, B, D].

        The other positions need keys and values only, which is a third of the work.
        """
        streams, batch, length, width = x_SBLD.shape
        row_B = torch.arange(batch, device=x_SBLD.device)
        normed_SBLD = self.attention_norm(x_SBLD)
        heads = (self.heads, width // self.heads)
        q_SBD = self.query_key_value.part(normed_SBLD[:, row_B, last_B], slice(width))
        q_SBA1d = q_SBD.view(streams, batch, self.heads, 1, -1)
        k_SBALd, v_SBALd = (
            self.query_key_value.part(normed_SBLD, slice(width, None))
            .view(streams, batch, length, 2, *heads)
            .permute(3, 0, 1, 4, 2, 5)
        )
        bias_SBA1L = self._bias(length, x_SBLD.device)[:, :, last_B].transpose(1, 2).unsqueeze(3)
        weight_SBA1L = (q_SBA1d * heads[1] ** -0.5 @ k_SBALd.mT + bias_SBA1L).softmax(-1)
        mixed_SBD = (weight_SBA1L @ v_SBALd).view(streams, batch, width)
        x_SBD: Tensor = x_SBLD[:, row_B, last_B] + self.drop(self.attention_out(mixed_SBD))
        out: Tensor = x_SBD + self.drop(self._feed_forward(x_SBD))
        return out

    def _feed_forward(self, x_SXD: Tensor, of: Tensor | None = None) -> Tensor:
        hidden = functional.gelu(self.feed_forward_in(self.feed_forward_norm(x_SXD, of), of))
        out: Tensor = self.feed_forward_out(self.drop(hidden), of)
        return out

    def _attend(self, x_SBLD: Tensor, mask_BLL: Tensor | None, of: Tensor | None) -> Tensor:
        streams, batch, length, width = x_SBLD.shape
        q_SBALd, k_SBALd, v_SBALd = (
            self.query_key_value(x_SBLD, of)
            .view(streams, batch, length, 3, self.heads, width // self.heads)
            .permute(3, 0, 1, 4, 2, 5)
        )
        bias_SALL = self._bias(length, x_SBLD.device)
        if of is not None:
            bias_SALL = bias_SALL[of]
        bias = bias_SALL.unsqueeze(1)  # [S, 1, A, L, L]; [S, B, A, L, L] with a mask
        if mask_BLL is not None:
            bias = bias + mask_BLL.unsqueeze(1)
        share = self.drop.share if self.training else 0.0
        mixed_SBALd = attention(q_SBALd, k_SBALd, v_SBALd, bias, share)
        mixed_SBLD = mixed_SBALd.transpose(2, 3).reshape(streams, batch, length, width)
        out: Tensor = self.attention_out(mixed_SBLD, of)
        return out

    def _bias(self, length: int, device: torch.device) -> Tensor:
        """Bias of the attention logits, [S, A, L, L]; -inf for later positions."""
        if self.distance_bias_LX is None:
            past_XL = torch.zeros(self.streams * self.heads, length, device=device)
        else:
            past_XL = self.distance_bias_LX[:length].T
        # Each row of the matrix is a window of one line of biases, from the largest distance to
        # later positions. The last row starts at the line's start, and each row above starts one
        # value later.
        line_XK = functional.pad(past_XL.flip(1), (0, length - 1), value=float("-inf"))
        bias_XLL = line_XK.unfold(1, length, 1).flip(1)
        return bias_XLL.view(self.streams, self.heads, length, length)
