"""The four commands as functions, for notebooks and services.

    from cammsr_cli.api import prepare, train, evaluate, recommend, load

Each function does the same as the command of its name, and raises the same errors, `CammsrError`
and its subclass `UsageError`. Nothing is printed; pass `note=print` to see the messages that the
command writes to stderr.

The functions are not in `cammsr_cli` itself, because `cammsr_cli.prepare` is a package of the same
name: importing one of its modules would replace the function by the package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cammsr_cli.data.corpus import SourceOptions
from cammsr_cli.errors import CammsrError, UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import polars as pl

    from cammsr_cli.encoding.features import Progress
    from cammsr_cli.prepare.report import PrepareReport
    from cammsr_cli.ranking.api_model import Event, Model
    from cammsr_cli.ranking.evaluate import Evaluation
    from cammsr_cli.training.reports import EpochReport, Outcome
    from cammsr_cli.training.train import Listener

__all__ = [
    "CammsrError",
    "SourceOptions",
    "UsageError",
    "evaluate",
    "load",
    "prepare",
    "recommend",
    "train",
]

Note = Callable[[str], None]


def prepare(
    source: Path | str | SourceOptions,
    out: Path | str = "data.h5",
    *,
    encoders: Sequence[str] = (),
    vectors: Mapping[str, Path | str] | None = None,
    media_root: Path | str | None = None,
    download: bool = True,
    device: str = "auto",
    batch_size: int = 32,
    workers: int = 0,
    strict: bool = False,
    force: bool = False,
    progress: bool = False,
    note: Note | None = None,
) -> PrepareReport:
    """Turn raw files into one data set.

    >>> report = prepare("shop", "new.h5", encoders=["text"])
    >>> report.users, report.items, sorted(report.modalities)
    (30, 30, ['text'])

    Args:
        source: The interactions file or a folder, as for the command. `SourceOptions` has all
            options for reading: `SourceOptions(Path("shop"), k_core=5)`.
        out: The data set to write.
        encoders: Encoders to run, as for `--encoder`: "text", "image=,size=96".
        vectors: Modality to a file of precomputed vectors, as for `--features`.
        media_root: Folder that media paths are relative to; by default the folder of the items
            file.
        download: Whether images and videos with a URL are downloaded.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: Texts, images or frames per batch.
        workers: Number of processes that decode media. With 0, there is no time limit per file. A
            script that uses workers needs `if __name__ == "__main__":`.
        strict: Whether an item that cannot be encoded is an error.
        force: Whether `out` may be replaced.
        progress: Whether to draw progress bars if stderr is a terminal.
        note: Receives the messages that the command writes to stderr.

    Raises:
        UsageError: The options contradict each other, or do not fit the files.
        CammsrError: A file cannot be read, or weights are not available.
    """
    from cammsr_cli import console
    from cammsr_cli.cache_folder import cache_folder
    from cammsr_cli.devices import resolve_device
    from cammsr_cli.encoding.features import FeatureOptions
    from cammsr_cli.media.download import DownloadOptions
    from cammsr_cli.plugins.registry import EncoderSpec
    from cammsr_cli.prepare import run
    from cammsr_cli.prepare.options import PrepareOptions

    if not isinstance(source, SourceOptions):
        source = SourceOptions(Path(source), read_otherwise=_paths(vectors))
    named_in = source.items or source.interactions
    options = PrepareOptions(
        source=source,
        out=Path(out),
        encoders=[EncoderSpec.parse(text) for text in encoders],
        vectors={name: Path(file) for name, file in (vectors or {}).items()},
        media_root=_folder_of(named_in) if media_root is None else Path(media_root),
        features=FeatureOptions(batch_size=batch_size, workers=workers, cache_dir=cache_folder()),
        download=DownloadOptions() if download else None,
        device=str(resolve_device(device)),
        strict=strict,
        force=force,
    )
    report = run.prepare(options, console.progress_bar if progress else _no_bar)
    _note_all(note, report.notes)
    return report


def train(
    data: Path | str,
    out: Path | str = "run",
    *,
    preset: str = "cammsr",
    settings: Mapping[str, object] | None = None,
    config: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    on_epoch: Callable[[EpochReport], None] | None = None,
    note: Note | None = None,
) -> Outcome:
    """Train a model on a prepared data set.

    >>> outcome = train("shop.h5", "new-run", settings={"training.epochs": 1})
    >>> outcome.epochs, outcome.best_epoch
    (1, 1)

    Args:
        data: Data set made by `prepare`.
        out: Folder for the run.
        preset: Base settings: cammsr, paper or sasrec.
        settings: Name to value, as in `{"model.width": 128, "training.seed": 1}`.
        config: YAML file of settings.
        device: auto, cpu, cuda, cuda:N or mps.
        resume: Whether to resume from the last checkpoint in `out`, with the settings of that run.
        force: Whether the run in `out` may be replaced.
        on_epoch: Receives the metrics of each epoch, which are the lines of `metrics.jsonl`.
        note: Receives messages for the user.

    Raises:
        UsageError: A setting is wrong, or `out` is in use.
        CammsrError: The data set cannot be used.
    """
    from cammsr_cli.config import resolve
    from cammsr_cli.devices import resolve_device
    from cammsr_cli.distributed import joined
    from cammsr_cli.training import train as training

    if resume and (force or config or settings or preset != "cammsr"):
        raise UsageError(
            "resume goes on with the settings the run began with: "
            "leave out force, preset, config and settings"
        )
    written = [f"{name}={_as_yaml(value)}" for name, value in (settings or {}).items()]
    resolved = resolve(preset, None if config is None else Path(config), written)
    listener = _listener(on_epoch, note)
    with joined(resolve_device(device)) as world:
        if resume:
            return training.resume(Path(data), Path(out), world=world, listener=listener)
        return training.train(
            Path(data),
            Path(out),
            resolved,
            preset=preset,
            world=world,
            force=force,
            listener=listener,
        )


def evaluate(
    run: Path | str = "run",
    *,
    data: Path | str | None = None,
    split: Literal["test", "validation"] = "test",
    against: Sequence[Path | str] = (),
    details: bool = False,
    keep_seen: bool | None = None,
    new_share: float | None = None,
    seed: int = 0,
    device: str = "auto",
    note: Note | None = None,
) -> Evaluation:
    """Evaluate a run on held-out events, by ranking the whole catalogue.

    >>> evaluation = evaluate("run")
    >>> evaluation.users, 0 <= evaluation.model["NDCG@10"].mean <= 1
    (30, True)

    Args:
        run: A finished run.
        data: Data set, if not the one the run was trained on.
        split: Which held-out events to use.
        against: Other runs for a paired comparison, user by user.
        details: Whether to evaluate in detail: slices, lists, modalities, explanations.
        keep_seen: Whether items that a user already has stay in the ranking; if None, the training
            data decides.
        new_share: Share of the top ranks that new items get; by default their share of the
            catalogue.
        seed: Seed of the bootstrap.
        device: auto, cpu, cuda, cuda:N or mps.
        note: Receives messages for the user.

    Raises:
        UsageError: Two runs were trained on different data.
        CammsrError: A run or its data cannot be used.
    """
    from cammsr_cli.devices import resolve_device
    from cammsr_cli.ranking import evaluate as evaluating

    evaluation = evaluating.evaluate(
        Path(run),
        data=None if data is None else Path(data),
        device=resolve_device(device),
        split=split,
        exclude_seen=None if keep_seen is None else not keep_seen,
        against=[Path(other) for other in against],
        look_closer=details,
        new_share=new_share,
        seed=seed,
    )
    _note_all(note, evaluation.remarks)
    return evaluation


def load(
    run: Path | str = "run",
    *,
    data: Path | str | None = None,
    items: Sequence[str] | None = None,
    categories: Sequence[str] = (),
    exclude: Sequence[str] = (),
    per_category: int | None = None,
    as_of: int | None = None,
    keep_seen: bool | None = None,
    new_share: float | None = None,
    device: str = "cpu",
    note: Note | None = None,
) -> Model:
    """Load a trained run, to recommend many times.

    >>> model = load("run")
    >>> model.recommend(["user-0001"], k=3)["rank"].to_list()
    [1, 2, 3]
    >>> one = model.explain(histories={"visitor": ["item-0001", "item-0002"]}, k=1)[0]
    >>> round(sum(one.items[0].weights.values()), 3)
    1.0

    Args:
        run: A finished run.
        data: Data set, if not the one the run was trained on, for example a newer one.
        items: The only items that may be recommended; by default all items.
        categories: Recommend only items of these categories.
        exclude: Items that are not recommended, for example because they are sold out.
        per_category: Maximum number of items of one category in a list.
        as_of: Use the histories up to this time, in seconds since 1970.
        keep_seen: Whether items that a user already has may be recommended; if None, the training
            data decides.
        new_share: Share of the top ranks that new items get; by default their share of the
            catalogue.
        device: auto, cpu, cuda, cuda:N or mps.
        note: Receives messages for the user.

    Raises:
        CammsrError: The run or its data cannot be used, or nothing is left to recommend.
    """
    from cammsr_cli.devices import resolve_device
    from cammsr_cli.ranking.api_model import Model
    from cammsr_cli.ranking.item_filter import Choice
    from cammsr_cli.ranking.recommend import Recommender
    from cammsr_cli.runs.folder import RunFolder
    from cammsr_cli.runs.loading import load_run

    loaded = load_run(
        RunFolder(Path(run)), None if data is None else Path(data), resolve_device(device)
    )
    recommender = Recommender(
        loaded,
        new_share,
        None if keep_seen is None else not keep_seen,
        Choice(items, categories, exclude, per_category, as_of),
    )
    _note_all(note, loaded.remarks)
    if recommender.passed_over:
        _note_all(note, [f"not in {loaded.data.path}: {', '.join(recommender.passed_over)}"])
    return Model(recommender)


def recommend(
    run: Path | str = "run",
    users: Sequence[str] | None = None,
    *,
    histories: Mapping[str, Sequence[Event]] | None = None,
    k: int = 10,
    **how: Any,
) -> pl.DataFrame:
    """Recommend next items to users or visitors: `load(run, **how).recommend(users, ...)`.

    >>> recommend("run", ["user-0001", "user-0002"], k=2)["user"].to_list()
    ['user-0001', 'user-0001', 'user-0002', 'user-0002']

    Args:
        run: A finished run.
        users: Users of the data set.
        histories: Visitors, each with their history of items, oldest first.
        k: Maximum number of items per user or visitor.
        how: Arguments of `load`.

    Returns:
        One row per item: user, rank from 1, item, score, put_forward (a modality), weight_STREAM
        for each stream, and popular (true if nothing is known about the user).

    Raises:
        CammsrError: A user is unknown, or the run cannot be used.
    """
    return load(run, **how).recommend(users, histories=histories, k=k)


def _paths(vectors: Mapping[str, Path | str] | None) -> list[Path]:
    return [Path(file) for file in (vectors or {}).values()]


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _no_bar(_: str) -> AbstractContextManager[Progress]:
    return nullcontext(lambda _done, _total, _failed: None)


def _note_all(note: Note | None, lines: Sequence[str]) -> None:
    if note is not None:
        for line in lines:
            note(line)


def _as_yaml(value: object) -> str:
    import json

    return json.dumps(value)


def _listener(on_epoch: Callable[[EpochReport], None] | None, note: Note | None) -> Listener:
    from cammsr_cli.training.train import Listener

    return Listener(
        start=lambda _: None,
        epoch=on_epoch or (lambda _: None),
        step=lambda _: None,
        note=note or (lambda _: None),
    )
