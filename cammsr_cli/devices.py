"""Turning what the user calls a device into one that is there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cammsr_cli.errors import UsageError

if TYPE_CHECKING:
    import torch


NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER and cuSPARSE say it so
)
"""What torch says, among other words, where memory gives out."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch's tells that a device's memory, or the machine's, gave out."""
    return any(words in str(error) for words in NO_MEMORY)


FEATURES_SHARE = 0.5
"""Of a GPU's free memory, what features that training reads may take: the rest is for training."""


def room_for(device: torch.device, size: int) -> bool:
    """Whether data of `size` bytes may lie on a GPU from the start; other devices have no own."""
    import torch

    return device.type == "cuda" and size <= FEATURES_SHARE * torch.cuda.mem_get_info(device)[0]


@contextmanager
def repeatable(device: torch.device, wanted: bool) -> Iterator[None]:
    """Within it, a GPU has the same results each time, if that is wanted; a CPU has them anyway.

    Sums whose order is left to chance are made in one order, by other kernels, which are slower,
    and an operation that has no such kernel is an error. cuBLAS is given the workspaces that this
    takes; it reads of them once, so that the first product must come after this.
    """
    import torch

    if not wanted or device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def resolve_device(name: str) -> torch.device:
    """The device called auto, cpu, cuda, cuda:N or mps.

    Raises:
        UsageError: No such device on this machine, or no such name.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    form = re.fullmatch(r"(cpu|mps|cuda)|cuda:(\d+)", name, flags=re.ASCII)
    if form is None:
        raise UsageError(f"unknown device '{name}'; write auto, cpu, cuda, cuda:N or mps")
    kind, index = form[1] or "cuda", form[2]
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"--device {name}: there is no CUDA device that torch can use on this machine",
            "Use --device auto, or --device cpu",
        )
    if index is not None and int(index) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s), "
            "numbered from 0"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: this machine has no Apple GPU that torch can use")
    return torch.device(name)
