"""Items that training has never met: how often are they found?

    python -m benchmarks.new_items --work FOLDER [--sets ml1m,amazon-beauty] [--only cammsr]

A tenth of the items is taken out of the training part. Asked about are the test events whose item
is one of those; the whole catalogue is ranked, seen items excluded. `sasrec` knows them by nothing
and cannot find them; text-kNN ranks by the mean cosine of an item's text to those of the last items
of the history; random is what chance gives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.accuracy import EPOCHS, PATIENCE, PRESETS, SETTINGS
from benchmarks.data_sets import RAW, Prepared, prepared
from benchmarks.trainings import trained_by_us
from benchmarks.variants import drawn_items, record, variant, without_training_events
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TEST
from cammsr_cli.devices import resolve_device
from cammsr_cli.ranking.full_ranking import Questions, model_ranks, questions, ranks
from cammsr_cli.ranking.metrics import bootstrap_interval, per_user
from cammsr_cli.run_folder import RunFolder, load_run, read_events

SHARE, SEED = 0.1, 0

HISTORY = 10
"""Last items of a history that text-kNN compares with."""


def main() -> None:
    """Train, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=lambda one: Path(one).resolve(), required=True)
    parser.add_argument("--data", type=lambda one: Path(one).resolve(), default=RAW)
    parser.add_argument(
        "--sets", type=lambda one: one.split(","), default=["ml1m", "amazon-beauty"]
    )
    parser.add_argument(
        "--only", type=lambda one: one.split(","), default=list(PRESETS), help="presets to train"
    )
    options = parser.parse_args()
    if unknown := set(options.only) - set(PRESETS):
        sys.exit(f"no {', '.join(sorted(unknown))}; there are: {', '.join(PRESETS)}")
    for name in options.sets:
        whole = prepared(name, options.data, options.work)
        data = DataSet(whole.data)
        new = drawn_items(data, SHARE, SEED)
        path = variant(
            whole.data, options.work / f"{name}-new-items.h5", without_training_events(new)
        )
        found = _ranks(name, path, whole, new, options.work, options.only)
        _print(name, found, len(data.item_ids), len(new), options.work)


def _ranks(
    name: str,
    path: Path,
    whole: Prepared,
    new: NDArray[np.int64],
    work: Path,
    presets: Sequence[str],
) -> dict[str, NDArray[np.int64]]:
    data = DataSet(path)
    asked = questions(data, TEST)
    asked = asked.take(np.flatnonzero(np.isin(asked.item_U, new)))
    found = {"text-kNN": text_knn(data, asked)}
    size, settings = SETTINGS[name]
    limits = (f"training.epochs={EPOCHS}", f"training.patience={PATIENCE}")
    for preset in presets:
        out = work / f"{name}-new-items-{preset}"
        trained_by_us(preset, Prepared(path, whole.split, 0), out, size, *settings, *limits)
        run = load_run(RunFolder(out), path, resolve_device("auto"))
        found[preset] = model_ranks(run.model, run.catalogue, run.events, asked)
    return found


def text_knn(data: DataSet, asked: Questions) -> NDArray[np.int64]:
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
    return ranks(query_UD, text_ND, read_events(data, text_ND.device), asked, True)


def _print(
    name: str, found: dict[str, NDArray[np.int64]], items: int, new: int, work: Path
) -> None:
    asked = len(found["text-kNN"])
    print(f"\n{name}: {new:,} of {items:,} items new, {asked:,} events ask for one\n")
    print("| | Recall@20 | NDCG@20 | x text-kNN |\n|---|---:|---:|---:|")
    base = per_user(found["text-kNN"], "Recall", 20).mean()
    print(f"| random | {20 / items:.4f} | | {20 / items / base:.2f} |")
    figures: dict[str, object] = {"items": items, "new": new, "asked": asked}
    for title, rank in found.items():
        recall_U = per_user(rank, "Recall", 20)
        low, high = bootstrap_interval(recall_U[:, None])
        ndcg = float(per_user(rank, "NDCG", 20).mean())
        figures[title] = [float(recall_U.mean()), float(low[0]), float(high[0]), ndcg]
        print(
            f"| {title} | {recall_U.mean():.4f} [{low[0]:.4f}, {high[0]:.4f}] | {ndcg:.4f} "
            f"| {recall_U.mean() / base:.2f} |"
        )
    record(work / f"{name}-new-items.json", figures)


if __name__ == "__main__":
    main()
