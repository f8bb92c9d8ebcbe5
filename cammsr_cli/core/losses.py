"""The three losses: next item over the whole catalogue, categories, modality swap.

Axes: M positions that have a target, N items, V score width, B sequences, D width, C categories.
"""

from __future__ import annotations

from typing import Any

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
    """
    query_MV, target_NV = query_MV.float(), target_NV.float()
    own_logit_M = (query_MV * own_MV.float()).sum(1)
    total: Tensor = _SummedLogSumExp.apply(query_MV, own_logit_M, target_NV, own_M, correction_N)
    return (total - own_logit_M.sum()) / len(query_MV)


class _SummedLogSumExp(torch.autograd.Function):
    """sum_m log(exp(own_logit_m) + sum_n exp(<query_m, target_n> + correction_n)).

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
    ) -> Tensor:
        device = query_MV.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else query_MV.dtype
        with torch.autocast(device, enabled=False):
            total, *grads = _summed(query_MV, own_logit_M, target_NV, own_M, correction_N, dtype)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query_grad, own_grad, target_grad = ctx.saved_tensors
        return query_grad * grad, own_grad * grad, target_grad * grad, None, None


def _summed(
    query_MV: Tensor,
    own_logit_M: Tensor,
    target_NV: Tensor,
    own_M: Tensor,
    correction_N: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sum and its gradients with respect to `query_MV`, `own_logit_M` and `target_NV`."""
    rows = _rows_at_once(len(query_MV), most_on(query_MV.device, LOGITS_AT_ONCE) // len(target_NV))
    target = target_NV.to(dtype)
    corrected = _corrected(target, correction_N)
    total = query_MV.new_zeros(())
    query_grad, target_grad = torch.empty_like(query_MV), torch.zeros_like(target_NV)
    own_grad = torch.empty_like(own_logit_M)
    for start in range(0, len(query_MV), rows):
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
        weight = _filled(weight, rows)
        query_grad[chunk] = (weight @ target)[: len(query)].to(query.dtype) * share
        share = _filled((query * share).to(dtype), rows)
        if dtype == target_grad.dtype:
            target_grad.addmm_(weight.T, share)
        else:
            target_grad += weight.T @ share
    return total, query_grad, own_grad, target_grad


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


def category_loss(logits_NC: Tensor, label_NC: Tensor, multi_label: bool) -> Tensor:
    """How badly the items' categories are predicted; items without a label are left out.

    Args:
        logits_NC: Predicted.
        label_NC: bool.
        multi_label: Binary cross-entropy a category if True, else softmax cross-entropy.
    """
    labelled_N = label_NC.any(1)
    if logits_NC.shape[1] == 0 or not bool(labelled_N.any()):
        return logits_NC.sum() * 0
    logits, labels = logits_NC[labelled_N].float(), label_NC[labelled_N].float()
    if multi_label:
        return functional.binary_cross_entropy_with_logits(logits, labels)
    return functional.cross_entropy(logits, labels)


def swap_loss(h_BD: Tensor, swapped_BD: Tensor, item_B: Tensor, temperature: float) -> Tensor:
    """InfoNCE between the two views' user states (van den Oord et al., arXiv 1807.03748, eq. 4).

    The other sequences of the batch are the negatives, save those with the same next item.
    """
    a_BD, b_BD = functional.normalize(h_BD, dim=-1), functional.normalize(swapped_BD, dim=-1)
    logits_BB = a_BD @ b_BD.T / temperature
    same_BB = item_B[:, None] == item_B[None, :]
    own = torch.arange(len(item_B), device=item_B.device)
    same_BB[own, own] = False
    logits_BB = logits_BB.masked_fill(same_BB, float("-inf"))
    return (
        functional.cross_entropy(logits_BB, own) + functional.cross_entropy(logits_BB.T, own)
    ) / 2


def balance_loss(gate_NSE: Tensor) -> Tensor:
    """How unevenly experts are used: 0 when all alike, E - 1 when one does all the work.

    E times the sum of squared mean gates, less 1 (after Shazeer et al., arXiv 1701.06538).
    """
    mean_SE = gate_NSE.mean(0)
    return (mean_SE.square().sum(-1) * mean_SE.shape[-1] - 1).mean()
