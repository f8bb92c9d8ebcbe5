"""Planning of steps on the host: the windows, their packing into rows, and the candidate items.

A plan depends on the seed and the step's number only. So a resumed run, another device and each of
several processes see the same steps. A plan consists of tensors of few shapes, with weights
instead of masks. It is sent to the device as one copy. A step's control flow does not depend on
the tensors' values, so the host does not wait for the device.

Axes: W windows of a step, B rows that hold them, L positions of a row, M positions with a target
(and some of no weight), U items that a step needs, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cammsr_cli.config import TrainingConfig
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TRAIN
from cammsr_cli.model.catalogue_tensors import Catalogue, Met, Needed, are_new
from cammsr_cli.model.history_windows import Events, Packed, Rows, Window, cut, pack, shuffle_ties
from cammsr_cli.model.losses import NOWHERE
from cammsr_cli.model.negatives import Candidates, draw_candidates, places
from cammsr_cli.model.repeat_bias import LastSeen, last_seen

EVEN_ROWS, EVEN_LENGTH = 4, 8
"""The number of rows of a step is a multiple of the first; their length is a multiple of the second
unless it is the longest. So few tensor shapes occur. A CPU compiles code for each shape of a
bfloat16 product, which takes longer than the product; a GPU keeps memory for each shape."""

EVEN_POSITIONS, EVEN_ITEMS, EVEN_CANDIDATES = 64, 256, 128
"""Likewise for the positions with a target, the items of a step, and its candidate items."""


@dataclass(frozen=True)
class Corpus:
    """The training data; the same for all steps.

    Attributes:
        catalogue: All items, on the device. Their features may be on the host if `large`.
        events: All events, on the host.
        ties: Whether some events of one user share their timestamp and are to be shuffled.
        share_N: float, each item's share of all training targets, on the host.
        sampled: Whether each step uses sampled softmax, and computes no items outside its sample.
        large: Whether each step reads the features it needs from their device, unstandardised.
    """

    catalogue: Catalogue
    events: Events
    ties: bool
    share_N: Tensor
    sampled: bool
    large: bool


@dataclass(frozen=True)
class Plan(Rows):
    """Input of one micro-batch of a step: rows that hold several histories each.

    Items are given by their index among the items that the micro-batch needs.

    Attributes:
        share: The micro-batch's share of the weight of the step's targets; 1 if the step has only
            one micro-batch.
        place_M: int64 index among all B L positions of those with a target, and of padding
            positions that round their number up to a multiple.
        target_M: int64 item that follows each position.
        own_M: int64 index of each target among the candidates. If the target is not a candidate,
            the index of a padding candidate, which has no part in the softmax.
        weight_M: float, each position's weight in the mean; 0 for padding positions.
        number_X: int64, for each of the B L positions, its index among the M. A position without a
            target has the index of the last of them, whose weight is 0.
        last_W: int64 index among all B L positions of each history's last event.
        seen: What each position has in its history; None if that does not change scores.
        item_U: The items it needs, and what the host has computed about them; None for the whole
            catalogue, in order.
        counted_U: float, 0 for padding items; None if there are none.
        candidate_C: int64 candidate items; None for all items that it needs.
        correction_C: Correction added to the candidates' logits; None for no correction.
    """

    share: float
    place_M: Tensor
    target_M: Tensor
    own_M: Tensor
    weight_M: Tensor
    number_X: Tensor
    last_W: Tensor
    seen: LastSeen | None
    item_U: Needed | None
    counted_U: Tensor | None
    candidate_C: Tensor | None
    correction_C: Tensor | None

    @property
    def names_rows(self) -> bool:
        """Whether it holds the deduplicated rows of the id table that it needs."""
        return self.item_U is not None and self.item_U.met is not None

    def to(self, device: torch.device) -> Plan:
        """The same plan on a device."""
        return self if device.type == "cpu" else self.packed(device.type == "cuda").to(device)

    def packed(self, pinned: bool = True) -> PackedPlan:
        """The same plan as one buffer; in page-locked memory if `pinned`."""
        tensors: list[Tensor] = []
        _each(tensors.append, vars(self))
        # Large dtypes first: a view of the buffer must begin at a multiple of its element size.
        order = sorted(range(len(tensors)), key=lambda at: -tensors[at].element_size())
        flat = [tensors[at].contiguous().view(-1).view(torch.uint8) for at in order]
        size = sum(len(one) for one in flat)
        content = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        torch.cat(flat, out=content)
        return PackedPlan(self, order, [len(one) for one in flat], content)


@dataclass(frozen=True)
class PackedPlan:
    """A plan in one buffer, which is sent to a GPU as one asynchronous copy.

    Attributes:
        plan: The plan.
        order: Indices of the plan's tensors, in the order in which `content` stores them.
        sizes: Size in bytes of each tensor, in that order.
        content: uint8, the bytes of all tensors.
    """

    plan: Plan
    order: list[int]
    sizes: list[int]
    content: Tensor

    @property
    def share(self) -> float:
        """The plan's share of the weight of the step's targets."""
        return self.plan.share

    @property
    def names_rows(self) -> bool:
        """Whether the plan holds the deduplicated rows of the id table."""
        return self.plan.names_rows

    def to(self, device: torch.device) -> Plan:
        """The plan on a device."""
        pieces = torch.split(self.content.to(device, non_blocking=True), self.sizes)
        numbered = dict(zip(self.order, pieces, strict=True))
        numbers = count()
        return Plan(
            **_each(lambda x: numbered[next(numbers)].view(x.dtype).view(x.shape), vars(self.plan))
        )


def _each(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply `function` to each tensor in a nested value, in order."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):  # a named tuple
        return type(value)(*(_each(function, part) for part in value))
    if isinstance(value, dict):
        return {name: _each(function, part) for name, part in value.items()}
    return value


class Planner:
    """Plans the steps of a training.

    Args:
        corpus: The training data.
        config: Seed and number of negatives.
        length: Longest history.
        repeats: Whether items of the history have a bias in the score.
    """

    def __init__(self, corpus: Corpus, config: TrainingConfig, length: int, repeats: bool) -> None:
        self.corpus = corpus
        self.seed, self.negatives = config.seed, config.negatives
        self.length, self.repeats = length, repeats
        pool_R = negative_pool(corpus.catalogue)
        self.pool_R = None if pool_R is None else pool_R.cpu()
        catalogue = corpus.catalogue
        self.id_row_N = catalogue.id_row_N.cpu()
        self.new_N = are_new(catalogue).cpu()
        device = catalogue.id_row_N.device
        self.elsewhere = {m: f for m, f in catalogue.features.items() if f.device != device}

    def micro_batches(
        self, start_W: Tensor, end_W: Tensor, step: int, most: int, rank: int = 0, size: int = 1
    ) -> Iterator[Plan]:
        """Yield one process's micro-batches of a step on the windows `[start, end)`.

        The shuffling of ties and the candidate items do not depend on the number of micro-batches
        and processes.

        Args:
            start_W: int64 first event of each window of the step, for all processes.
            end_W: int64 one past its last input; every position's target is the event after it.
            step: Number of the step. All random draws depend on it and the seed.
            most: Largest number of windows in a micro-batch.
            rank: Rank of the process.
            size: Number of processes.
        """
        generator = drawn_by(self.seed, step)
        both = cut(self.corpus.events, start_W, end_W + 1)
        if self.corpus.ties:
            both = shuffle_ties(both, generator)
        candidates = self._candidates(both, generator)
        weight_W = _weights(both)
        mine_W = torch.arange(len(start_W))[rank::size]
        for at in range(-(-len(start_W) // (size * most))):
            some_W = mine_W[at * most : (at + 1) * most]
            share = float(weight_W[some_W].sum() / weight_W.sum())
            if not len(some_W):  # other processes have more: this one joins in with weight 0
                some_W = torch.zeros(1, dtype=torch.int64)
            yield self._go(_some(both, some_W), candidates, share)

    def _go(self, both: Window, candidates: Candidates | None, share: float) -> Plan:
        packed = pack(both, self.length, EVEN_ROWS, EVEN_LENGTH)
        window = packed.window
        place_M = packed.place_M
        target_M = packed.target_BL.view(-1)[place_M]
        item_BL = window.item_BL
        needed_U = counted_U = candidate_C = correction_C = None
        own_M = target_M
        # Whether each history item is a candidate, and its logit's correction.
        candidates_of: tuple[Tensor | None, Tensor | None] = (None, None)
        if candidates is not None:
            candidate_C, correction_C, own_M = _even_candidates(candidates, target_M)
            candidates_of = _among(candidates, item_BL)
        seen = last_seen(window, packed.target_BL, *candidates_of) if self.repeats else None
        if self.corpus.sampled:
            assert candidate_C is not None
            item_U, place = torch.unique(
                torch.cat([item_BL.view(-1)[place_M], target_M, candidate_C]), return_inverse=True
            )
            item_M, target_M, candidate_C = torch.split(
                place, [len(place_M), len(target_M), len(candidate_C)]
            )
            item_BL = torch.zeros_like(item_BL)
            item_BL.view(-1)[place_M] = item_M
            padding = -len(item_U) % EVEN_ITEMS
            needed_U = torch.cat([item_U, item_U[:1].expand(padding)])
            counted_U = functional.pad(torch.ones(len(item_U)), (0, padding))
        number, padding = len(place_M), 1 + -(len(place_M) + 1) % EVEN_POSITIONS
        number_X = torch.full((item_BL.numel(),), number + padding - 1)
        number_X[place_M] = torch.arange(number)
        return Plan(
            share=share,
            item_BL=item_BL,
            gap_BL=window.gap_BL,
            position_BL=window.position_BL,
            place_M=functional.pad(place_M, (0, padding)),
            target_M=functional.pad(target_M, (0, padding)),
            own_M=functional.pad(own_M, (0, padding)),
            weight_M=functional.pad(_mean_weights(packed), (0, padding)),
            number_X=number_X,
            last_W=packed.row_W * item_BL.shape[1] + packed.last_W,
            seen=seen,
            item_U=None if needed_U is None else self._needed(needed_U),
            counted_U=counted_U,
            candidate_C=candidate_C,
            correction_C=correction_C,
        )

    def _needed(self, item_U: Tensor) -> Needed:
        """Items, with their features of the modalities that are not on the device.

        For a large catalogue, also with their rows of the id table, deduplicated for its sparse
        gradients.
        """
        features = {name: values[item_U] for name, values in self.elsewhere.items()}
        if not self.corpus.large:
            return Needed(item_U, None, features)
        row_K, place_U = torch.unique(self.id_row_N[item_U].clamp(min=0), return_inverse=True)
        new_B = self.new_N[item_U].nonzero().squeeze(1)
        return Needed(item_U, Met(row_K, place_U, new_B), features)

    def _candidates(self, both: Window, generator: torch.Generator) -> Candidates | None:
        """The candidate items of a step; None for all items."""
        if self.corpus.sampled:
            target_M = both.item_BL[:, 1:][both.valid_BL[:, 1:]]
            return draw_candidates(
                target_M, self.corpus.share_N, self.negatives, self.pool_R, generator
            )
        return None if self.pool_R is None else Candidates(self.pool_R, None)


def training_bounds(data: DataSet) -> tuple[Tensor, Tensor]:
    """First training event of each user and one past its last; training events come first."""
    start_U = data.event_indptr[:-1]
    before = np.zeros(len(data.event_part) + 1, dtype=np.int64)
    np.cumsum(data.event_part == TRAIN, out=before[1:])
    trained_U = before[data.event_indptr[1:]] - before[start_U]
    return torch.from_numpy(start_U), torch.from_numpy(start_U + trained_U)


def drawn_by(seed: int, step: int) -> torch.Generator:
    """Random generator of one step."""
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def negative_pool(catalogue: Catalogue) -> Tensor | None:
    """The items that may be negatives, int64 in ascending order; None if all items may.

    An item that is not in the training data but has content is never a negative. It is new, not
    unwanted; as a negative it would be ranked below all other items. A new item without content
    may be a negative: nothing is known about it, and it is ranked last.
    """
    if not catalogue.present or not bool((catalogue.id_row_N < 0).any()):
        return None
    return (~are_new(catalogue)).nonzero().squeeze(1)


def _some(window: Window, some_W: Tensor) -> Window:
    """Select rows of a window."""
    return Window(
        window.item_BL[some_W],
        window.gap_BL[some_W],
        None,
        window.valid_BL[some_W],
        window.length_B[some_W],
        None if window.weight_BL is None else window.weight_BL[some_W],
    )


def _weights(both: Window) -> Tensor:
    """Total weight of each window's targets; their number if all have the same weight."""
    if both.weight_BL is None:
        return (both.length_B - 1).double()
    return both.weight_BL[:, 1:].double().masked_fill(~both.valid_BL[:, 1:], 0).sum(1)


