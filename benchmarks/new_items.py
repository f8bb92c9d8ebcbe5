"""Items that training has never met: how often are they found?

    python -m benchmarks.new_items --work FOLDER [--sets ml1m,amazon-beauty] [--only cammsr]

A tenth of the items is taken out of the training part. The test events whose item is one of those
tell how often new items are found, all test events what that costs; the whole catalogue is ranked,
seen items excluded. `sasrec` knows new items by nothing and cannot find them; text-kNN ranks by the
mean cosine of an item's text to those of the last items of the history; random is what chance
gives. `cammsr` is ranked with several shares of the places for new items (`--new-share`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.accuracy import PRESETS, fully_trained
from benchmarks.data_sets import Prepared, prepared
from benchmarks.options import names_among, parser_of
from benchmarks.variants import drawn_items, record, variant, without_training_events
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TEST
from cammsr_cli.devices import resolve_device
from cammsr_cli.ranking.evaluate import ranks_of
from cammsr_cli.ranking.full_ranking import EvaluationCases, evaluation_cases, ranks
from cammsr_cli.ranking.metrics import bootstrap_interval, per_user
from cammsr_cli.ranking.seen import Histories
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run, read_events

SHARE, SEED = 0.1, 0

NEW_SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the best 20 places, tried beside the share of the catalogue."""

HISTORY = 10
"""Last items of a history that text-kNN compares with."""


def main() -> None:
    """Train, ask, print."""
    parser = parser_of(__doc__, ["ml1m", "amazon-beauty"])
    parser.add_argument(
        "--only", type=names_among(PRESETS), default=list(PRESETS), help="presets to train"
    )
    options = parser.parse_args()
    for name in options.sets:
        whole = prepared(name, options.data, options.work)
        data = DataSet(whole.data)
        new = drawn_items(data, SHARE, SEED)
        path = variant(
            whole.data, options.work / f"{name}-new-items.h5", without_training_events(new)
        )
        found = _ranks(name, path, whole, new, options.work, options.only)
        target_new_U = np.isin(evaluation_cases(data, TEST).item_U, new)
        _print(name, found, target_new_U, len(data.item_ids), len(new), options.work)


def _ranks(
    name: str,
    path: Path,
    whole: Prepared,
    new: NDArray[np.int64],
    work: Path,
    presets: Sequence[str],
) -> dict[str, NDArray[np.int64]]:
    data = DataSet(path)
    asked = evaluation_cases(data, TEST)
    found = {"text-kNN": text_knn(data, asked)}
    for preset in presets:
        out = work / f"{name}-new-items-{preset}"
        fully_trained(preset, name, Prepared(path, whole.split, 0), out)
        run = load_run(RunFolder(out), path, resolve_device("auto"))
        found[preset] = ranks_of(run, asked)
        for share in NEW_SHARES if run.model.modalities else ():
            found[f"{preset} --new-share {share}"] = ranks_of(run, asked, new_share=share)
    return found


def text_knn(data: DataSet, asked: EvaluationCases) -> NDArray[np.int64]:
    """Ranks by the mean cosine of an item's text to the last texts of the history."""
    values, present = data.vectors("text")
    text_ND = functional.normalize(torch.from_numpy(values).float(), dim=1)
    text_ND[~torch.from_numpy(present)] = 0
    item_E = torch.from_numpy(data.event_item.astype(np.int64))
    query_UD = torch.stack(
        [
            text_ND[item_E[max(start, end - HISTORY) : end]].mean(0)
            for start, end in zip(asked.start_U.tolist(), asked.end_U.tolist(), strict=True)
        ]
    )
    return ranks(query_UD, text_ND, Histories(read_events(data, text_ND.device), True), asked)


def _print(
    name: str,
    found: dict[str, NDArray[np.int64]],
    target_new_U: NDArray[np.bool_],
    items: int,
    new: int,
    work: Path,
) -> None:
    print(
        f"\n{name}: {new:,} of {items:,} items new, {target_new_U.sum():,} of "
        f"{len(target_new_U):,} events ask for one\n"
    )
    print("| | Recall@20 of new | x text-kNN | NDCG@10 of all | of the others |")
    print("|---|---:|---:|---:|---:|")
    base = per_user(found["text-kNN"][target_new_U], "Recall", 20).mean()
    print(f"| random | {20 / items:.4f} | {20 / items / base:.2f} | | |")
    figures: dict[str, object] = {"items": items, "new": new, "asked": int(target_new_U.sum())}
    for title, rank_U in found.items():
        recall_U = per_user(rank_U[target_new_U], "Recall", 20)
        low, high = bootstrap_interval(recall_U[:, None])
        ndcg_U = per_user(rank_U, "NDCG", 10)
        cells = [float(recall_U.mean()), float(low[0]), float(high[0]), float(ndcg_U.mean())]
        figures[title] = cells
        print(
            "| {} | {:.4f} [{:.4f}, {:.4f}] | {:.2f} | {:.4f} | {:.4f} |".format(
                title, *cells[:3], cells[0] / base, cells[3], ndcg_U[~target_new_U].mean()
            )
        )
    record(work / f"{name}-new-items.json", figures)


if __name__ == "__main__":
    main()
