"""Cutting windows from all users' events, and packing them into rows.

Events of all users are concatenated (CSR): user u owns positions `start[u]` to `end[u]`.

Axes: E events, W windows, B windows of one batch, or rows that hold several, L positions.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TIME_BUCKETS = 40
"""Number of log2 buckets of the gap between events in seconds; bucket 39 starts at 8,700 years."""

ROW_AT_LEAST = 32
"""Least row length for packing, if allowed: short rows pack short segments badly."""


@dataclass(frozen=True)
class Events:
    """All users' events in time order.

    Attributes:
        item_E: int32 or int64 item index.
        time_E: int64 seconds.
        tied_E: bool, whether the order of an event and the user's previous one is unknown; None if
            exactly events of the same second are tied.
        weight_E: float32, weight of each event as a target; None if all weights are equal.
    """

    item_E: Tensor
    time_E: Tensor
    tied_E: Tensor | None = None
    weight_E: Tensor | None = None

    def to(self, device: torch.device) -> Events:
        """The same events on `device`."""
        there = {name: x for name, x in vars(self).items() if x is not None}
        return replace(self, **{name: x.to(device) for name, x in there.items()})


@dataclass(frozen=True)
class Rows:
    """The model's input: B rows of history, padded on the right.

    Attributes:
        item_BL: int64 item index; 0 in the padding.
        gap_BL: int64 bucket of the time since the previous event; 0 for the first and for ties.
        position_BL: int64 index of each position in its own segment, 0 in the padding, if a row
            holds several segments one after another; None if each row holds one.
    """

    item_BL: Tensor
    gap_BL: Tensor
    position_BL: Tensor | None


@dataclass(frozen=True)
class Window(Rows):
    """B segments of history.

    Attributes:
        valid_BL: bool, False in the padding.
        length_B: int64 number of real positions.
        weight_BL: float32, weight of each event as a target; None if all weights are equal.
    """

    valid_BL: Tensor
    length_B: Tensor
    weight_BL: Tensor | None = None


@dataclass(frozen=True)
class Packed:
    """Segments of history, several per row, each with the event after it.

    Attributes:
        window: The rows.
        target_BL: int64 item that follows each position; 0 in the padding.
        place_M: int64 indices of the valid positions among all B L, in ascending order.
        row_W: int64 row of each segment, in the input's order.
        last_W: int64 column of each segment's last position in its row.
        weight_M: float32, weight of each valid position's target; None if all are equal.
    """

    window: Window
    target_BL: Tensor
    place_M: Tensor
    row_W: Tensor
    last_W: Tensor
    weight_M: Tensor | None


def cut(events: Events, start_B: Tensor, end_B: Tensor) -> Window:
    """Cut the events `[start, end)` of each row, padded on the right to the longest row.

    Args:
        events: All events.
        start_B: int64 first event of each row. If it and `end_B` are on the host, the host does
            not wait for the events' device.
        end_B: int64 one past the last event.
    """
    device = events.item_E.device
    length_B = end_B - start_B
    longest = max(1, int(length_B.max())) if len(length_B) else 1
    start_B, length_B = (at_B.to(device, non_blocking=True) for at_B in (start_B, length_B))
    offset_L = torch.arange(longest, device=device)
    valid_BL = offset_L < length_B[:, None]
    at_BL = torch.where(valid_BL, start_B[:, None] + offset_L, 0)
    before_BL = torch.where(valid_BL & (offset_L > 0), at_BL - 1, at_BL)
    gap_BL = (events.time_E[at_BL] - events.time_E[before_BL]).clamp(min=0)
    if events.tied_E is not None:  # events of the same second with known order have a gap of 1
        ordered_BL = valid_BL & (offset_L > 0) & ~events.tied_E[at_BL]
        gap_BL = torch.where(ordered_BL, gap_BL.clamp(min=1), 0)
    # The bucket of an integer is its number of bits, that is, a rounded base-2 logarithm.
    bucket_BL = torch.frexp(gap_BL.double())[1].long().clamp(max=TIME_BUCKETS - 1)
    item_BL = torch.where(valid_BL, events.item_E[at_BL].long(), 0)
    weight_BL = None if events.weight_E is None else events.weight_E[at_BL]
    return Window(item_BL, bucket_BL, None, valid_BL, length_B, weight_BL)


def shuffle_ties(window: Window, generator: torch.Generator | None = None) -> Window:
    """Shuffle the items of tied events, that is, within each run of events of equal time.

    The order of tied events carries no information. If it is shuffled at each step, the model
    cannot learn it.

    Args:
        window: The windows, on the host.
        generator: Random generator; torch's default generator if None.
    """
    tie_BL = (window.gap_BL > 0).cumsum(1).double()
    chance_BL = torch.rand(tie_BL.shape, dtype=torch.float64, generator=generator)
    key_BL = (tie_BL + chance_BL).masked_fill(~window.valid_BL, float("inf"))
    order_BL = key_BL.argsort(1)
    weight_BL = None if window.weight_BL is None else window.weight_BL.gather(1, order_BL)
    return replace(window, item_BL=window.item_BL.gather(1, order_BL), weight_BL=weight_BL)


def pack(window: Window, most: int, even: int = 1, even_length: int = 1) -> Packed:
    """Pack segments of history into rows, so that a batch has little padding; on the host.

    Args:
        window: Segments of two or more events; the last event of each is only a target.
        most: Longest row. No segment has more than `most` events in addition to its last.
        even: The number of rows is a multiple of this.
        even_length: The length of rows is a multiple of this, unless it is `most`.
    """
    length_W = window.length_B - 1
    lengths: list[int] = length_W.tolist()
    longest = max(ROW_AT_LEAST, *lengths)
    width = min(most, longest + -longest % even_length)
    rows, columns = _placed(lengths, width)
    row_W, column_W = torch.tensor(rows), torch.tensor(columns)
    high = max(rows) + 1
    # For each real position: its segment, its index in the segment, and its index in the rows.
    stretch_M = torch.repeat_interleave(length_W)
    position_M = torch.arange(len(stretch_M)) - (length_W.cumsum(0) - length_W)[stretch_M]
    to_M = (row_W * width + column_W)[stretch_M] + position_M

    def laid(value_M: Tensor) -> Tensor:
        empty = value_M.new_zeros((high + -high % even) * width)
        return empty.index_copy(0, to_M, value_M).view(-1, width)

    valid_BL = laid(torch.ones_like(position_M, dtype=torch.bool))
    rows_of = Window(
        item_BL=laid(window.item_BL[stretch_M, position_M]),
        gap_BL=laid(window.gap_BL[stretch_M, position_M]),
        valid_BL=valid_BL,
        length_B=valid_BL.sum(1),
        position_BL=laid(position_M),
    )
    target_BL = laid(window.item_BL[stretch_M, position_M + 1])
    place_M, order_M = to_M.sort()
    weight_M = None
    if window.weight_BL is not None:
        weight_M = window.weight_BL[stretch_M, position_M + 1][order_M]
    return Packed(rows_of, target_BL, place_M, row_W, column_W + length_W - 1, weight_M)


def _placed(lengths: list[int], width: int) -> tuple[list[int], list[int]]:
    """Row and column of each segment: a row takes the longest segment that fits, until none fits.

    >>> _placed([2, 5, 3, 1], 6)
    ([1, 0, 1, 0], [3, 0, 0, 5])
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    left = [lengths[at] for at in order]
    rows, columns = [0] * len(lengths), [0] * len(lengths)
    row, free = 0, width
    while left:
        fitting = bisect_right(left, free)
        if not fitting:
            row, free = row + 1, width
            continue
        stretch = order.pop(fitting - 1)
        rows[stretch], columns[stretch] = row, width - free
        free -= left.pop(fitting - 1)
    return rows, columns


def training_windows(
    start_U: Tensor, end_U: Tensor, length: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split every history into windows of at most `length` inputs, each input with a next event.

    Every event except a user's first is a target exactly once. The cuts of a long history are
    drawn at random in each call, so that no event always lacks its context.

    Args:
        start_U: int64 first event of each user.
        end_U: int64 one past the last event.
        length: Largest number of inputs per window.
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
    # With a shift s, the first window has length s, as if it started (length - s) events earlier.
    lead_U = torch.where(shift_U > 0, length - shift_U, 0)
    begin_W = nth_W * length - lead_U[user_W]
    end_W = torch.minimum(begin_W + length, targets_U[user_W])
    origin_W = start_U[user_W]
    return origin_W + begin_W.clamp(min=0), origin_W + end_W


def shuffled_batches(number: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Split the indices of `number` windows into random batches, int64 on the CPU."""
    return list(torch.split(torch.randperm(number, generator=generator), batch_size))
