"""Turning what the user calls a device into one that is there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cammsr_cli.errors import UsageError

if TYPE_CHECKING:
    import torch


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
