"""What is sent to a device and fetched from it: of a GPU, without the host waiting for it between.

So one batch can be under way while the next is made ready, and its vectors are fetched after that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Fetch = Callable[[], NDArray[np.float32]]
"""Waits for vectors, and gives them."""

Start = Callable[[list[Any]], Fetch]
"""Begins to encode samples."""


def is_gpu(device: str) -> bool:
    """Whether a device is one that computes while the host goes on: CUDA's."""
    return device.startswith("cuda")


def sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on a device; a GPU fetches it by itself."""
    import torch

    if device.type != "cuda":
        return x.to(device)
    pinned = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    return pinned.copy_(x).to(device, non_blocking=True)


def fetched(x: torch.Tensor) -> Fetch:
    """What gives a tensor's values as float32; a GPU is already at bringing them."""
    import torch

    if x.device.type != "cuda":
        values = np.asarray(x.float().cpu().numpy(), dtype=np.float32)
        return lambda: values
    brought = torch.empty(x.shape, dtype=torch.float32, pin_memory=True)
    brought.copy_(x.float(), non_blocking=True)
    done = torch.cuda.current_stream(x.device).record_event()

    def fetch() -> NDArray[np.float32]:
        done.synchronize()
        return np.asarray(brought.numpy(), dtype=np.float32)

    return fetch
