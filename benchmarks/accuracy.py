r"""How good the recommendations are, beside baselines, peers, and with each part taken away.

    python -m benchmarks.accuracy --work FOLDER [--sets ml1m,amazon-beauty] [--only sasrec,cammsr]
    python -m benchmarks.accuracy --work FOLDER --render docs/results.md \
        --plot docs/images/accuracy.svg

The first trains what is not there yet, ranks the whole catalogue for every user, and prints a table
a data set; FOLDER keeps runs and ranks, so that it can be stopped and gone on with. The second
writes the tables between their marks in a page and their figures as JSON beside it, and draws them;
rows of that JSON that FOLDER has no ranks of stay. The plot needs matplotlib, which the extra
`bench` brings.

The same for all: leave-one-out; the best epoch by validation NDCG@10, and no more than 200 of them;
training ends after 10 epochs without a better one; settings of a data set (`SETTINGS`) chosen on
validation with the `sasrec` preset and the full model; the test split read once.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines import item_knn, popularity
from benchmarks.data_sets import ENCODERS, FEATURES, Prepared, prepared
from benchmarks.options import absolute, parser_of
from benchmarks.peers import split as peer_split
from benchmarks.peers.scoring import Score, target_ranks
from benchmarks.peers.settings import ranks_file, test_ranks_file
from benchmarks.trainings import Size, train_peer, trained_by_us
from cammsr_cli.data.splits import TEST, VALIDATION
from cammsr_cli.devices import resolve_device
from cammsr_cli.files import written_whole
from cammsr_cli.ranking.evaluate import ranks_of
from cammsr_cli.ranking.full_ranking import evaluation_cases
from cammsr_cli.ranking.metrics import CUTOFFS, METRICS, bootstrap_interval, per_user
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run

Ranks = NDArray[np.int64]

EPOCHS, PATIENCE = 200, 10

NEIGHBOURS = (20, 100, 500)
"""Of item-kNN: the number with the best validation NDCG@10 counts."""

SHOWN = ("Recall@10", "NDCG@5", "NDCG@10", "MRR@10")
KEPT = ("NDCG@5", "NDCG@10", "MRR@5")
"""Of what is measured, the columns of the tables: seen items excluded, and kept."""

SETTINGS: dict[str, tuple[Size, tuple[str, ...]]] = {
    "ml1m": (
        Size(width=128, length=200, dropout=0.2),
        ("training.learning_rate=0.002", "training.batch_size=48"),
    ),
    "amazon-beauty": (Size(width=128, length=50, dropout=0.5), ()),
    "ml100k": (Size(width=128, length=100, dropout=0.4), ()),
}
"""Of each data set: what all models have alike, and more settings of ours."""

PAPER = ("model.width=64", "model.length=50")
"""What `paper` has of its own on every data set: the sizes that are published."""

PARTS: dict[str, tuple[str, ...]] = {
    "neighbours": ("model.neighbours=0",),
    "content initialisation": ("model.content_init=false",),
    "hidden ids": ("model.id_dropout=0",),
    "item weights": ("model.item_weights=false",),
    "repeat bias": ("model.repeats=false",),
    "time": ("model.time_gaps=false",),
    "distance bias": ("model.relative_positions=false",),
}
"""Part of `cammsr` to the settings that take it away."""

PAPER_PARTS: dict[str, tuple[str, ...]] = {
    "experts": ("model.experts=0",),
    "attentive router": ("model.router=linear",),
    "synergy of streams": ("model.expert_inputs=own",),
    "guidance": ("model.guidance=equal", "training.category_weight=0"),
    "DyT (LayerNorm)": ("model.input_norm=layernorm",),
    "swap": ("training.swap_weight=0",),
}
"""Part of `paper` to the settings that take it away: its published ablations."""

ADDED: dict[str, tuple[str, ...]] = {
    "experts": ("model.experts=4",),
    "DyT": ("model.input_norm=dyt",),
    "swap": ("training.swap_weight=0.25",),
    "each stream a branch": ("model.fused=false",),
    "one loss of the summed score": ("training.branch_share=0",),
}
"""What `cammsr` could have beside what it has."""

PRESETS = ("sasrec", "paper", "cammsr")
"""Ours; the name of each of our rows begins with one."""

PEERS = {
    "RecTools SASRec": ("rectools", "SASRec", 128),
    "RecBole SASRec": ("recbole", "SASRec", 2048),
    "RecBole GRU4Rec": ("recbole", "GRU4Rec", 2048),
}
"""Name of a peer to its library, model, and the library's own batch size."""


