"""Cutting fixed-length windows out of all users' events, on the device, without a Python loop.

Events of all users lie end to end (CSR): user u owns positions `start[u]` to `end[u]`.

Axes: E events, W windows, B windows of one batch, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

TIME_BUCKETS = 40
"""Log2 buckets of the gap between events: in seconds, bucket 39 begins at 8,700 years."""


@dataclass(frozen=True)
class Events:
    """All users' events in time order.

    Attributes:
        item_E: int32 or int64 item index.
        time_E: int64 seconds.
    """

    item_E: Tensor
    time_E: Tensor


@dataclass(frozen=True)
class Window:
    """B stretches of history, filled from the left.

    Attributes:
        item_BL: int64 item index; 0 in the padding.
        gap_BL: int64 bucket of the time since the event before; 0 for the first.
        valid_BL: bool, False in the padding.
        length_B: int64 number of real positions.
    """

    item_BL: Tensor
    gap_BL: Tensor
    valid_BL: Tensor
    length_B: Tensor


def cut(events: Events, start_B: Tensor, end_B: Tensor, even: int = 1) -> Window:
    """The events `[start, end)` of each row, padded on the right to the longest row.

    Args:
        events: All events.
        start_B: int64 first event of each row.
        end_B: int64 one past the last event.
        even: L is a multiple of it.
    """
    length_B = end_B - start_B
    longest = max(1, int(length_B.max())) if len(length_B) else 1
    offset_L = torch.arange(longest + -longest % even, device=start_B.device)
    valid_BL = offset_L < length_B[:, None]
    at_BL = torch.where(valid_BL, start_B[:, None] + offset_L, 0)
    before_BL = torch.where(valid_BL & (offset_L > 0), at_BL - 1, at_BL)
    gap_BL = (events.time_E[at_BL] - events.time_E[before_BL]).clamp(min=0)
    bucket_BL = torch.log2(gap_BL.double() + 1).ceil().long().clamp(max=TIME_BUCKETS - 1)
    item_BL = torch.where(valid_BL, events.item_E[at_BL].long(), 0)
    return Window(item_BL, bucket_BL, valid_BL, length_B)


def deal_ties(window: Window) -> Window:
    """The windows with the items of each run of events at one time dealt anew.

    The order of events at one time says nothing; dealt anew at each step, it cannot be learnt.
    """
    tie_BL = (window.gap_BL > 0).cumsum(1).double()
    chance_BL = torch.rand(tie_BL.shape, device=tie_BL.device, dtype=torch.float64)
    key_BL = (tie_BL + chance_BL).masked_fill(~window.valid_BL, float("inf"))
    return replace(window, item_BL=window.item_BL.gather(1, key_BL.argsort(1)))


def training_windows(
    start_U: Tensor, end_U: Tensor, length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split every history into windows of at most `length` inputs, each input with a next event.

    Every event but a user's first is a target exactly once. Where a long history is cut is drawn
    anew at each call, so that no event is for ever without its context.

    Args:
        start_U: int64 first event of each user.
        end_U: int64 one past the last event.
        length: Most inputs a window.
        generator: A CPU generator.

    Returns:
        start_W and end_W of the inputs; the target of input i is event i + 1.
    """
    targets_U = (end_U - start_U - 1).clamp(min=0)
    shift_U = torch.randint(0, length, targets_U.shape, generator=generator).to(start_U.device)
    shift_U = torch.where(targets_U > length, shift_U, 0)
    count_U = torch.div(targets_U - shift_U + length - 1, length, rounding_mode="floor")
    count_U = count_U + (shift_U > 0)
    user_W = torch.repeat_interleave(count_U)
    nth_W = torch.arange(len(user_W), device=start_U.device) - (count_U.cumsum(0) - count_U)[user_W]
    # A shift of s makes the first window s long: as if it had begun (length - s) too early.
    lead_U = torch.where(shift_U > 0, length - shift_U, 0)
    begin_W = nth_W * length - lead_U[user_W]
    end_W = torch.minimum(begin_W + length, targets_U[user_W])
    origin_W = start_U[user_W]
    return origin_W + begin_W.clamp(min=0), origin_W + end_W


def shuffled_batches(
    length_W: Tensor, batch_size: int, generator: torch.Generator, pool: int = 16
) -> list[Tensor]:
    """Random batches of windows of like length, so that little of a batch is padding.

    Windows are shuffled, sorted by length within pools of `pool` batches, cut into batches, and
    the batches are shuffled.
    """
    device = length_W.device
    order_W = torch.randperm(len(length_W), generator=generator).to(device)
    pools = [
        part[torch.argsort(length_W[part], stable=True)]
        for part in torch.split(order_W, batch_size * pool)
    ]
    batches = [batch for part in pools for batch in torch.split(part, batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
