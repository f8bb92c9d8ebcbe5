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

from cammsr_cli.model.device_kernels import filled, rows_at_once

NOWHERE = -1e30
"""Logit of masked items; finite, so that a softmax over masked items only is not NaN."""


class CrossEntropy(NamedTuple):
    """A softmax cross-entropy and its statistics; only `loss` has gradients.

    Attributes:
        loss: Weighted sum over the positions.
        own_share_M: Probability of each position's target item.
        log_sum_M: Log-sum-exp of each position's logits.
    """

    loss: Tensor
    own_share_M: Tensor
    log_sum_M: Tensor


def catalogue_cross_entropy(query_MV: Tensor, target_NV: Tensor, own_M: Tensor) -> Tensor:
    """Mean softmax cross-entropy of the next item over all N items, without an M x N matrix.

    Args:
        query_MV: Queries of the positions.
        target_NV: Targets of the items.
        own_M: int64 row of `target_NV` of each position's next item.
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
    """Weighted sum of the softmax cross-entropy of each position's target against N candidates.

    Under autocast, matrix products use its dtype and everything else uses float32.

    Args:
        query_MV: Queries of the positions.
        own_MV: Targets of each position's next item.
        target_NV: Targets of the candidate items.
        own_M: int64 row of `target_NV` of the position's target item, which is left out of the
            negatives. If it is not a candidate, a row whose correction is `NOWHERE`.
        correction_N: Added to the candidates' logits: the log-Q correction of
            `negatives.Candidates` if they are a sample of the catalogue.
        weight_M: The positions' weights; if None, equal weights with the sum 1.
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

    Here the logit own_m is <query_m, own_m>. The logits of a few rows are computed, used for the
    value and all gradients, and freed: three matrix products and no recomputation (the idea of Hsu
    et al., "Liger Kernel", arXiv 2410.10989, section 3.2).
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
    """Each position's cross-entropy, target probability and log-sum-exp; then the gradients."""
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
        # Softmax over the negatives, in the dtype of the products: it is rounded to it anyway.
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
    """Append the correction to the targets as two columns; queries have ones there.

    So the matrix product adds the correction, in its own dtype. The second column holds the
    rounding error of the first, for example in bfloat16.
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

    Items without a label and missing streams are ignored.

    Args:
        logits_SNC: Predicted logits.
        label_NC: bool, the items' labels.
        present_NS: bool, whether each item has each stream.
        weight_N: Weight of each item, 0 to ignore it; if None, 1.
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

    The positive pair is the two states of one history. The other histories of the batch are the
    negatives. Similarity is the cosine. The paper has no temperature, which equals 1.
    """
    one_BD, other_BD = functional.normalize(one_BD, dim=-1), functional.normalize(other_BD, dim=-1)
    logits_BB = one_BD.float() @ other_BD.float().T / temperature
    own = torch.arange(len(one_BD), device=one_BD.device)
    return functional.cross_entropy(logits_BB, own)