@dataclass(frozen=True)
class Outcome:
    """What one model gave with one seed.

    Attributes:
        rank: Rank of each user's item: "validation", "test" and "test, seen kept"; each [U].
        seconds: Wall time of training, validation counted.
        epochs: How many it took.
    """

    rank: dict[str, Ranks]
    seconds: float = 0.0
    epochs: int = 0

    def save(self, file: Path) -> None:
        """Write it, whole or not at all."""
        meta = json.dumps({"seconds": self.seconds, "epochs": self.epochs})
        arrays: dict[str, Any] = {"meta": np.array(meta), **self.rank}
        with written_whole(file) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)

    @staticmethod
    def load(file: Path) -> Outcome:
        """Read what `save` wrote."""
        with np.load(file) as content:
            rank = {name: content[name] for name in content.files if name != "meta"}
            return Outcome(rank, **json.loads(str(content["meta"])))


@dataclass(frozen=True)
class Row:
    """One line of a table: means over users and, where there are several, over seeds.

    Attributes:
        name: The model, for people.
        seeds: How many trainings.
        validation: NDCG@10.
        test: Metric to (mean, low, high), seen items excluded; the interval is over users.
        kept: Metric to mean, seen items kept in the ranking.
        over: Reference to (mean, low, high) of the difference in NDCG@10 to it, paired by user.
        spread: Standard deviation of test NDCG@10 over seeds; None of one.
        seconds: Mean wall time of a training.
        epochs: Mean epochs.
    """

    name: str
    seeds: int
    validation: float
    test: dict[str, tuple[float, float, float]]
    kept: dict[str, float]
    over: dict[str, tuple[float, float, float]]
    spread: float | None
    seconds: float
    epochs: float


def fully_trained(
    preset: str, name: str, data: Prepared, out: Path, *assignments: str, seed: int = 0
) -> list[dict[str, Any]]:
    """Train a preset of ours with a data set's settings and the budget of all models.

    Returns:
        The lines of metrics.jsonl.
    """
    size, settings = SETTINGS[name]
    budget = (f"training.epochs={EPOCHS}", f"training.patience={PATIENCE}")
    size = replace(size, seed=seed)
    return trained_by_us(preset, data, out, size, *settings, *budget, *assignments)


def ours(preset: str, *assignments: str) -> Callable[[str, Prepared, Path, int], Outcome]:
    """Trains a preset with some settings; see `models`."""

    def train(name: str, data: Prepared, out: Path, seed: int) -> Outcome:
        lines = fully_trained(preset, name, data, out, *assignments, seed=seed)
        loaded = load_run(RunFolder(out), None, resolve_device("auto"))
        rank = {
            f"{part}{', seen kept' * kept}": ranks_of(
                loaded, evaluation_cases(loaded.data, at), exclude_seen=not kept
            )
            for part, at, kept in (
                ("validation", VALIDATION, False),
                ("test", TEST, False),
                ("test", TEST, True),
            )
        }
        return Outcome(rank, sum(line["seconds"] for line in lines), len(lines))

    return train