def _mean_weights(packed: Packed) -> Tensor:
    """Each target's weight in the mean; the weights sum to 1."""
    if packed.weight_M is None:
        return torch.full((len(packed.place_M),), 1 / len(packed.place_M))
    return packed.weight_M / packed.weight_M.sum()


def _even_candidates(
    candidates: Candidates, target_M: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Candidates padded to a multiple, their corrections, and each target's index among them.

    A sample is padded with copies of its first item, which have no part in any sum. A target that
    is not in the sample gets the index of the first padding candidate.
    """
    item_C, correction_C = candidates.item_C, candidates.correction_C
    own_M = places(target_M, item_C)
    if correction_C is None:
        if bool((own_M >= 0).all()):
            return item_C, None, own_M
        correction_C = torch.zeros(len(item_C))
    number, padding = len(item_C), 1 + -(len(item_C) + 1) % EVEN_CANDIDATES
    return (
        torch.cat([item_C, item_C[:1].expand(padding)]),
        functional.pad(correction_C, (0, padding), value=NOWHERE),
        torch.where(own_M >= 0, own_M, number),
    )


def _among(candidates: Candidates, item_BL: Tensor) -> tuple[Tensor, Tensor | None]:
    """Whether each item is a candidate, and the correction added to its logit if it is."""
    place_BL = places(item_BL, candidates.item_C)
    if candidates.correction_C is None:
        return place_BL >= 0, None
    return place_BL >= 0, candidates.correction_C[place_BL.clamp(min=0)]
