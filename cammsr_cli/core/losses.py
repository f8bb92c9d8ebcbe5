"""The three losses: next item over the whole catalogue, categories, modality swap.

Axes: M positions that have a target, N items, V score width, B sequences, D width, C categories.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**25
"""Most logits that exist at one time (128 MiB in float32)."""


def catalogue_cross_entropy(query_MV: Tensor, target_NV: Tensor, item_M: Tensor) -> Tensor:
    """Mean softmax cross-entropy of the next item over all N items.

    Positions are taken in chunks whose logits are recomputed in the backward pass, so memory
    holds `LOGITS_AT_ONCE` of them and not M x N.
    """
    rows = max(1, LOGITS_AT_ONCE // len(target_NV))
    if len(query_MV) <= rows:
        return functional.cross_entropy(query_MV @ target_NV.T, item_M)
    parts = [
        checkpoint(_summed_cross_entropy, query, target_NV, item, use_reentrant=False)
        for query, item in zip(torch.split(query_MV, rows), torch.split(item_M, rows), strict=True)
    ]
    return torch.stack(parts).sum() / len(query_MV)


def _summed_cross_entropy(query: Tensor, target_NV: Tensor, item: Tensor) -> Tensor:
    return functional.cross_entropy(query @ target_NV.T, item, reduction="sum")


def category_loss(logits_NC: Tensor, label_NC: Tensor, multi_label: bool) -> Tensor:
    """How badly the items' categories are predicted; items without a label are left out.

    Args:
        logits_NC: Predicted.
        label_NC: float 0 or 1.
        multi_label: Binary cross-entropy a category if True, else softmax cross-entropy.
    """
    labelled_N = label_NC.any(1)
    if logits_NC.shape[1] == 0 or not bool(labelled_N.any()):
        return logits_NC.new_zeros(())
    logits, labels = logits_NC[labelled_N], label_NC[labelled_N]
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