def peer(library: str, model: str, batch: int, environments: Path) -> Any:
    """Trains a peer, stopped as ours are; see `models`."""

    def train(name: str, data: Prepared, out: Path, seed: int) -> Outcome:
        size = replace(SETTINGS[name][0], seed=seed)
        limits = ["--epochs", str(EPOCHS), "--patience", str(PATIENCE), "--validate"]
        if library == "recbole":
            limits += ["--model", model]
        result = train_peer(
            library, environments, data, out, size, "--batch-size", str(batch), *limits
        )
        epochs = range(1, len(result["epochs"]) + 1)
        validated = [np.load(ranks_file(out, epoch)) for epoch in epochs]
        rank = {
            "validation": max(validated, key=ndcg),
            "test": np.load(test_ranks_file(out, "excluded")),
            "test, seen kept": np.load(test_ranks_file(out, "kept")),
        }
        return Outcome(rank, result["epochs"][-1]["elapsed"], len(result["epochs"]))

    return train


def untrained(score_of: Callable[[peer_split.Split], Sequence[Score]]) -> Any:
    """The best of some scores that need no training, chosen on validation; see `models`."""

    def rank(name: str, data: Prepared, out: Path, seed: int) -> Outcome:
        split = peer_split.load(data.split)
        scores = score_of(split)
        found = [target_ranks(split, VALIDATION, score) for score in scores]
        best = max(range(len(scores)), key=lambda at: ndcg(found[at]))
        return Outcome(
            {
                "validation": found[best],
                "test": target_ranks(split, TEST, scores[best]),
                "test, seen kept": target_ranks(split, TEST, scores[best], exclude_seen=False),
            }
        )

    return rank


def models(name: str, environments: Path) -> dict[str, Any]:
    """Row to the function that gives its `Outcome`, of a data set, its files, a folder, a seed."""
    rows: dict[str, Any] = {
        "popularity": untrained(lambda split: [popularity(split)]),
        "item-kNN": untrained(lambda split: [item_knn(split, k) for k in NEIGHBOURS]),
    }
    rows |= {title: peer(*which, environments) for title, which in PEERS.items()}
    rows |= {preset: ours(preset, *(PAPER if preset == "paper" else ())) for preset in PRESETS}
    rows |= {f"cammsr without {part}": ours("cammsr", *off) for part, off in PARTS.items()}
    rows |= {f"cammsr with {part}": ours("cammsr", *on) for part, on in ADDED.items()}
    rows |= {
        f"paper without {part}": ours("paper", *PAPER, *off) for part, off in PAPER_PARTS.items()
    }
    rows["sasrec with repeat bias"] = ours("sasrec", "model.repeats=true")
    modalities = (*ENCODERS[name], *FEATURES.get(name, ()))
    for left_out in modalities:
        others = [one for one in modalities if one != left_out]
        if others:
            rows[f"cammsr without {left_out}"] = ours(
                "cammsr", f"model.modalities=[{','.join(others)}]"
            )
    rows["cammsr without any content"] = ours("cammsr", "model.modalities=[]")
    return rows


def row_of(name: str, found: Sequence[Outcome], references: Mapping[str, Sequence[Outcome]]) -> Row:
    """A line of the table from the outcomes of all seeds."""
    metrics = [(metric, k) for metric in METRICS for k in CUTOFFS]
    each_USM = {
        part: np.stack(
            [
                np.stack([per_user(one.rank[part], metric, k) for metric, k in metrics], axis=1)
                for one in found
            ],
            axis=1,
        )
        for part in ("test", "test, seen kept")
    }
    test_UM, kept_UM = (values.mean(1) for values in each_USM.values())
    low, high = bootstrap_interval(test_UM)
    names = [f"{metric}@{k}" for metric, k in metrics]
    seeds_S = each_USM["test"][:, :, names.index("NDCG@10")].mean(0)
    return Row(
        name=name,
        seeds=len(found),
        validation=float(np.mean([ndcg(one.rank["validation"]) for one in found])),
        test={
            one: (float(test_UM[:, at].mean()), float(low[at]), float(high[at]))
            for at, one in enumerate(names)
        },
        kept={one: float(kept_UM[:, at].mean()) for at, one in enumerate(names)},
        over={other: _difference(found, theirs) for other, theirs in references.items()},
        spread=float(seeds_S.std(ddof=1)) if len(found) > 1 else None,
        seconds=float(np.mean([one.seconds for one in found])),
        epochs=float(np.mean([one.epochs for one in found])),
    )


