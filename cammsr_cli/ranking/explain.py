"""Explanation of recommendations: how much each modality raises an item's score for a user.

The score is a sum over the streams. A softmax over the catalogue does not change when a constant is
added for a user, so a summand alone has no meaning. What counts is how far it raises this item
above the user's mean over all items.

Axes: U users, B recommendations of each, N items, S streams, M modalities, V score width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cammsr_cli.model.cammsr import Cammsr, ItemTables


@torch.inference_mode()
def modality_weights(
    model: Cammsr, query_UV: Tensor, tables: ItemTables, average_V: Tensor, item_UB: Tensor
) -> Tensor:
    """Share of each stream in an item's score above its user's mean over all items.

    Contributions are centred over the catalogue. Negative contributions and missing streams count
    as 0. The rest is scaled to sum to 1.

    Args:
        model: The model.
        query_UV: The users' queries.
        tables: Tables of all items.
        average_V: Mean of all items' targets.
        item_UB: int64 items to explain.

    Returns:
        float [U, B, S]; equal shares for the item's streams if no contribution is positive.
    """
    offset_UBV = tables.target_NV[item_UB] - average_V
    present_UBS = tables.present_NS[item_UB].to(offset_UBV)
    lift_UBS = model.contributions(query_UV[:, None], offset_UBV)
    lift_UBS = (lift_UBS * present_UBS).clamp(min=0)
    total_UB1 = lift_UBS.sum(-1, keepdim=True)
    even_UBS = present_UBS / present_UBS.sum(-1, keepdim=True)
    return torch.where(total_UB1 > 0, lift_UBS / total_UB1.clamp(min=1e-12), even_UBS)


def put_forward(weight_UBS: Tensor, has_UBM: Tensor) -> Tensor:
    """The content modality to show each user for each item: the item's one with the most weight.

    Args:
        weight_UBS: Weights of the streams; the last M are the modalities.
        has_UBM: bool, whether each item has each modality.

    Returns:
        int64 [U, B], index of the modality; -1 if the item has none.
    """
    modalities = has_UBM.shape[-1]
    if not modalities:
        return torch.full(has_UBM.shape[:-1], -1, device=has_UBM.device)
    weight_UBM = weight_UBS[..., -modalities:].masked_fill(~has_UBM, -1.0)
    return torch.where(has_UBM.any(-1), weight_UBM.argmax(-1), -1)
