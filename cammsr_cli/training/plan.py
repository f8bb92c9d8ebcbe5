"""What a step computes on, made on the host: which windows, laid how, told from which items.

It hangs on the seed and the number of the step alone: a resumed run, another device and each of
many processes see the same steps. It is laid into tensors of few shapes, with weights in the place
of masks, and goes to the device as one copy; so a step asks nothing of its numbers, and the host
need not wait for the device.

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
from cammsr_cli.model.catalogue import Catalogue, Met, Needed, are_new
from cammsr_cli.model.losses import NOWHERE
from cammsr_cli.model.negatives import Candidates, draw_candidates, places
from cammsr_cli.model.repeats import LastSeen, last_seen
from cammsr_cli.model.windows import Events, Packed, Rows, Window, cut, pack, shuffle_ties

EVEN_ROWS, EVEN_LENGTH = 4, 8
"""Rows of a step, and their length where it is not the longest, are multiples of these, so that few
shapes of tensors occur: a CPU makes code for each shape of a bfloat16 product, which takes longer
than the product, and a GPU keeps memory for each."""

EVEN_POSITIONS, EVEN_ITEMS, EVEN_CANDIDATES = 64, 256, 128
"""Likewise the positions with a target, the items of a step, and what its targets are told from."""


@dataclass(frozen=True)
class Corpus:
    """What is learnt from; it stays the same from step to step.

    Attributes:
        catalogue: All items, on the device; their features may lie on the host if `large`.
        events: All events, on the host.
        ties: Whether some events of one user share their time and are to be dealt anew.
        share_N: float, each item's share of all training targets, on the host.
        sampled: Whether each step tells its targets from a sample of the catalogue, and computes
            no other items.
        large: Whether features are read where they lie as steps need them, unstandardised.
    """

    catalogue: Catalogue
    events: Events
    ties: bool
    share_N: Tensor
    sampled: bool
    large: bool


@dataclass(frozen=True)
class Plan(Rows):
    """What one go of a step computes on: rows that hold several histories each.

    Items are named by their place among those it needs.

    Attributes:
        share: Its part of the weight of the step's targets: all of it, where a step is one go.
        place_M: int64 places among all B L of the positions with a target, and of others that make
            their number even.
        target_M: int64 the items that follow them.
        own_M: int64 place of each target among the candidates; of one that is none, that of a
            candidate of no part.
        weight_M: float, each position's part of the mean; 0 of the others.
        number_X: int64, of each of the B L positions, its number among the M; of those without a
            target the last one's, which has no weight.
        last_W: int64 place among all B L of each history's last event.
        seen: What the positions have in their histories; None where that adds nothing to scores.
        item_U: The items it needs, and what the host knows of them; None for all of the catalogue,
            in order.
        counted_U: float, 0 for items that only make their number even; None where there are none.
        candidate_C: int64 what the targets are told from; None for all items it needs.
        correction_C: What is added to their logits; None for nothing.
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
        """Whether it names the rows of the id table that it needs, each once."""
        return self.item_U is not None and self.item_U.met is not None

    def to(self, device: torch.device) -> Plan:
        """The same on a device."""
        return self if device.type == "cpu" else self.packed(device.type == "cuda").to(device)

    def packed(self, pinned: bool = True) -> PackedPlan:
        """The same in one piece, in memory that a GPU can read by itself if `pinned`."""
        tensors: list[Tensor] = []
        _each(tensors.append, vars(self))
        # Long values first, as a view of what is copied must begin at a multiple of its size.
        order = sorted(range(len(tensors)), key=lambda at: -tensors[at].element_size())
        flat = [tensors[at].contiguous().view(-1).view(torch.uint8) for at in order]
        size = sum(len(one) for one in flat)
        content = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        torch.cat(flat, out=content)
        return PackedPlan(self, order, [len(one) for one in flat], content)


