"""The three losses: next item over the whole catalogue, categories, modality swap.

Axes: M positions that have a target, N items, V score width, B sequences, D width, S streams, C
categories.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cammsr_cli.model.by_device import filled, rows_at_once

NOWHERE = -1e30
"""Logit of what has no part; finite, so that a softmax over nothing else is a number."""


class CrossEntropy(NamedTuple):
    """A softmax cross-entropy and what else is told of it; only the first has gradients.

    Attributes:
        loss: Its weighted sum over the positions.
        own_share_M: Probability of each position's own item.
        log_sum_M: Logarithm of what the exponentials of the position's logits sum to.
    """

    loss: Tensor
    own_share_M: Tensor
    log_sum_M: Tensor


def catalogue_cross_entropy(query_MV: Tensor, target_NV: Tensor, own_M: Tensor) -> Tensor:
    """Mean softmax cross-entropy of the next item over all N items, without ever holding M x N.

    Args:
        query_MV: The users' side of the score.
        target_NV: The items' side.
        own_M: int64 row of `target_NV` that is each position's next item.
    """
    own_MV = functional.embedding(own_M, target_NV)
    return sampled_cross_entropy(query_MV, own_MV, target_NV, own_M).loss


def sampled_cross_entropy(
    query_MV: Tensor,
    own_MV: Tensor,
    target_NV: Tensor,
    own_M: Tensor,
    correction_N: Tensor | None = None,
    weight_M: Tensor | None = None,
) -> CrossEntropy:
    """Softmax cross-entropy of each position's own item against N others, summed with weights.

    Under autocast the matrix products are made in its dtype, everything else in float32.

    Args:
        query_MV: The users' side of the score.
        own_MV: The items' side, of each position's next item.
        target_NV: The items' side, of the items that it is told from.
        own_M: int64 row of `target_NV` that is the position's own item and is left out; where none
            is, one of no part: corrected by `NOWHERE`.
        correction_N: Added to the logits of the others: the log-Q correction of `core.sampling`
            where they are a sample of the catalogue.
        weight_M: The positions' weights; if not given, all alike, and their sum is 1.
    """
    if weight_M is None:
        weight_M = own_MV.new_full(own_M.shape, 1 / len(own_M), dtype=torch.float32)
    return CrossEntropy(
        *_SummedCrossEntropy.apply(
            query_MV.float(), own_MV.float(), target_NV.float(), own_M, weight_M, correction_N
        )
    )


class _SummedCrossEntropy(torch.autograd.Function):
    """sum_m w_m (log(exp(own_m) + sum_n exp(<query_m, target_n> + correction_n)) - own_m).

    Where own_m = <query_m, own_m>. The logits of a few rows are made, used for the value and for
    all gradients, and forgotten: three matrix products and no recomputation (the idea of Hsu et
    al., "Liger Kernel", arXiv 2410.10989, section 3.2).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_MV: Tensor,
        own_MV: Tensor,
        target_NV: Tensor,
        own_M: Tensor,
        weight_M: Tensor,
        correction_N: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = query_MV.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else query_MV.dtype
        with torch.autocast(device, enabled=False):
            each_M, own_share_M, log_sum_M, *gradients = _in_chunks(
                query_MV, own_MV, target_NV, own_M, weight_M, correction_N, dtype
            )
            total = torch.dot(each_M, weight_M)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(own_share_M, log_sum_M)
        ctx.set_materialize_grads(False)
        return total, own_share_M, log_sum_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        return *torch._foreach_mul(ctx.saved_tensors, grad), None, None, None


def _in_chunks(
    query_MV: Tensor,
    own_MV: Tensor,
    target_NV: Tensor,
    own_M: Tensor,
    weight_M: Tensor,
    correction_N: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """Each position's cross-entropy, own probability and log-sum; gradients of the weighted sum."""
    rows = rows_at_once(len(query_MV), len(target_NV), query_MV.device)
    target = target_NV.to(dtype)
    corrected = _corrected(target, correction_N)
    target_grad = torch.zeros_like(target_NV)
    parts = []
    for start in range(0, len(query_MV), rows):
        chunk = slice(start, start + rows)
        query, own, weight = query_MV[chunk], own_MV[chunk], weight_M[chunk, None]
        own_logit = (query * own).sum(1, keepdim=True)
        chunk_query = query.to(dtype)
        if correction_N is not None:
            chunk_query = functional.pad(chunk_query, (0, 2), value=1.0)
        logit = (filled(chunk_query, rows) @ corrected.T)[: len(query)]
        logit[torch.arange(len(query), device=logit.device), own_M[chunk]] = NOWHERE
        # Among the others; in the products' type, as they would be rounded to it anyway.
        among = torch.softmax(logit, 1)
        most, largest = logit.amax(1, keepdim=True), among.amax(1, keepdim=True)
        others = most.to(query.dtype) - largest.to(query.dtype).log()
        log_sum = torch.logaddexp(others, own_logit)
        each = log_sum - own_logit
        own_share = (-each).exp()
        push = (others - log_sum).exp() * weight
        pull = torch.addcmul(-weight, own_share, weight)
        among = filled(among, rows)
        pushed = (among @ target)[: len(query)].to(query.dtype)
        query_grad = torch.addcmul(pushed * push, own, pull)
        parts.append((each, own_share, log_sum, query_grad, query * pull))
        share = filled((query * push).to(dtype), rows)
        if dtype == target_grad.dtype:
            target_grad.addmm_(among.T, share)
        else:
            target_grad += among.T @ share
    joined = parts[0] if len(parts) == 1 else [torch.cat(x) for x in zip(*parts, strict=True)]
    each, own_share, log_sum, query_grad, own_grad = joined
    each_M, own_share_M, log_sum_M = (x.squeeze(1) for x in (each, own_share, log_sum))
    return each_M, own_share_M, log_sum_M, query_grad, own_grad, target_grad


def _corrected(target_NV: Tensor, correction_N: Tensor | None) -> Tensor:
    """The targets, and beside them the correction, in two columns for a query of ones there.

    So the matrix product adds it, and the logits are of its type. What one bfloat16 loses of it is
    in the second column.
    """
    if correction_N is None:
        return target_NV
    high = correction_N.to(target_NV.dtype)
    low = (correction_N - high.to(correction_N.dtype)).to(target_NV.dtype)
    return torch.cat([target_NV, high[:, None], low[:, None]], dim=1)


def category_loss(
    logits_SNC: Tensor, label_NC: Tensor, present_NS: Tensor, weight_N: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of every stream's category predictions, mean over C.

    Items without a label and streams that an item lacks are left out.

    Args:
        logits_SNC: Predicted.
        label_NC: bool.
        present_NS: bool.
        weight_N: Of each item, 0 to leave it out; if not given, 1.
    """
    weight_SN = (label_NC.any(1, keepdim=True) & present_NS).T.float()
    if weight_N is not None:
        weight_SN = weight_SN * weight_N
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
