"""The three losses: next item over the whole catalogue, categories, modality swap.

Axes: M positions that have a target, N items, V score width, B sequences, D width, S streams, C
categories, P pairs of a position and an item.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cammsr_cli.core.limits import most_on

LOGITS_AT_ONCE = {"cpu": 2**21, "cuda": 2**26}
"""Most logits that exist at one time: what a CPU's cache holds, or what keeps a GPU busy."""

NOWHERE = -1e30
"""Logit of what has no part; finite, so that a softmax over nothing else is a number."""

EVEN_ROWS = 16
"""Rows of a matrix product are a multiple of it, or where they are more than a thousand, of as many
times it: a CPU makes code for each shape, and keeps it."""


class Bias(NamedTuple):
    """What is added to single logits.

    Attributes:
        row_P: int64 position, rising.
        item_P: int64 row of the items it is told apart from; no pair is there twice.
        value_P: float.
    """

    row_P: Tensor
    item_P: Tensor
    value_P: Tensor


def catalogue_cross_entropy(query_MV: Tensor, target_NV: Tensor, own_M: Tensor) -> Tensor:
    """Mean softmax cross-entropy of the next item over all N items, without ever holding M x N.

    Args:
        query_MV: The users' side of the score.
        target_NV: The items' side.
        own_M: int64 row of `target_NV` that is each position's next item.
    """
    own_MV = functional.embedding(own_M, target_NV)
    return sampled_cross_entropy(query_MV, own_MV, target_NV, own_M)


def sampled_cross_entropy(
    query_MV: Tensor,
    own_MV: Tensor,
    target_NV: Tensor,
    own_M: Tensor,
    correction_N: Tensor | None = None,
    bias: Bias | None = None,
    own_bias_M: Tensor | None = None,
) -> Tensor:
    """Mean softmax cross-entropy of each position's own item against N others.

    Under autocast the matrix products are made in its dtype, everything else in float32.

    Args:
        query_MV: The users' side of the score.
        own_MV: The items' side, of each position's next item.
        target_NV: The items' side, of the items that it is told from.
        own_M: int64 row of `target_NV` that is the position's own item and is left out; -1 where
            none is.
        correction_N: Added to the logits of the others: the log-Q correction of `core.sampling`
            where they are a sample of the catalogue.
        bias: Added to single logits of the others.
        own_bias_M: Added to the logits of the own items.
    """
    query_MV, target_NV = query_MV.float(), target_NV.float()
    own_logit_M = (query_MV * own_MV.float()).sum(1)
    if own_bias_M is not None:
        own_logit_M = own_logit_M + own_bias_M
    row_P, item_P, value_P = (None, None, None) if bias is None else bias
    total: Tensor = _SummedLogSumExp.apply(
        query_MV, own_logit_M, target_NV, own_M, correction_N, row_P, item_P, value_P
    )
    return (total - own_logit_M.sum()) / len(query_MV)


