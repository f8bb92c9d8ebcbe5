"""Many processes that train one model together, as `torchrun` starts them."""

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
    """Which of how many processes this is.

    Attributes:
        rank: From 0; process 0 alone writes files and talks.
        size: How many there are.
        device: Where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of every process's `values`, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.size > 1:
            dist.barrier()


TIME_TO_LET_GO = 0.1
"""Seconds in which a thread of gloo puts down the tensors of an exchange that is over."""


@contextmanager
def joined(device: torch.device, patience: timedelta | None = None) -> Iterator[World]:
    """The world this process was started in: that of `torchrun`, or itself alone.

    Each process on a machine with GPUs takes the one of its local rank.

    Args:
        device: Where to compute.
        patience: How long one may wait for the others; torch's own limit, minutes, if None.

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
        # Or NCCL guesses a process's GPU by its rank, which on a second machine is another one's.
        device_id=device if on_gpu else None,
    )
    try:
        yield World(dist.get_rank(), size, device)
        # Gloo's threads outlive the group (torch 2.15), and one that puts down its last tensor
        # while the interpreter ends aborts the process: pytorch/pytorch issue 190489.
        dist.barrier()
        time.sleep(TIME_TO_LET_GO)
    finally:
        dist.destroy_process_group()
