"""The exported user encoder: a file that turns histories into user vectors with torch only.

Axes: B users, L events (always the maximum history length), N items, X and T as in `model.cammsr`,
W width of a vector.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from cammsr_cli.model.cammsr import Cammsr, ItemTables
from cammsr_cli.model.history_windows import TIME_BUCKETS, Window


class UserEncoderProgram(nn.Module):
    """Maps histories to the same query vectors as `Recommender.queries`.

    Args:
        model: The model, in evaluation mode, on the CPU.
        tables: The tables of its items.
        item_N: int64, the exported items; histories contain indices into this array.
        width: W; the model's width plus 1 if vectors end with a constant 1.
    """

    def __init__(self, model: Cammsr, tables: ItemTables, item_N: Tensor, width: int) -> None:
        super().__init__()
        self.model = _without_items(model)
        self.constant = width > tables.target_NV.shape[1]
        self.input_NX: Tensor
        self.guide_NT: Tensor
        self.register_buffer("input_NX", tables.input_NX[item_N].clone())
        self.register_buffer("guide_NT", tables.guide_NT[item_N].clone())

    def forward(self, item_BL: Tensor, time_BL: Tensor, length_B: Tensor) -> Tensor:
        """Compute user vectors, float32 [B, W].

        Args:
            item_BL: int64 index of each event's item, oldest first; padding may be any index.
            time_BL: int64 seconds, non-decreasing; equal timestamps are ties.
            length_B: int64 number of events, at least 1.
        """
        valid_BL = torch.arange(item_BL.shape[1], device=item_BL.device) < length_B[:, None]
        gap_BL = torch.diff(time_BL, dim=1, prepend=time_BL[:, :1]).clamp(min=0)
        bucket_BL = torch.log2(gap_BL.double() + 1).ceil().long().clamp(max=TIME_BUCKETS - 1)
        item_BL = torch.where(valid_BL, item_BL, 0)
        window = Window(item_BL, bucket_BL * valid_BL, None, valid_BL, length_B)
        none_N0 = self.input_NX[:, :0]
        tables = ItemTables(
            self.input_NX, none_N0, self.guide_NT, none_N0[None], none_N0.bool(), none_N0.bool()
        )
        query_BV = self.model.last_queries(tables, window)
        if not self.constant:
            return query_BV
        return torch.cat([query_BV, torch.ones_like(query_BV[:, :1])], dim=1)


def write_encoder(program: UserEncoderProgram, path: Path) -> None:
    """Write it as a `torch.export` program with a dynamic number of users."""
    length = program.model.length
    users = torch.export.Dim("users", min=1)
    # Separate tensors: the same tensor twice would be traced as one input.
    item_BL, time_BL = torch.zeros(2, 2, length, dtype=torch.int64).unbind()
    length_B = torch.full((2,), length)
    with torch.no_grad():
        exported = torch.export.export(
            program.eval(), (item_BL, time_BL.clone(), length_B), dynamic_shapes=({0: users},) * 3
        )
    torch.export.save(exported, path)


def _without_items(model: Cammsr) -> Cammsr:
    """Return the model without the parts that compute the items' tables."""
    reader, items = copy.copy(model), copy.copy(model.items)
    items._modules, items._parameters, items._buffers = {}, {}, {}
    left_out = ("items", "guide", "repeats")
    reader._modules = {
        name: part for name, part in model._modules.items() if name not in left_out
    } | {"items": items}
    reader._parameters = {
        name: value for name, value in model._parameters.items() if name != "item_weight_CS"
    }
    return reader
