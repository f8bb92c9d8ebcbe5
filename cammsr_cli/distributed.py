"""Distributed processes that train one model together, as started by `torchrun`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

from cammsr_cli.errors import UsageError


@dataclass(frozen=True)
class World:
    """The position of this process among all processes.

    Attributes:
        rank: Rank from 0; only process 0 writes files and prints messages.
        size: Number of processes.
        device: The device of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum the `values` of all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait until all processes have called this method (a barrier)."""
        if self.size > 1:
            dist.barrier()


TIME_TO_LET_GO = 0.1
"""Seconds in which a gloo thread releases the tensors of a finished collective operation."""


@contextmanager
def joined(device: torch.device, patience: timedelta | None = None) -> Iterator[World]:
    """Join the process group of `torchrun`, or a world of one process without `torchrun`.

    On a machine with GPUs, each process uses the GPU of its local rank.

    Args:
        device: The device for the computation.
        patience: Timeout for waiting for other processes; torch's default (minutes) if None.

    Raises:
        UsageError: There are more processes on this machine than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun started process {local} on a machine with "
                f"{torch.cuda.device_count()} CUDA device(s)",
                "Start one process a GPU: torchrun --nproc-per-node gpu -m cammsr_cli train ...",
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    on_gpu = device.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        timeout=patience,
        # Otherwise NCCL derives the GPU from the global rank, which is wrong on a second machine.
        device_id=device if on_gpu else None,
    )
    try:
        yield World(dist.get_rank(), size, device)
        # Gloo's threads outlive the group (torch 2.15). A thread that releases its last tensor
        # while the interpreter exits aborts the process: pytorch/pytorch issue 190489.
        dist.barrier()
        time.sleep(TIME_TO_LET_GO)
    finally:
        dist.destroy_process_group()
