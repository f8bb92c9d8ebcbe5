"""Faster CPU variants of some operations, with the same results as on other devices.

Each function here holds the plain form, which documents the operation, and a CPU form, and chooses
by the device. Tests check that both are equal. The rest of the core does not distinguish devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

LOGITS_AT_ONCE = {"cpu": 2**21, "cuda": 2**26}
"""Largest number of logits in memory at once: what fits a CPU's cache, or keeps a GPU busy."""

COSINES_AT_ONCE = {"cpu": 2**21, "cuda": 2**26}
"""Likewise for cosines between items."""

EVEN_ROWS = 16
"""The number of rows of a matrix product is a multiple of this; of twice this above 1,024 rows, and
so on. A CPU compiles and keeps code for each shape of a bfloat16 product."""

ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention backends on a GPU. cuDNN, which torch prefers for bfloat16 on Hopper, is not among
them: it rounds dropout rates to sixteenths (torch 2.11), and makes a new plan for each shape."""


def most_on(device: torch.device, limit: Mapping[str, int]) -> int:
    """The limit for `device`; every accelerator is treated like a CUDA device."""
    return limit["cpu" if device.type == "cpu" else "cuda"]


def dropout(x: Tensor, share: float) -> Tensor:
    """Inverted dropout, as in training: drop a share of the values and scale up the others.

    On a CPU, drawing random numbers is most of the cost. So one draw of 64 bits serves eight
    values, and `share` is rounded to a multiple of 1/256.
    """
    if x.device.type != "cpu":
        return functional.dropout(x, share)
    draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    dropped = min(max(round(share * 256), 1), 255)
    kept = draws.view(torch.uint8)[: x.numel()].view(x.shape)
    # Compare into bytes: a CPU does not vectorise making booleans and converting them to numbers.
    torch.ge(kept, dropped, out=kept)
    return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, share: float) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v with dropout of a share of the weights: [..., L, d].

    On a CPU, torch's own attention with dropout takes 1.5 times as long.
    """
    if q.device.type == "cpu" and share:
        weight = (q * q.shape[-1] ** -0.5 @ k.mT + bias).softmax(-1)
        return dropout(weight, share) @ v
    with sdpa_kernel(ATTENTION) if q.device.type == "cuda" else nullcontext():
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias.to(q.dtype), dropout_p=share
        )


def segment_mask(position_BL: Tensor) -> Tensor:
    """Segment mask [B, L, L]: hides positions before the own history in a row.

    It is 0 within a history and for later positions, and -1e30 or less for positions before the
    history's start. Combine it with a causal mask. On a CPU it is computed by arithmetic, because
    boolean masks and filling take four times as long.
    """
    at_L = torch.arange(position_BL.shape[1], device=position_BL.device)
    if position_BL.device.type != "cpu":
        other_BLL = at_L < (at_L - position_BL)[:, :, None]
        return torch.zeros_like(other_BLL, dtype=torch.float32).masked_fill_(other_BLL, -1e30)
    start_BL = position_BL - at_L.float()  # minus the column at which the history begins
    return (start_BL[:, :, None] + at_L).clamp_(max=0.0).mul_(1e30)


def rows_at_once(of: int, items: int, device: torch.device) -> int:
    """Number of rows per chunk of logits, of `of` rows in total, with `items` columns.

    On a CPU all chunks have about the same size, and their number of rows is rounded up to a
    multiple (see `EVEN_ROWS`).
    """
    most = max(1, most_on(device, LOGITS_AT_ONCE) // items)
    if device.type != "cpu":
        return min(most, of)
    even = min(most, EVEN_ROWS * -(-min(most, of) // 1024))
    each = -(-of // -(-of // (most - most % even)))
    return each + -each % even


def filled(x_RV: Tensor, rows: int) -> Tensor:
    """On a CPU, pad with rows of zeros up to `rows` rows; on other devices, return unchanged."""
    padding = rows - len(x_RV)
    if x_RV.device.type != "cpu" or not padding:
        return x_RV
    return functional.pad(x_RV, (0, 0, 0, padding))
