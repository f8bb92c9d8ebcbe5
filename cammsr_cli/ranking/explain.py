"""Why an item was recommended: how much each modality lifts it for this user.

The score is a sum over the streams. A softmax over the catalogue does not change when a constant is
added for a user, so a summand by itself says nothing; what counts is how far it lifts this item
above the user's average item.

Axes: U users, B recommendations of each, N items, S streams, M modalities, X score width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cammsr_cli.core.model import Cammsr, ItemTables


@dataclass(frozen=True)
class Average:
    """The average item of a catalogue.

    Attributes:
        target_X: Mean of the items' targets.
        id_target_X: Mean of what comes from ids; None where each stream is its own.
    """

    target_X: Tensor
    id_target_X: Tensor | None

    @staticmethod
    def of(tables: ItemTables) -> Average:
        """That of the items of `tables`."""
        ids = tables.id_target_NX
        return Average(tables.target_NX.mean(0), None if ids is None else ids.mean(0))


@torch.inference_mode()
def modality_weights(
    model: Cammsr, query_UX: Tensor, tables: ItemTables, average: Average, item_UB: Tensor
) -> Tensor:
    """Share of each stream in what lifts each item above its user's average item.

    Contributions are centred over the catalogue, what pulls the item down or is missing from it
    counts as 0, and the rest is scaled to sum to 1.

    Args:
        model: The model.
        query_UX: The users' states.
        tables: Tables of all items.
        average: Of those items.
        item_UB: int64 items to explain.

    Returns:
        float [U, B, S]; the item's streams alike where nothing lifts it.
    """
    offset_UBX = tables.target_NX[item_UB] - average.target_X
    id_offset_UBX = None
    if tables.id_target_NX is not None and average.id_target_X is not None:
        id_offset_UBX = tables.id_target_NX[item_UB] - average.id_target_X
    present_UBS = tables.present_NS[item_UB].to(offset_UBX)
    lift_UBS = model.contributions(query_UX[:, None], offset_UBX, id_offset_UBX)
    lift_UBS = (lift_UBS * present_UBS).clamp(min=0)
    total_UB1 = lift_UBS.sum(-1, keepdim=True)
    even_UBS = present_UBS / present_UBS.sum(-1, keepdim=True)
    return torch.where(total_UB1 > 0, lift_UBS / total_UB1.clamp(min=1e-12), even_UBS)


def put_forward(weight_UBS: Tensor, has_UBM: Tensor) -> Tensor:
    """The content modality to show each user for each item: the heaviest one the item has.

    Args:
        weight_UBS: Weights of the streams; the last M are the modalities.
        has_UBM: bool, which modalities each item has.

    Returns:
        int64 [U, B], the index of the modality; -1 where the item has none.
    """
    modalities = has_UBM.shape[-1]
    if not modalities:
        return torch.full(has_UBM.shape[:-1], -1, device=has_UBM.device)
    weight_UBM = weight_UBS[..., -modalities:].masked_fill(~has_UBM, -1.0)
    return torch.where(has_UBM.any(-1), weight_UBM.argmax(-1), -1)
