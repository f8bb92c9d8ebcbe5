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
        own_M: float, of each position's own item; 0 where it has none.
    """

    row_P: Tensor
    item_P: Tensor
    value_P: Tensor
    own_M: Tensor


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
) -> Tensor:
    """Mean softmax cross-entropy of each position's own item against N others.

    A bias is learnt beside the rest: the value is that of the biased logits, and so is the gradient
    of the bias, but all else has the gradient of the logits without it. So what the bias tells is
    still learnt by the rest too, which ranks better for it (docs/notebook.md).

    Under autocast the matrix products are made in its dtype, everything else in float32.

    Args:
        query_MV: The users' side of the score.
        own_MV: The items' side, of each position's next item.
        target_NV: The items' side, of the items that it is told from.
        own_M: int64 row of `target_NV` that is the position's own item and is left out; -1 where
            none is.
        correction_N: Added to the logits of the others: the log-Q correction of `core.sampling`
            where they are a sample of the catalogue.
        bias: Added to single logits.
    """
    query_MV, target_NV = query_MV.float(), target_NV.float()
    own_logit_M = (query_MV * own_MV.float()).sum(1)
    row_P, item_P = (None, None) if bias is None else (bias.row_P, bias.item_P)
    total, own_share_M, share_P = _SummedLogSumExp.apply(
        query_MV, own_logit_M, target_NV, own_M, correction_N, row_P, item_P
    )
    loss: Tensor = total - own_logit_M.sum()
    if bias is not None:
        loss = loss + _of_bias(bias, own_share_M, share_P)
    return loss / len(query_MV)


def _of_bias(bias: Bias, own_share_M: Tensor, share_P: Tensor) -> Tensor:
    """What a bias adds to the summed cross-entropy.

    Args:
        bias: The bias.
        own_share_M: Probabilities of the own items without it.
        share_P: Those of the pairs.
    """
    least = torch.finfo(share_P.dtype).tiny
    rest_M = (1 - own_share_M).index_add(0, bias.row_P, -share_P).clamp(min=least)
    own_M = bias.own_M + own_share_M.clamp(min=least).log()
    other_P = bias.value_P + share_P.clamp(min=least).log()
    # A sum of exponentials from the largest of them on, so that a large bias stays finite.
    top_M = own_M.detach().clamp(min=0).scatter_reduce(0, bias.row_P, other_P.detach(), "amax")
    total_M = (rest_M.log() - top_M).exp() + (own_M - top_M).exp()
    total_M = total_M.index_add(0, bias.row_P, (other_P - top_M[bias.row_P]).exp())
    return (top_M + total_M.log() - bias.own_M).sum()


class _SummedLogSumExp(torch.autograd.Function):
    """sum_m log(exp(own_logit_m) + sum_n exp(<query_m, target_n> + correction_n)).

    And, without gradients, the probabilities of the own items and of some pairs.

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = query_MV.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else query_MV.dtype
        if row_P is None or item_P is None:
            row_P = item_P = own_M[:0]
        with torch.autocast(device, enabled=False):
            total, query_grad, own_share_M, target_grad, share_P = _summed(
                query_MV, own_logit_M, target_NV, own_M, correction_N, row_P, item_P, dtype
            )
        ctx.save_for_backward(query_grad, own_share_M, target_grad)
        ctx.mark_non_differentiable(own_share_M, share_P)
        return total, own_share_M, share_P

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        query_grad, own_grad, target_grad = ctx.saved_tensors
        return query_grad * grad, own_grad * grad, target_grad * grad, None, None, None, None


def _summed(
    query_MV: Tensor,
    own_logit_M: Tensor,
    target_NV: Tensor,
    own_M: Tensor,
    correction_N: Tensor | None,
    row_P: Tensor,
    item_P: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """The sum, its gradients (of queries, own logits, targets) and the pairs' probabilities."""
    rows = _rows_at_once(len(query_MV), most_on(query_MV.device, LOGITS_AT_ONCE) // len(target_NV))
    target = target_NV.to(dtype)
    corrected = _corrected(target, correction_N)
    total = query_MV.new_zeros(())
    query_grad, target_grad = torch.empty_like(query_MV), torch.zeros_like(target_NV)
    own_grad = torch.empty_like(own_logit_M)
    starts = range(0, len(query_MV), rows)
    share_P, bounds = query_MV.new_empty(len(row_P)), _bounds(row_P, starts)
    for number, start in enumerate(starts):
        chunk = slice(start, start + rows)
        query = query_MV[chunk]
        asked = query.to(dtype)
        if correction_N is not None:
            asked = functional.pad(asked, (0, 2), value=1.0)
        logit = (_filled(asked, rows) @ corrected.T)[: len(query)]
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
        part = slice(bounds[number], bounds[number + 1])
        if part.stop > part.start:
            row = row_P[part] - start
            at = row * len(target_NV) + item_P[part]
            share_P[part] = weight.view(-1)[at].to(share.dtype) * share[row, 0]
        weight = _filled(weight, rows)
        query_grad[chunk] = (weight @ target)[: len(query)].to(query.dtype) * share
        share = _filled((query * share).to(dtype), rows)
        if dtype == target_grad.dtype:
            target_grad.addmm_(weight.T, share)
        else:
            target_grad += weight.T @ share
    return total, query_grad, own_grad, target_grad, share_P


def _bounds(row_P: Tensor, starts: range) -> list[int]:
    """Which of some rising rows are in each chunk: from one bound to the next."""
    if len(starts) == 1 or not len(row_P):  # a GPU's chunk holds all rows as a rule; it waits here
        return [0, *[len(row_P)] * len(starts)]
    edges = torch.tensor([*starts, 2**62], device=row_P.device)
    return torch.searchsorted(row_P, edges).tolist()


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
