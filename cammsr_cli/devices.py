"""Resolves the user's device name to an available device, and queries devices."""

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
    "STATUS_ALLOC_FAILED",  # of cuBLAS, cuDNN, cuSOLVER and cuSPARSE
)
"""Parts of torch's messages for out-of-memory errors."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a torch error means that the device or the machine is out of memory."""
    return any(words in str(error) for words in NO_MEMORY)


FEATURES_SHARE = 0.5
"""Maximum share of a GPU's free memory for the features; the rest is for training."""


def room_for(device: torch.device, size: int) -> bool:
    """Return whether data of `size` bytes may be kept in GPU memory; False on other devices."""
    import torch

    return device.type == "cuda" and size <= FEATURES_SHARE * torch.cuda.mem_get_info(device)[0]


@contextmanager
def repeatable(device: torch.device, wanted: bool) -> Iterator[None]:
    """Make GPU results deterministic within this context, if wanted; CPU results always are.

    Sums with a nondeterministic order use deterministic kernels, which are slower. An operation
    without such a kernel raises an error. The variable CUBLAS_WORKSPACE_CONFIG is set to the
    workspaces that cuBLAS needs for this. cuBLAS reads it only once, so the first matrix product
    must come after this call.
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
    """Return the device for the name auto, cpu, cuda, cuda:N or mps.

    Raises:
        UsageError: The machine does not have this device, or the name is unknown.
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
