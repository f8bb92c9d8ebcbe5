"""What a CPU is given in another form than other devices: the same values, in less time.

Each form here stands beside the plain one, which says what it is, under one name that chooses by
the device; tests hold them equal. The rest of the core is written as if there were one device.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

LOGITS_AT_ONCE = {"cpu": 2**21, "cuda": 2**26}
"""Most logits that exist at one time: what a CPU's cache holds, or what keeps a GPU busy."""

COSINES_AT_ONCE = {"cpu": 2**21, "cuda": 2**26}
"""Cosines between items that exist at one time, likewise."""

EVEN_ROWS = 16
"""Rows of a matrix product are a multiple of it, or where they are more than a thousand, of as many
times it: a CPU makes code for each shape of a bfloat16 product, and keeps it."""

ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""What may compute a GPU's attention. Not cuDNN, which torch prefers for bfloat16 on Hopper: it
rounds rates of dropout to sixteenths (torch 2.11), and plans anew for each shape."""


def most_on(device: torch.device, limit: Mapping[str, int]) -> int:
    """The limit that holds on `device`; every accelerator is taken for a CUDA device."""
    return limit["cpu" if device.type == "cpu" else "cuda"]


def dropout(x: Tensor, share: float) -> Tensor:
    """`x` with a share of its values dropped and the others scaled up, in training.

    Drawing numbers is most of its cost on a CPU, where one draw of 64 bits serves eight values, so
    that `share` is rounded to a 256th.
    """
    if x.device.type != "cpu":
        return functional.dropout(x, share)
    draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    dropped = min(max(round(share * 256), 1), 255)
    kept = draws.view(torch.uint8)[: x.numel()].view(x.shape)
    # Bytes into bytes: a CPU makes booleans, and numbers of those, one at a time.
    torch.ge(kept, dropped, out=kept)
    return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, share: float) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, a share of whose weights is dropped: [..., L, d].

    Torch's own attention with dropout takes half as long again on a CPU.
    """
    if q.device.type == "cpu" and share:
        weight = (q * q.shape[-1] ** -0.5 @ k.mT + bias).softmax(-1)
        return dropout(weight, share) @ v
    with sdpa_kernel(ATTENTION) if q.device.type == "cuda" else nullcontext():
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias.to(q.dtype), dropout_p=share
        )


def segment_mask(position_BL: Tensor) -> Tensor:
    """What keeps histories in one row apart, [B, L, L]: 0 within one, else far below; and ahead.

    By arithmetic on a CPU, which takes four times as long for booleans and filling by them.
    """
    at_L = torch.arange(position_BL.shape[1], device=position_BL.device)
    if position_BL.device.type != "cpu":
        other_BLL = at_L < (at_L - position_BL)[:, :, None]
        return torch.zeros_like(other_BLL, dtype=torch.float32).masked_fill_(other_BLL, -1e30)
    start_BL = position_BL - at_L.float()  # how far back a history begins, from the row's begin
    return (start_BL[:, :, None] + at_L).clamp_(max=0.0).mul_(1e30)


def rows_at_once(of: int, items: int, device: torch.device) -> int:
    """Rows of a chunk of logits, of so many in all, each of so many items.

    On a CPU so many that all chunks are about as large, and of an even number.
    """
    most = max(1, most_on(device, LOGITS_AT_ONCE) // items)
    if device.type != "cpu":
        return min(most, of)
    even = min(most, EVEN_ROWS * -(-min(most, of) // 1024))
    each = -(-of // -(-of // (most - most % even)))
    return each + -each % even


def filled(x_RV: Tensor, rows: int) -> Tensor:
    """The rows, and on a CPU rows of zeros after them up to so many."""
    padding = rows - len(x_RV)
    if x_RV.device.type != "cpu" or not padding:
        return x_RV
    return functional.pad(x_RV, (0, 0, 0, padding))