class _SummedLogSumExp(torch.autograd.Function):
    """sum_m log(exp(own_logit_m) + sum_n exp(<query_m, target_n> + correction_n + bias_mn)).

    The logits of a few rows are made, used for the value and for all gradients, and forgotten:
    three matrix products and no recomputation (the idea of Hsu et al., "Liger Kernel",
    arXiv 2410.10989, section 3.2).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_MV: Tensor,
        own_logit_M: Tensor,
        target_NV: Tensor,
        own_M: Tensor,
        correction_N: Tensor | None,
        row_P: Tensor | None,
        item_P: Tensor | None,
        value_P: Tensor | None,
    ) -> Tensor:
        device = query_MV.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else query_MV.dtype
        bias = (
            None
            if row_P is None or item_P is None or value_P is None
            else Bias(row_P, item_P, value_P)
        )
        with torch.autocast(device, enabled=False):
            total, *grads = _summed(
                query_MV, own_logit_M, target_NV, own_M, correction_N, bias, dtype
            )
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query_grad, own_grad, target_grad, *value_grad = ctx.saved_tensors
        value = value_grad[0] * grad if value_grad else None
        return query_grad * grad, own_grad * grad, target_grad * grad, None, None, None, None, value


def _summed(
    query_MV: Tensor,
    own_logit_M: Tensor,
    target_NV: Tensor,
    own_M: Tensor,
    correction_N: Tensor | None,
    bias: Bias | None,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """The sum and its gradients: of queries, own logits, targets and the bias's values."""
    rows = _rows_at_once(len(query_MV), most_on(query_MV.device, LOGITS_AT_ONCE) // len(target_NV))
    target = target_NV.to(dtype)
    corrected = _corrected(target, correction_N)
    total = query_MV.new_zeros(())
    query_grad, target_grad = torch.empty_like(query_MV), torch.zeros_like(target_NV)
    own_grad = torch.empty_like(own_logit_M)
    biased = _Biased(bias, range(0, len(query_MV), rows), len(target_NV))
    for number, start in enumerate(range(0, len(query_MV), rows)):
        chunk = slice(start, start + rows)
        query = query_MV[chunk]
        asked = query.to(dtype)
        if correction_N is not None:
            asked = functional.pad(asked, (0, 2), value=1.0)
        logit = (_filled(asked, rows) @ corrected.T)[: len(query)]
        biased.add(logit, number)
        _leave_out(logit, own_M[chunk])
        # Among the others; in the products' type, as they would be rounded to it anyway.
        weight = torch.softmax(logit, 1)
        most, largest = logit.amax(1, keepdim=True), weight.amax(1, keepdim=True)
        others = most.to(query.dtype) - largest.to(query.dtype).log()
        own = own_logit_M[chunk, None]
        both = torch.logaddexp(others, own)
        share = (others - both).exp()
        total += both.sum()
        own_grad[chunk] = (own - both).exp().squeeze(1)
        biased.learn(weight, share, number)
        weight = _filled(weight, rows)
        query_grad[chunk] = (weight @ target)[: len(query)].to(query.dtype) * share
        share = _filled((query * share).to(dtype), rows)
        if dtype == target_grad.dtype:
            target_grad.addmm_(weight.T, share)
        else:
            target_grad += weight.T @ share
    return total, query_grad, own_grad, target_grad, *biased.gradient


class _Biased:
    """Adds a bias to the logits of chunks of rows, and gathers its gradient.

    Args:
        bias: None for none.
        starts: First row of each chunk.
        items: Columns of the logits.
    """

    def __init__(self, bias: Bias | None, starts: range, items: int) -> None:
        self.bias, self.starts, self.items = bias, starts, items
        self.gradient: list[Tensor] = []
        self._bounds: list[int] = []
        if bias is not None:
            self.gradient = [torch.zeros_like(bias.value_P)]
            self._bounds = [0, len(bias.row_P)]
            if len(starts) > 1:  # asking makes a GPU wait, whose chunk holds all rows as a rule
                edges = torch.tensor([*starts, 2**62], device=bias.row_P.device)
                self._bounds = torch.searchsorted(bias.row_P, edges).tolist()

    def add(self, logit_MN: Tensor, number: int) -> None:
        """Add that of chunk `number` to its logits, in place."""
        if self.bias is not None:
            at_P, part = self._at(number)
            flat_X = logit_MN.view(-1)
            flat_X[at_P] = flat_X[at_P] + self.bias.value_P[part].to(logit_MN.dtype)

    def learn(self, weight_MN: Tensor, share_M1: Tensor, number: int) -> None:
        """Take the gradient from chunk `number`'s softmax weights, each row's times `share`."""
        if self.bias is not None:
            at_P, part = self._at(number)
            row_P = self.bias.row_P[part] - self.starts[number]
            weight_P = weight_MN.view(-1)[at_P].to(share_M1.dtype)
            self.gradient[0][part] = weight_P * share_M1[row_P, 0]

    def _at(self, number: int) -> tuple[Tensor, slice]:
        """Where the chunk's pairs are among its logits, and among all pairs."""
        assert self.bias is not None
        part = slice(self._bounds[number], self._bounds[number + 1])
        row_P = self.bias.row_P[part] - self.starts[number]
        return row_P * self.items + self.bias.item_P[part], part


def _corrected(target_NV: Tensor, correction_N: Tensor | None) -> Tensor:
    """The targets, and beside them the correction, in two columns for a query of ones there.

    So the matrix product adds it: in bfloat16, adding float32 to the logits takes a CPU five times
    as long as the product. What one bfloat16 loses of it is in the second column.
    """
    if correction_N is None:
        return target_NV
    high = correction_N.to(target_NV.dtype)
    low = (correction_N - high.to(correction_N.dtype)).to(target_NV.dtype)
    return torch.cat([target_NV, high[:, None], low[:, None]], dim=1)


def _rows_at_once(of: int, most: int) -> int:
    """Rows of a chunk, no more than `most`: so many that all chunks are about as large."""
    most = max(1, most)
    even = min(most, EVEN_ROWS * -(-min(most, of) // 1024))
    each = -(-of // -(-of // (most - most % even)))
    return each + -each % even


def _filled(x_RV: Tensor, rows: int) -> Tensor:
    """The rows, and rows of zeros after them up to so many."""
    lacking = rows - len(x_RV)
    return functional.pad(x_RV, (0, 0, 0, lacking)) if lacking else x_RV


def _leave_out(logit_MN: Tensor, own_M: Tensor) -> None:
    """Take each position's own item, if it is among the others, out of the sum; in place."""
    flat_X = logit_MN.view(-1)  # a CPU scatters by way of copies of the whole
    first_M = torch.arange(len(own_M), device=own_M.device) * logit_MN.shape[1]
    at_M = first_M + own_M.clamp(min=0)
    flat_X[at_M] = flat_X[at_M].masked_fill(own_M >= 0, NOWHERE)


def category_loss(logits_SNC: Tensor, label_NC: Tensor, present_NS: Tensor) -> Tensor:
    """Binary cross-entropy of every stream's category predictions, mean over C.

    Items without a label and streams that an item lacks are left out.

    Args:
        logits_SNC: Predicted.
        label_NC: bool.
        present_NS: bool.
    """
    weight_SN = (label_NC.any(1, keepdim=True) & present_NS).T.float()
    each_SNC = functional.binary_cross_entropy_with_logits(
        logits_SNC.float(), label_NC.float().expand_as(logits_SNC), reduction="none"
    )
    return (each_SNC.mean(-1) * weight_SN).sum() / weight_SN.sum().clamp(min=1)


def swap_loss(one_BD: Tensor, other_BD: Tensor, temperature: float) -> Tensor:
    """Mean InfoNCE between two streams' states of the same histories (equation 18).

    The positive pair is the two states of one history; the other histories of the batch are the
    negatives. Similarity is the cosine; the paper prints no temperature, which is 1.
    """
    one_BD, other_BD = functional.normalize(one_BD, dim=-1), functional.normalize(other_BD, dim=-1)
    logits_BB = one_BD.float() @ other_BD.float().T / temperature
    own = torch.arange(len(one_BD), device=one_BD.device)
    return functional.cross_entropy(logits_BB, own)