def _difference(found: Sequence[Outcome], theirs: Sequence[Outcome]) -> tuple[float, float, float]:
    """Mean difference of test NDCG@10 and its paired bootstrap interval over users."""
    own_U, other_U = (
        np.mean([per_user(one.rank["test"], "NDCG", 10) for one in group], axis=0)
        for group in (found, theirs)
    )
    low, high = bootstrap_interval((own_U - other_U)[:, None])
    return float((own_U - other_U).mean()), float(low[0]), float(high[0])


def ndcg(rank: Ranks) -> float:
    """Mean NDCG@10 over users."""
    return float(per_user(rank, "NDCG", 10).mean())


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    references = list(dict.fromkeys(reference for row in rows for reference in row.over))
    heads = ["seeds", "validation NDCG@10", *SHOWN, *(f"{metric}, seen kept" for metric in KEPT)]
    heads += [*(f"− {one}" for one in references), "min"]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for row in rows:
        cells = [f"{row.test[metric][0]:.4f}" for metric in SHOWN]
        cells[SHOWN.index("NDCG@10")] += " [{1:.4f}, {2:.4f}]".format(*row.test["NDCG@10"])
        over = [
            "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row.over[one]) if one in row.over else ""
            for one in references
        ]
        minutes = f"{row.seconds / 60:.0f}" if row.seconds else "–"
        cells += [*(f"{row.kept[metric]:.4f}" for metric in KEPT), *over, minutes]
        lines.append(f"| {row.name} | {row.seeds} | {row.validation:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of(outcomes: dict[str, list[Outcome]]) -> list[Row]:
    """All lines of a data set, each beside `sasrec` and the peer that is best on validation.

    `cammsr` or `paper` with a part taken away, or added, stands beside that, too.
    """
    peers = [name for name in PEERS if name in outcomes]
    best = max(peers, key=lambda n: ndcg(outcomes[n][0].rank["validation"]), default=None)
    rows = []
    for name, found in outcomes.items():
        references = dict.fromkeys(["sasrec", best, name.partition(" with")[0]])
        others = {
            other: outcomes[other] for other in references if other in outcomes and other != name
        }
        rows.append(row_of(name, found, others))
    return rows


def collected(name: str, work: Path, environments: Path) -> dict[str, list[Outcome]]:
    """Every outcome of a data set that is there, by row, in the order of `models`."""
    found = {}
    for title in models(name, environments):
        files = sorted(work.glob(f"{name}/{slug(title)}-[0-9]*.npz"))
        if files:
            found[title] = [Outcome.load(file) for file in files]
    return found


def beside_earlier(
    rows: Sequence[Row], earlier: Sequence[Mapping[str, Any]], order: Sequence[str]
) -> list[Row]:
    """The rows, and of the `earlier` ones, as JSON has them, those that are not among them.

    Their differences stay those to the references of their own time.
    """
    named = {row["name"]: Row(**row) for row in earlier} | {row.name: row for row in rows}
    return [named[name] for name in order if name in named]


def slug(title: str) -> str:
    """A row's name as that of a file.

    >>> slug("cammsr without DyT (LayerNorm)")
    'cammsr-without-dyt-layernorm'
    """
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def rendered(page: str, name: str, text: str) -> str:
    """The page with what stands between a data set's marks replaced.

    Raises:
        SystemExit: The page has no such marks.
    """
    begin, end = f"<!-- accuracy {name} -->", f"<!-- end accuracy {name} -->"
    if begin not in page or end not in page:
        sys.exit(f"the page has no marks {begin} and {end}")
    before, rest = page.split(begin, 1)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}"