@dataclass(frozen=True)
class PackedPlan:
    """A plan in one piece, to be sent to a GPU as one copy, which nobody waits for.

    Attributes:
        plan: It.
        order: The numbers of its tensors, in the order in which they lie in `content`, and
        sizes: the bytes of each there.
        content: uint8, all of them.
    """

    plan: Plan
    order: list[int]
    sizes: list[int]
    content: Tensor

    @property
    def share(self) -> float:
        """Its part of the step's targets."""
        return self.plan.share

    @property
    def names_rows(self) -> bool:
        """As the plan's."""
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
    """A value with `function` applied to each tensor in it, one after another."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):  # with names
        return type(value)(*(_each(function, part) for part in value))
    if isinstance(value, dict):
        return {name: _each(function, part) for name, part in value.items()}
    return value


class Planner:
    """Plans the steps of a training.

    Args:
        corpus: What is learnt from.
        config: Seed and number of candidates.
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
        """The micro-batches of a step on the windows `[start, end)`, those of one process of many.

        Ties are shuffled and candidates drawn alike for any number of micro-batches and processes.

        Args:
            start_W: int64 first event of each window of the step, in all processes.
            end_W: int64 one past its last input; every position's target is the event after it.
            step: Number of the step: what is drawn hangs on that and the seed.
            most: Most windows of a go.
            rank: Number of the process, and
            size: how many there are.
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
            if not len(some_W):  # other processes have more: this one computes along, at no weight
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
        # Whether targets are told from the histories' items, and what corrects those.
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
        """Items, with their features of modalities that a GPU has no room for.

        And with their rows of the id table, where its gradients name the rows that they are of.
        """
        features = {name: values[item_U] for name, values in self.elsewhere.items()}
        if not self.corpus.large:
            return Needed(item_U, None, features)
        row_K, place_U = torch.unique(self.id_row_N[item_U].clamp(min=0), return_inverse=True)
        new_B = self.new_N[item_U].nonzero().squeeze(1)
        return Needed(item_U, Met(row_K, place_U, new_B), features)

    def _candidates(self, both: Window, generator: torch.Generator) -> Candidates | None:
        """What a step's targets are told from; None for all items."""
        if self.corpus.sampled:
            target_M = both.item_BL[:, 1:][both.valid_BL[:, 1:]]
            return draw_candidates(
                target_M, self.corpus.share_N, self.negatives, self.pool_R, generator
            )
        return None if self.pool_R is None else Candidates(self.pool_R, None)


def training_bounds(data: DataSet) -> tuple[Tensor, Tensor]:
    """First and one past the last training event of each user; training events come first."""
    start_U = data.event_indptr[:-1]
    before = np.zeros(len(data.event_part) + 1, dtype=np.int64)
    np.cumsum(data.event_part == TRAIN, out=before[1:])
    trained_U = before[data.event_indptr[1:]] - before[start_U]
    return torch.from_numpy(start_U), torch.from_numpy(start_U + trained_U)


def drawn_by(seed: int, step: int) -> torch.Generator:
    """What draws for one step."""
    state = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def negative_pool(catalogue: Catalogue) -> Tensor | None:
    """The items that targets are told from, int64 and rising; None if they are all.

    An item that training never met, but whose content is known, is not taught to be wrong: it is
    new, not unwanted, and would be ranked behind all others for that. One without content can be
    known by nothing else, and ranks behind them.
    """
    if not catalogue.present or not bool((catalogue.id_row_N < 0).any()):
        return None
    return (~are_new(catalogue)).nonzero().squeeze(1)


def _some(window: Window, some_W: Tensor) -> Window:
    """Some of the rows."""
    return Window(
        window.item_BL[some_W],
        window.gap_BL[some_W],
        None,
        window.valid_BL[some_W],
        window.length_B[some_W],
        None if window.weight_BL is None else window.weight_BL[some_W],
    )


def _weights(both: Window) -> Tensor:
    """What the targets of each window weigh together; where all weigh alike, how many they are."""
    if both.weight_BL is None:
        return (both.length_B - 1).double()
    return both.weight_BL[:, 1:].double().masked_fill(~both.valid_BL[:, 1:], 0).sum(1)


def _mean_weights(packed: Packed) -> Tensor:
    """Each target's part of the mean; all together are 1."""
    if packed.weight_M is None:
        return torch.full((len(packed.place_M),), 1 / len(packed.place_M))
    return packed.weight_M / packed.weight_M.sum()


def _even_candidates(
    candidates: Candidates, target_M: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Candidates, their corrections, and the place of each target among them.

    After a sample its first item comes again and again, with no part in any sum, so that the number
    is even; and so each target has a place, be it one of those.
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
    """Which items are candidates, and what is added to the logits of those that are."""
    place_BL = places(item_BL, candidates.item_C)
    if candidates.correction_C is None:
        return place_BL >= 0, None
    return place_BL >= 0, candidates.correction_C[place_BL.clamp(min=0)]
