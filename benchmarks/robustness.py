"""How much accuracy wrong category labels and missing modalities cost.

    python -m benchmarks.robustness --work FOLDER [--sets ml100k,amazon-beauty] [--plot FILE.svg]
        [--only "labels 20% wrong,no labels"]

Trains `cammsr` on copies of a data set in which a share of the items has the categories of another
item, or none has any, or a share of the items has lost its image (its text, where there are no
images). Same settings and budget for all, and the same seed. The data set as it is is that of
`benchmarks.accuracy` with the same FOLDER, and is not trained twice. In the plot a band reaches
from the worst to the best seed that is there of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import Outcome, fully_trained, ndcg
from benchmarks.data_sets import ENCODERS, Prepared, prepared
from benchmarks.options import parser_of
from benchmarks.variants import missing, no_labels, record, variant, wrong_labels
from cammsr_cli.data.splits import TEST
from cammsr_cli.devices import resolve_device
from cammsr_cli.ranking.evaluate import ranks_of
from cammsr_cli.ranking.full_ranking import evaluation_cases
from cammsr_cli.ranking.metrics import bootstrap_interval, per_user
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run

SEED = 0
WRONG = (0.1, 0.2, 0.4)
MISSING = (0.3, 0.6, 1.0)

Change = Callable[[h5py.File], None]


def variants(name: str) -> dict[str, Change | None]:
    """What is done to a data set; None is the data set as it is."""
    modality = "image" if "image" in ENCODERS[name] else "text"
    found: dict[str, Change | None] = {"as it is": None}
    found |= {f"labels {share:.0%} wrong": wrong_labels(share, SEED) for share in WRONG}
    found["no labels"] = no_labels
    found |= {
        f"{modality} {share:.0%} missing": missing(modality, share, SEED) for share in MISSING
    }
    return found


def main() -> None:
    """Train, rank, print, plot."""
    parser = parser_of(__doc__, ["ml100k", "amazon-beauty"])
    parser.add_argument("--only", type=lambda one: one.split(","), default=[], help="variants")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    found = {}
    for name in options.sets:
        whole = prepared(name, options.data, options.work)
        wanted = variants(name)
        if unknown := set(options.only) - set(wanted):
            sys.exit(f"no variant {', '.join(sorted(unknown))}; there are: {', '.join(wanted)}")
        found[name] = {
            title: _ranks(name, title, change, whole, options.work)
            for title, change in wanted.items()
            if change is None or not options.only or title in options.only
        }
        _print(name, found[name], options.work)
    if options.plot:
        _plot(found, options.work, options.plot)


def _ranks(
    name: str, title: str, change: Change | None, whole: Prepared, work: Path
) -> NDArray[np.int64]:
    slug = f"{name}-{title.replace(' ', '-').replace('%', '')}"
    path, out = whole.data, work / name / f"cammsr-{SEED}"
    if change is not None:
        path, out = variant(whole.data, work / f"{slug}.h5", change), work / f"{slug}-run"
    fully_trained("cammsr", name, Prepared(path, whole.split, 0), out, seed=SEED)
    run = load_run(RunFolder(out), path, resolve_device("auto"))
    return ranks_of(run, evaluation_cases(run.data, TEST))


def _print(name: str, found: dict[str, NDArray[np.int64]], work: Path) -> None:
    whole_U = per_user(found["as it is"], "NDCG", 10)
    print(f"\n{name}, test NDCG@10, seed {SEED}\n")
    print("| | NDCG@10 | against as it is |\n|---|---:|---:|")
    figures = {}
    for title, rank in found.items():
        ndcg_U = per_user(rank, "NDCG", 10)
        low, high = bootstrap_interval((ndcg_U - whole_U)[:, None] / whole_U.mean())
        cost = ndcg_U.mean() / whole_U.mean() - 1
        figures[title] = [float(ndcg_U.mean()), float(cost), float(low[0]), float(high[0])]
        print(f"| {title} | {ndcg_U.mean():.4f} | {cost:+.1%} [{low[0]:+.1%}, {high[0]:+.1%}] |")
    record(work / f"{name}-robustness.json", figures)


def _plot(found: dict[str, dict[str, NDArray[np.int64]]], work: Path, file: Path) -> None:
    """NDCG@10 over the share that is wrong or missing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for at, (name, ranks) in enumerate(found.items()):
        quality = {title: ndcg(rank) for title, rank in ranks.items()}
        seeds = [
            ndcg(Outcome.load(path).rank["test"]) for path in work.glob(f"{name}/cammsr-[0-9]*.npz")
        ]
        for axis, word in zip(axes, ("wrong", "missing"), strict=True):
            points = [(0.0, quality["as it is"])] + [
                (float(title.split()[1].rstrip("%")) / 100, value)
                for title, value in quality.items()
                if title.endswith(word)
            ]
            axis.plot(*zip(*points, strict=True), marker="o", color=f"C{at}", label=name)
            if len(seeds) > 1:
                label = f"{name} as it is, {len(seeds)} seeds"
                axis.axhspan(min(seeds), max(seeds), color=f"C{at}", alpha=0.15, lw=0, label=label)
            axis.spines[["top", "right"]].set_visible(False)
    top = axes[0].get_ylim()[1]
    axes[0].set(xlabel="share of labels wrong", ylabel="NDCG@10", ylim=(0, 1.1 * top))
    axes[1].set(xlabel="share of a modality missing")
    axes[1].legend(frameon=False, loc="lower right")
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
