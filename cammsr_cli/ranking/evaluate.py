"""Evaluation of a run: the command `cammsr evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cammsr_cli.data.splits import TEST, VALIDATION
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.model.catalogue_tensors import are_new
from cammsr_cli.ranking.evaluation_details import Details, details
from cammsr_cli.ranking.full_ranking import (
    EvaluationCases,
    Ranking,
    evaluation_cases,
    popularity_ranks,
)
from cammsr_cli.ranking.metrics import (
    CUTOFFS,
    METRICS,
    Estimate,
    bootstrap_interval,
    estimate_all,
    per_user,
)
from cammsr_cli.ranking.new_items import share_of_new
from cammsr_cli.ranking.per_user_file import require_free, write_per_user
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import LoadedRun, load_run

Split = Literal["test", "validation"]


@dataclass(frozen=True)
class Difference:
    """Difference between a run and another run, over the same users.

    Attributes:
        mean: Mean difference of the metric.
        low: Lower end of the paired bootstrap's 95 % interval.
        high: Upper end.
        relative: Difference divided by the other run's mean; None if that is 0.
    """

    mean: float
    low: float
    high: float
    relative: float | None


@dataclass(frozen=True)
class Evaluation:
    """All metrics of a run and of the popularity baseline, and differences from other runs.

    Attributes:
        split: "test" or "validation".
        users: Number of evaluated users.
        items: Size of the catalogue that was ranked.
        seen_excluded: Whether seen items were excluded from the ranking.
        model: Metric name to estimate.
        popularity: The same for the baseline that recommends the most popular items to all.
        against: Other run to metric name to the difference from it.
        remarks: Notes about the results, for the user.
        details: Slices and more, if requested.
    """

    split: Split
    users: int
    items: int
    seen_excluded: bool
    model: dict[str, Estimate]
    popularity: dict[str, Estimate]
    against: dict[str, dict[str, Difference]]
    remarks: list[str]
    details: Details | None = None


@dataclass(frozen=True)
class Ranked:
    """A run whose catalogue has been ranked for the users with a held-out event.

    Attributes:
        path: Folder of the run.
        run: The loaded run.
        split: "test" or "validation".
        exclude_seen: Whether seen items are excluded from the ranking.
        new_share: Share of the top places for new items; None for the default.
        ranking: Ranking of the catalogue.
        rank: Rank of the held-out item for each user.
    """

    path: Path
    run: LoadedRun
    split: Split
    exclude_seen: bool
    new_share: float | None
    ranking: Ranking
    rank: NDArray[np.int64]


def evaluate(
    run: Path,
    *,
    data: Path | None,
    device: torch.device,
    split: Split = "test",
    exclude_seen: bool | None = None,
    against: Sequence[Path] = (),
    new_share: float | None = None,
    seed: int = 0,
    look_closer: bool = False,
    per_user_file: Path | None = None,
    force: bool = False,
) -> Evaluation:
    """Rank the whole catalogue for every user and compute metrics of the held-out item's rank.

    Args:
        run: Folder of a finished run.
        data: The data set; None for the one the run was trained on.
        device: Device to compute on.
        split: The held-out event that is the target.
        exclude_seen: Whether items of the user's history are excluded from the ranking; None to
            decide by the training data (`ModelSpec.repeats`).
        against: Other runs to compare with, user by user.
        new_share: Share of the top places for new items; None for their share of the catalogue.
        seed: Seed of the bootstrap.
        look_closer: Whether to compute `Details`, too.
        per_user_file: File for the rank of each held-out item and the best ten items; None for no
            file.
        force: Whether an existing file may be replaced.

    Raises:
        CammsrError: A run or its data cannot be used, or no user has a held-out event.
        UsageError: Two runs were trained on different data, or the file may not be written.
    """
    if per_user_file is not None:
        require_free(per_user_file, force)
    found = ranked(
        run,
        data=data,
        device=device,
        split=split,
        exclude_seen=exclude_seen,
        new_share=new_share,
    )
    evaluation = evaluation_of(
        found, data=data, against=against, seed=seed, look_closer=look_closer
    )
    if per_user_file is not None:
        write_per_user(found.run, found.ranking, found.rank, per_user_file)
    return evaluation


def ranked(
    run: Path,
    *,
    data: Path | None,
    device: torch.device,
    split: Split = "test",
    exclude_seen: bool | None = None,
    new_share: float | None = None,
) -> Ranked:
    """Rank the whole catalogue for every user with a held-out event; arguments as in `evaluate`.

    Raises:
        CammsrError: The run or its data cannot be used, or no user has a held-out event.
    """
    loaded = load_run(RunFolder(run), data, device)
    cases = evaluation_cases(loaded.data, TEST if split == "test" else VALIDATION)
    if not len(cases.item_U):
        raise CammsrError(
            f"{loaded.data.path} has no {split} events: no user has a history long enough",
            "Prepare it from more events",
        )
    if exclude_seen is None:
        exclude_seen = not loaded.spec.repeats
    ranking = ranking_of(loaded, cases, exclude_seen, new_share)
    return Ranked(run, loaded, split, exclude_seen, new_share, ranking, ranking.ranks())


def evaluation_of(
    found: Ranked,
    *,
    data: Path | None = None,
    against: Sequence[Path] = (),
    seed: int = 0,
    look_closer: bool = False,
) -> Evaluation:
    """Compute all metrics of a ranked run; arguments as in `evaluate`.

    Raises:
        CammsrError: Another run cannot be used.
        UsageError: Two runs were trained on different data.
    """
    loaded, cases, rank = found.run, found.ranking.cases, found.rank
    differences = {}
    for path in against:
        other = load_run(RunFolder(path), data, loaded.device)
        if other.spec.data_content != loaded.spec.data_content:
            raise UsageError(
                f"{found.path} and {path} were trained on different data sets, or on two states "
                "of one",
                "Train both on the same file",
            )
        other_rank = ranks_of(other, cases, found.exclude_seen, found.new_share)
        differences[str(path)] = compare(rank, other_rank, seed=seed)
    remarks = loaded.remarks
    if not loaded.same_data:
        remarks.append(
            f"{found.path} was trained on another data set than {loaded.data.path} is now: what is "
            "held out here may be among what it learnt from, and then these figures are too good"
        )
    popular = popularity_ranks(loaded.data, loaded.events, cases, found.exclude_seen)
    return Evaluation(
        split=found.split,
        users=len(rank),
        items=len(loaded.data.item_ids),
        seen_excluded=found.exclude_seen,
        model=estimate_all(rank, seed=seed),
        popularity=estimate_all(popular, seed=seed),
        against=differences,
        remarks=remarks,
        details=details(loaded, found.ranking, rank, seed) if look_closer else None,
    )


def ranking_of(
    run: LoadedRun,
    cases: EvaluationCases,
    exclude_seen: bool = True,
    new_share: float | None = None,
) -> Ranking:
    """Rank the catalogue as `evaluate` does."""
    share = share_of_new(are_new(run.catalogue), new_share)
    return Ranking(run.model, run.catalogue, run.events, cases, exclude_seen, share)


def ranks_of(
    run: LoadedRun,
    cases: EvaluationCases,
    exclude_seen: bool = True,
    new_share: float | None = None,
) -> NDArray[np.int64]:
    """Rank of the target item for each user, as in `evaluate`."""
    return ranking_of(run, cases, exclude_seen, new_share).ranks()


def compare(
    rank: NDArray[np.int64], other: NDArray[np.int64], seed: int = 0
) -> dict[str, Difference]:
    """Difference of `rank` from `other` for each metric, by a paired bootstrap over users."""
    names = [(metric, k) for metric in METRICS for k in CUTOFFS]
    other_UM = np.stack([per_user(other, m, k) for m, k in names], axis=1)
    delta_UM = np.stack([per_user(rank, m, k) for m, k in names], axis=1) - other_UM
    low, high = bootstrap_interval(delta_UM, seed=seed)
    mean, base = delta_UM.mean(0), other_UM.mean(0)
    return {
        f"{metric}@{k}": Difference(
            mean=float(mean[i]),
            low=float(low[i]),
            high=float(high[i]),
            relative=float(mean[i] / base[i]) if base[i] else None,
        )
        for i, (metric, k) in enumerate(names)
    }
