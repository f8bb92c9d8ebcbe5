"""Where each user's next item stands among the whole catalogue.

Axes: U users, B users of one chunk, N items, V score width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cammsr_cli.core.model import Cammsr, Catalogue, ItemTables
from cammsr_cli.core.windows import Events, cut
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TRAIN

USERS_AT_ONCE = 256


@dataclass(frozen=True)
class Questions:
    """Histories and the item that followed each.

    Attributes:
        user_U: Index of each user asked about.
        start_U: First event of the user.
        end_U: One past the last event of the history.
        item_U: The item to be found, at event `end`.
    """

    user_U: NDArray[np.int64]
    start_U: NDArray[np.int64]
    end_U: NDArray[np.int64]
    item_U: NDArray[np.int64]


def questions(data: DataSet, part: int) -> Questions:
    """All users with an event of `part` (VALIDATION or TEST) and a history before it."""
    at_U = np.flatnonzero(data.event_part == part)
    user_U = np.searchsorted(data.event_indptr, at_U, side="right") - 1
    start_U = data.event_indptr[user_U]
    kept = at_U > start_U
    at_U, user_U, start_U = at_U[kept], user_U[kept], start_U[kept]
    return Questions(user_U, start_U, at_U, data.event_item[at_U].astype(np.int64))


@torch.inference_mode()
def item_tables(model: Cammsr, catalogue: Catalogue) -> ItemTables:
    """The tables of all items of a model in evaluation mode."""
    return model.item_tables(*model.item_streams(catalogue))


@torch.inference_mode()
def user_queries(
    model: Cammsr, tables: ItemTables, events: Events, start_B: Tensor, end_B: Tensor
) -> Tensor:
    """What each user's state asks for after the events `[start, end)`: [B, V]."""
    window = cut(events, torch.maximum(start_B, end_B - model.length), end_B)
    h_BLD = model.user_states(tables, window)
    last_B = (window.length_B - 1).clamp(min=0)
    return model.queries(h_BLD[torch.arange(len(h_BLD), device=h_BLD.device), last_B])


def model_ranks(
    model: Cammsr,
    catalogue: Catalogue,
    events: Events,
    asked: Questions,
    exclude_seen: bool = True,
) -> NDArray[np.int64]:
    """Rank of the item to be found, for each user, by the model's scores."""
    tables = item_tables(model, catalogue)

    def score(start_B: Tensor, end_B: Tensor) -> Tensor:
        return user_queries(model, tables, events, start_B, end_B) @ tables.target_NV.T

    return ranks(score, events, asked, exclude_seen)


def popularity_ranks(
    data: DataSet, events: Events, asked: Questions, exclude_seen: bool = True
) -> NDArray[np.int64]:
    """Rank of the item to be found when everyone gets what was bought most in training."""
    counts = np.bincount(data.event_item[data.event_part == TRAIN], minlength=len(data.item_ids))
    count_N = torch.from_numpy(counts).float().to(events.item_E.device)
    return ranks(
        lambda start_B, end_B: count_N.expand(len(start_B), -1).clone(),
        events,
        asked,
        exclude_seen,
    )


@torch.inference_mode()
def ranks(
    score: Callable[[Tensor, Tensor], Tensor],
    events: Events,
    asked: Questions,
    exclude_seen: bool,
) -> NDArray[np.int64]:
    """Ranks from a function that scores all N items for a chunk of users.

    Ties count against us: rank = 1 + the number of other items scored at least as high. Seen
    items are left out of the ranking, the item to be found never.
    """
    device = events.item_E.device
    start_U, end_U, item_U = (
        torch.from_numpy(array).to(device) for array in (asked.start_U, asked.end_U, asked.item_U)
    )
    found = []
    for start_B, end_B, item_B in zip(
        torch.split(start_U, USERS_AT_ONCE),
        torch.split(end_U, USERS_AT_ONCE),
        torch.split(item_U, USERS_AT_ONCE),
        strict=True,
    ):
        score_BN = score(start_B, end_B)
        own_B1 = score_BN.gather(1, item_B[:, None])
        if exclude_seen:
            hide_seen(score_BN, events, start_B, end_B)
        score_BN.scatter_(1, item_B[:, None], float("-inf"))
        # "Not lower", so that a score that is not a number ranks last and never first.
        found.append(1 + (~(score_BN < own_B1)).sum(1))
    return torch.cat(found).cpu().numpy() if found else np.zeros(0, dtype=np.int64)


def hide_seen(score_BN: Tensor, events: Events, start_B: Tensor, end_B: Tensor) -> None:
    """Set the scores of the items in each user's history to minus infinity, in place."""
    length_B = end_B - start_B
    row = torch.repeat_interleave(length_B)
    first_B = length_B.cumsum(0) - length_B
    at = torch.arange(len(row), device=row.device) - first_B[row] + start_B[row]
    score_BN[row, events.item_E[at]] = float("-inf")
