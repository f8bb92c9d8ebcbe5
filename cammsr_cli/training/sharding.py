"""The id table of a large catalogue, sharded by rows over the processes of a training.

Weights and optimiser state are torch's DTensors, split along their rows. No device ever holds all
of them, neither in a step nor when a checkpoint is written.

Axes: N rows of the table, R of them in this process, U rows requested by this process, A by all
processes (padded, concatenated), O of those that this process holds, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.nn import functional
from torch.optim import Optimizer, SparseAdam

from cammsr_cli.distributed import World
from cammsr_cli.model.cammsr import Cammsr


def shard_id_table(model: Cammsr, world: World) -> None:
    """Replace the model's id table, if any, by a sharded table with the same weights."""
    table = model.items.id_table
    if table is not None:
        mesh = init_device_mesh(world.device.type, (world.size,))
        model.items.id_table = RowShardedTable(table.weight, mesh)


def large_table(model: Cammsr) -> nn.Embedding | None:
    """The id table if it is that of a large catalogue: sharded or with sparse gradients."""
    table = model.items.id_table
    large = table is not None and (table.sparse or isinstance(table, RowShardedTable))
    return table if large else None


class RowShardedTable(nn.Embedding):
    """An embedding whose rows are split evenly over processes, in order.

    All processes must call, load and save it together. Its gradient is the mean over the
    processes' gradients, as DDP's is for the other weights.

    DTensor's own embedding of such a table gives the same results. But its backward pass makes the
    gradient of all N rows on every device (torch 2.15). Here each process looks up its own rows,
    and DTensor sends the results to the processes that requested them.

    Args:
        weight_ND: All rows, the same in every process, on any device.
        mesh: The processes, in one dimension.
    """

    def __init__(self, weight_ND: Tensor, mesh: DeviceMesh) -> None:
        super().__init__(len(weight_ND), weight_ND.shape[1], device="meta")
        self.mesh = mesh
        self.weight = nn.Parameter(own_rows(weight_ND.detach(), mesh))
        self.first = -(-len(weight_ND) // mesh.size()) * mesh.get_local_rank()
        self.register_load_state_dict_pre_hook(_keep_own_rows)  # type: ignore[no-untyped-call]

    def forward(self, row_U: Tensor) -> Tensor:
        """Look up rows: [U, D]. The rows and their number U may differ between processes."""
        longest = torch.tensor(len(row_U), device=row_U.device)
        dist.all_reduce(longest, dist.ReduceOp.MAX, self.mesh.get_group())
        most = int(longest)
        wanted_A = row_U.new_empty(self.mesh.size() * most)
        padded = functional.pad(row_U, (0, most - len(row_U)), value=-1)  # no process holds row -1
        dist.all_gather_into_tensor(wanted_A, padded, self.mesh.get_group())

        weight_RD = local_part(self.weight)
        at_A = wanted_A - self.first
        here_O = ((at_A >= 0) & (at_A < len(weight_RD))).nonzero().squeeze(1)
        found_OD = functional.embedding(at_A[here_O], weight_RD)
        part_AD = found_OD.new_zeros(len(wanted_A), self.embedding_dim)
        part_AD = part_AD.index_copy(0, here_O, found_OD)

        sums_AD = DTensor.from_local(part_AD, self.mesh, [Partial()], run_check=False)
        row_UD = local_part(sums_AD.redistribute(placements=[Shard(0)]))[: len(row_U)]
        if row_UD.requires_grad:
            row_UD.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient_UD: gradient_UD / self.mesh.size()
            )
        return row_UD


def local_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; the whole tensor if it is not sharded. Differentiable."""
    if isinstance(tensor, DTensor):
        part: Tensor = tensor.to_local()
        return part
    return tensor


def own_rows(whole: Tensor, mesh: DeviceMesh) -> DTensor:
    """This process's rows of `whole`, copied to its device, as a shard of the sharded tensor.

    `distribute_tensor` would first copy the whole tensor to every device.
    """
    parts = whole.chunk(mesh.size())  # `Shard` splits in the same way
    at = mesh.get_local_rank()
    own = parts[at] if at < len(parts) else whole[:0]
    return DTensor.from_local(
        own.to(mesh.device_type, copy=True),
        mesh,
        [Shard(0)],
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def gathered(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor in the main memory of process 0; return an empty one in the others.

    All processes must call it. The shards are sent one after another: `full_tensor` would need
    memory for all of them on every device. A plain tensor is returned unchanged.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    mesh, own = tensor.device_mesh, local_part(tensor.detach()).contiguous()
    leads = mesh.get_local_rank() == 0
    whole = torch.empty(tensor.shape if leads else 0, dtype=own.dtype)
    rows = max(1, -(-len(tensor) // mesh.size()))
    for rank, first in enumerate(range(0, len(tensor), rows)):
        shape = (min(rows, len(tensor) - first), *tensor.shape[1:])
        part = own if rank == mesh.get_local_rank() else own.new_empty(shape)
        dist.broadcast(part, group=mesh.get_group(), group_src=rank)
        if leads:
            whole[first : first + rows] = part
    return whole


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """A model's state dict, complete in process 0; all processes must call it."""
    return {name: gathered(value) for name, value in model.state_dict().items()}


def whole_optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's state dict, complete in process 0; all processes must call it."""
    content = optimizer.state_dict()
    content["state"] = {
        at: {n: gathered(v) if isinstance(v, Tensor) else v for n, v in values.items()}
        for at, values in content["state"].items()
    }
    return content


def load_optimizer_state(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load the result of `whole_optimizer_state`, from any number of processes.

    Each process takes its own rows of a sharded table. A single process updates a large table with
    SparseAdam, several processes use AdamW. Both keep the same two moments, but store the step
    count in different types.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for at, values in saved["state"].items():
        weight = weights[at]
        state[at] = {
            name: own_rows(value, weight.device_mesh)
            if isinstance(weight, DTensor) and isinstance(value, Tensor) and value.ndim
            else value
            for name, value in values.items()
        }
        if isinstance(optimizer, SparseAdam):
            state[at]["step"] = int(values["step"])
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _keep_own_rows(table: nn.Module, weights: dict[str, Any], prefix: str, *_: object) -> None:
    """Replace the whole table in a state dict that is being loaded by this process's rows."""
    assert isinstance(table, RowShardedTable)
    name = f"{prefix}weight"
    if name in weights:
        weights[name] = own_rows(weights[name], table.mesh)