def plot(figures: Mapping[str, Any], file: Path) -> None:
    """NDCG@10 of the models in their full form, with intervals, a group of bars a data set."""
    from matplotlib.figure import Figure

    names = [name for name in SETTINGS if name in figures]
    rows = {
        name: {row["name"]: row["test"]["NDCG@10"] for row in figures[name]["rows"]}
        for name in names
    }
    titles = [
        title
        for title in ("popularity", "item-kNN", *PEERS, *PRESETS)
        if any(title in rows[name] for name in names)
    ]
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(titles)
    for at, title in enumerate(titles):
        there = [
            (place, rows[name][title]) for place, name in enumerate(names) if title in rows[name]
        ]
        means = [mean for _, (mean, _, _) in there]
        reach = [
            [mean - low for _, (mean, low, _) in there],
            [high - mean for _, (mean, _, high) in there],
        ]
        places = [place + (at - (len(titles) - 1) / 2) * width for place, _ in there]
        axes.bar(
            places, means, width, yerr=reach, label=title, color=f"C{at}", ecolor="0.3", capsize=2
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("NDCG@10")
    figure.legend(frameon=False, loc="outside right upper")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Train, rank, print; or write the tables into a page."""
    parser = parser_of(__doc__, list(SETTINGS))
    parser.add_argument("--envs", type=absolute, help="the peers' environments [WORK/envs]")
    parser.add_argument("--only", type=lambda one: one.split(","), default=[], help="rows")
    parser.add_argument(
        "--seeds", type=lambda one: [int(seed) for seed in one.split(",")], default=[0, 1, 2]
    )
    parser.add_argument("--render", type=Path, help="page whose tables are to be replaced")
    parser.add_argument("--plot", type=Path, help="SVG to draw")
    options = parser.parse_args()
    environments = options.envs or options.work / "envs"
    as_json = options.render.with_name("accuracy.json") if options.render else None
    # Figures of data sets that are not asked for stay as they are.
    figures: dict[str, Any] = (
        json.loads(as_json.read_text(encoding="utf-8")) if as_json and as_json.is_file() else {}
    )
    figures["machine"] = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    for name in options.sets:
        size, settings = SETTINGS[name]
        rows = models(name, environments)
        if unknown := set(options.only) - set(rows):
            sys.exit(f"no row {', '.join(sorted(unknown))}; there are: {', '.join(rows)}")
        folder = options.work / name
        folder.mkdir(parents=True, exist_ok=True)
        for title, give in rows.items():
            if options.render or (options.only and title not in options.only):
                continue
            # Peers and what needs no training are not ours to repeat: one seed.
            seeds = options.seeds if title.startswith(PRESETS) else options.seeds[:1]
            for seed in seeds:
                file = folder / f"{slug(title)}-{seed}.npz"
                if not file.is_file():
                    data = prepared(name, options.data, options.work)
                    give(name, data, file.with_suffix(""), seed).save(file)
                    print(f"{name}: {title}, seed {seed}", file=sys.stderr)
        # All that is there, so that the rows asked for have their differences to others.
        found = [
            row
            for row in rows_of(collected(name, options.work, environments))
            if not options.only or row.name in options.only
        ]
        if not found:
            continue
        if options.render and name in figures:
            found = beside_earlier(found, figures[name]["rows"], list(rows))
        text = table(found)
        print(f"\n{name}: {size} {' '.join(settings)}\n\n{text}")
        figures[name] = {"size": asdict(size), "rows": [asdict(row) for row in found]}
        if options.render:
            page = rendered(options.render.read_text(encoding="utf-8"), name, text)
            options.render.write_text(page, encoding="utf-8")
    if options.plot:
        plot(figures, options.plot)
    if as_json:
        as_json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
