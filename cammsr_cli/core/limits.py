"""How much is computed at one time: what a CPU's cache holds, or what keeps a GPU busy."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def most_on(device: torch.device, limit: Mapping[str, int]) -> int:
    """The limit that holds on `device`; every accelerator is taken for a CUDA device."""
    return limit["cpu" if device.type == "cpu" else "cuda"]
