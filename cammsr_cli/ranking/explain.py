"""Why an item was recommended: how much each modality lifts it for this user.

The score is a sum over K representations (streams and pairs of streams). A softmax over the
catalogue does not change when a constant is added for a user, so a summand by itself says
nothing; what counts is how far it lifts this item above the user's average item.

Axes: B recommendations of one user, N items, K representations, S streams, V score width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cammsr_cli.core.model import ID, Cammsr, ItemTables


@torch.inference_mode()
def modality_weights(
    model: Cammsr, query_V: Tensor, tables: ItemTables, items_B: Tensor
) -> dict[str, Tensor]:
    """Share of each stream in what lifts each item above this user's average item.

    Contributions are centred over the catalogue, a pair's goes in halves to its two streams, what
    pulls the item down or is missing from it counts as 0, and the rest is scaled to sum to 1.

    Returns:
        Stream name to float [B]; the item's streams alike where nothing lifts it.
    """
    lift_BK = _centred(model, query_V, tables.target_NV, items_B)
    lift_BK = lift_BK * tables.fused.present_NK[items_B]
    lift_BS = (lift_BK @ stream_shares(model).to(lift_BK)).clamp(min=0)
    total_B1 = lift_BS.sum(1, keepdim=True)
    present_BS = tables.present_NS[items_B].to(lift_BS)
    even = present_BS / present_BS.sum(1, keepdim=True)
    weight_BS = torch.where(total_B1 > 0, lift_BS / total_B1.clamp(min=1e-12), even)
    return {name: weight_BS[:, s] for s, name in enumerate(model.streams)}


def _centred(model: Cammsr, query_V: Tensor, target_NV: Tensor, items_B: Tensor) -> Tensor:
    average_V = target_NV.mean(0)
    offset_BV = target_NV[items_B] - average_V
    return model.contributions(query_V.expand_as(offset_BV), offset_BV)


def stream_shares(model: Cammsr) -> Tensor:
    """[K, S]: 1 from each stream's representation to the stream, halves from a pair to both."""
    streams = len(model.streams)
    rows = [torch.eye(streams)[s] for s in range(streams)]
    pairs = model.camoe.pairs if model.camoe is not None else []
    rows += [(torch.eye(streams)[m] + torch.eye(streams)[n]) / 2 for m, n in pairs]
    return torch.stack(rows)


def put_forward(weights: dict[str, float], present: dict[str, bool]) -> str | None:
    """The content modality to show this user for this item: the heaviest one the item has."""
    shown = {name: w for name, w in weights.items() if name != ID and present.get(name)}
    return max(shown, key=lambda name: shown[name]) if shown else None
