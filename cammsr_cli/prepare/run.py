"""From raw files to a data set: what `cammsr prepare` does."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from cammsr_encoders.protocol import MODALITY_NAME, Encoder
from numpy.typing import NDArray

from cammsr_cli.data.corpus import Corpus, SourceOptions, read_corpus
from cammsr_cli.data.dataset import DataSet, ModalityInfo
from cammsr_cli.data.dataset_write import ModalityVectors, Part, require_replaceable, write_dataset
from cammsr_cli.data.readers.holders import holder_of
from cammsr_cli.encoding.encode import (
    FeatureOptions,
    Features,
    Problem,
    ProgressBar,
    encode_items,
    plan_items,
)
from cammsr_cli.encoding.engine import Encoding, Engine, full_fingerprint, told
from cammsr_cli.encoding.processes import on_devices
from cammsr_cli.encoding.vectors import read_vectors
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.files import written_whole
from cammsr_cli.locks import only_writer
from cammsr_cli.media.download import DownloadOptions, Downloads
from cammsr_cli.plugins.registry import EncoderSpec, make_encoder
from cammsr_cli.prepare.changes import Changes, changes_since
from cammsr_cli.prepare.look import Look, look_at
from cammsr_cli.prepare.web_media import DownloadReport, WebMedia

if TYPE_CHECKING:
    from cammsr_cli.distributed import World

HISTORY_TO_TRAIN_ON = 4
"""Events of one user at least: two to learn from, one to validate, one to test."""

ID = "id"
"""The stream that is no modality: an item's own embedding."""


@dataclass(frozen=True)
class PrepareOptions:
    """Everything `prepare` is told.

    Attributes:
        source: How to read the raw files.
        out: The data set to write.
        encoders: Encoders to run, in order.
        vectors: Modality to a file of ready-made vectors.
        media_root: Folder that media paths are relative to.
        features: How encoders are run.
        download: How media that are named by URL are had; None uses only what is in the cache.
        device: Where encoders run, resolved; several, separated by commas, share the work.
        precision: "float32" or "bfloat16".
        engine: "local" for this machine, "ray" for the nodes of a Ray cluster.
        strict: Whether an item that cannot be encoded stops everything.
        force: Whether `out` may be replaced.
    """

    source: SourceOptions
    out: Path
    encoders: Sequence[EncoderSpec] = ()
    vectors: Mapping[str, Path] = field(default_factory=dict)
    media_root: Path | None = None
    features: FeatureOptions = field(default_factory=FeatureOptions)
    download: DownloadOptions | None = field(default_factory=DownloadOptions)
    device: str = "cpu"
    precision: str = "float32"
    engine: Literal["local", "ray"] = "local"
    strict: bool = False
    force: bool = False


@dataclass(frozen=True)
class ModalityReport:
    """What became, or would become, of one modality.

    Attributes:
        made_by: The encoder as it was asked for, or the file of ready-made vectors.
        present: Items that have it.
        missing: Items that do not, for whatever reason; those of other parts are not counted.
        problems: Items that should have it and do not: file missing, refused or unreadable.
        encoded: Distinct inputs encoded now.
        cached: Distinct inputs known from earlier runs.
        dim: Length of a vector; None in a dry run if no earlier run tells.
        changes: Since the data set that is replaced; None if there is none, or it does not tell.
        look: What the vectors tell of their encoder; None if no item has any, and in a dry run that
            would have to make them.
    """

    made_by: str
    present: int
    missing: int
    problems: int
    encoded: int
    cached: int
    dim: int | None
    changes: Changes | None = None
    look: Look | None = None


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did, or in a dry run would do.

    Attributes:
        out: The data set.
        users: Number of users.
        items: Number of items.
        events: Number of events.
        categories: Number of categories.
        trainable: Whether any user has events enough to train on.
        columns: By file, "interactions" and "items", the column that each field was read from.
        decisions: How the raw files were read: what was decided, and how.
        modalities: By name.
        downloads: Media named by URL; None if there are none.
        notes: Counts for people.
        problems_file: Where the items that could not be encoded are listed, if there are any.
        bytes: Size of the data set; in a dry run that of its arrays, None if a `dim` is not known.
    """

    out: str
    users: int
    items: int
    events: int
    categories: int
    trainable: bool
    columns: dict[str, dict[str, str]]
    decisions: list[tuple[str, str]]
    modalities: dict[str, ModalityReport]
    downloads: DownloadReport | None
    notes: list[str]
    problems_file: str | None
    bytes: int | None


def prepare(
    options: PrepareOptions, progress_bar: ProgressBar, world: World | None = None
) -> PrepareReport:
    """Read raw files, encode them, and write the data set, whole or not at all.

    Args:
        options: What to do.
        progress_bar: Opens a progress bar.
        world: The processes that make one part each, all with this call; the first downloads.

    Raises:
        UsageError: The options do not fit together or do not fit the files.
        CammsrError: A file cannot be read, weights cannot be had, or, if strict, an item cannot
            be encoded; or another process is writing the same data set.
    """
    require_writable(options)
    with only_writer(options.out):
        require_writable(options)  # what another run wrote meanwhile is not overwritten
        return _prepare(options, progress_bar, world)


def _prepare(
    options: PrepareOptions, progress_bar: ProgressBar, world: World | None
) -> PrepareReport:
    encoders = _make_encoders(options)
    corpus = read_corpus(options.source)
    # Before the long work: what is wrong with them is told at once.
    ready_made = {
        modality: (str(path), _ready_made(path, corpus, modality, options))
        for modality, path in options.vectors.items()
    }
    media = WebMedia.of(corpus.fields, [encoder for _, encoder in encoders])
    downloads = _had(media, options, progress_bar, world)
    before = _Before(options)
    running = replace(options.features, find_url=downloads.find, scratch_dir=options.out.parent)
    made: dict[str, tuple[str, Features]] = {}
    for spec, encoder in encoders:
        with progress_bar(encoder.modality) as progress:
            features = encode_items(
                encoder,
                _Records(corpus, encoder.fields),
                corpus.item_ids,
                options.media_root,
                running,
                progress,
                spec.name,
                partial(_engine, options, spec, encoder),
            )
        made[encoder.modality] = str(spec), features
    made |= ready_made
    problems = _in_order(
        [problem for _, features in made.values() for problem in features.problems], corpus
    )
    if problems and options.strict:
        raise CammsrError(
            f"{len(problems):,} item(s) could not be encoded and --strict is on, so "
            f"{options.out} was not written; they are listed in "
            f"{write_problems(options.out, problems)}",
            f"The first: item {problems[0].item_id}, {problems[0].modality} "
            f"{problems[0].path or ''}: {problems[0].reason}",
        )
    changes = {
        name: before.changes(name, corpus.item_ids, f.inputs, f.fingerprint)
        for name, (_, f) in made.items()
    }
    write_dataset(
        options.out,
        corpus,
        {name: _stored(f) for name, (_, f) in made.items()},
        _part(options, problems),
    )
    problems_file = write_problems(options.out, problems)
    return PrepareReport(
        out=str(options.out),
        **_told_of(corpus),
        modalities={
            name: _report(by, f, changes[name], _look(f, corpus)) for name, (by, f) in made.items()
        },
        downloads=media.report(downloads),
        notes=[
            *corpus.notes,
            *media.notes(downloads, options.download),
            *before.notes,
            *(f"{name}: {note}" for name, (_, f) in made.items() for note in f.notes),
            *_warnings(options, {name: int(f.present.sum()) for name, (_, f) in made.items()}),
        ],
        problems_file=None if problems_file is None else str(problems_file),
        bytes=options.out.stat().st_size,
    )


def plan(options: PrepareOptions) -> PrepareReport:
    """What `prepare` would do: reads the raw files and looks for media, encodes nothing.

    Raises:
        UsageError: As `prepare`.
        CammsrError: As `prepare`.
    """
    require_writable(options)
    encoders = _make_encoders(options)
    corpus = read_corpus(options.source)
    before, notes = _Before(options), []
    items = len(corpus.item_ids)
    media = WebMedia.of(corpus.fields, [encoder for _, encoder in encoders])
    downloads = media.looked_up(options.download, options.features.cache_dir)
    feature_options = replace(options.features, find_url=downloads.find)
    reports = {}
    size: int | None = corpus.event_item.nbytes + corpus.event_time.nbytes
    for spec, encoder in encoders:
        planned = plan_items(
            encoder,
            _Records(corpus, encoder.fields),
            corpus.item_ids,
            options.media_root,
            feature_options,
            spec.name,
        )
        reports[encoder.modality] = ModalityReport(
            made_by=str(spec),
            present=planned.items,
            missing=items - planned.items - planned.elsewhere,
            problems=len(planned.problems),
            encoded=planned.to_encode,
            cached=planned.cached,
            dim=planned.dim,
            changes=before.changes(
                encoder.modality, corpus.item_ids, planned.inputs, planned.fingerprint
            ),
        )
        if size is not None:
            itemsize = np.dtype(options.features.dtype).itemsize
            size = None if planned.dim is None else size + items * planned.dim * itemsize
    for modality, path in options.vectors.items():
        vectors = _ready_made(path, corpus, modality, options)
        notes += [f"{modality}: {note}" for note in vectors.notes]
        reports[modality] = _report(str(path), vectors, look=_look(vectors, corpus))
        if size is not None:
            size += vectors.values.dtype.itemsize * int(np.prod(vectors.values.shape))
    return PrepareReport(
        out=str(options.out),
        **_told_of(corpus),
        modalities=reports,
        downloads=media.report(downloads),
        notes=[
            *corpus.notes,
            *media.notes(downloads, options.download),
            *before.notes,
            *notes,
            *_warnings(options, {name: one.present for name, one in reports.items()}),
        ],
        problems_file=None,
        bytes=size,
    )


def _warnings(options: PrepareOptions, present: Mapping[str, int]) -> list[str]:
    """What is allowed but hardly meant."""
    whole = options.features.shard.count == 1  # of a part, nothing can be said
    warnings = [
        f"no item has the modality {name}" for name, items in present.items() if whole and not items
    ]
    if not options.encoders and not options.vectors:
        warnings.append(
            "no encoder is given, so items are known by their ids alone; "
            "for more: --encoder text --encoder image --encoder video"
        )
    return warnings


def require_writable(options: PrepareOptions) -> None:
    """Refuse what would overwrite, or cannot be written, or has nothing to be made of.

    Raises:
        UsageError: Saying which path it is.
    """
    for source in (options.source.interactions, options.source.items):
        if source is not None and not (source.exists() or holder_of(source)):
            raise UsageError(f"{source}: no such file or folder", "Check the path.")
    require_replaceable(options.out, options.force)
    if options.media_root is not None and not options.media_root.is_dir():
        raise UsageError(f"--media-root {options.media_root} is not a folder")


def _require_name(modality: str, whose: str) -> None:
    """A modality's name is that of a stream of the model and of a group in the data set."""
    if not MODALITY_NAME.fullmatch(modality) or modality == ID:
        raise UsageError(
            f"{whose}: a modality cannot be called '{modality}'",
            "Use lower-case letters, digits and _, beginning with a letter; 'id' is taken",
        )


def _make_encoders(options: PrepareOptions) -> list[tuple[EncoderSpec, Encoder]]:
    for modality, path in options.vectors.items():
        _require_name(modality, f"--features {modality}={path}")
    encoders: list[tuple[EncoderSpec, Encoder]] = []
    taken = dict.fromkeys(options.vectors, "ready-made vectors")
    for spec in options.encoders:
        encoder = make_encoder(spec, _own_device(options), options.precision)
        with told(spec.name):
            # Weights that cannot be had, too, are told before the long work.
            full_fingerprint(encoder, spec.name)
        if encoder.modality in taken:
            raise UsageError(
                f"two sources for the modality '{encoder.modality}': {taken[encoder.modality]} "
                f"and encoder {spec}",
                "Leave one out",
            )
        taken[encoder.modality] = f"encoder {spec}"
        encoders.append((spec, encoder))
    return encoders


def _ready_made(path: Path, corpus: Corpus, modality: str, options: PrepareOptions) -> Features:
    return read_vectors(
        path,
        corpus.item_ids,
        corpus.item_rows,
        modality,
        dtype=options.features.dtype,
        row_count=corpus.listed_rows,
        scratch_dir=options.out.parent if options.out.parent.is_dir() else None,
        reading=options.source.reading,
    )


class _Records(Sequence[Mapping[str, str]]):
    """Each item's values of the fields an encoder reads, made as they are asked for."""

    def __init__(self, corpus: Corpus, names: Sequence[str]) -> None:
        self._columns = {name: corpus.fields[name] for name in names if name in corpus.fields}
        self._count = len(corpus.item_ids)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, row: int) -> dict[str, str]: ...
    @overload
    def __getitem__(self, row: slice) -> list[dict[str, str]]: ...
    def __getitem__(self, row: int | slice) -> dict[str, str] | list[dict[str, str]]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(self._count))]
        if not 0 <= row < self._count:
            raise IndexError(row)
        return {name: value for name, values in self._columns.items() if (value := values[row])}


# --- encoding and writing -----------------------------------------------------------------------


def _had(
    media: WebMedia, options: PrepareOptions, progress_bar: ProgressBar, world: World | None
) -> Downloads:
    """What became of media named by URL; of several processes the first downloads for all."""
    if world is not None and not world.leads:
        world.wait()
    downloads = media.had(options.download, options.features.cache_dir, progress_bar)
    if world is not None and world.leads:
        world.wait()
    return downloads


def _engine(
    options: PrepareOptions, spec: EncoderSpec, encoder: Encoder, encoding: Encoding
) -> Engine:
    """What runs an encoder: this process, one a device, or the nodes of a Ray cluster."""
    make = partial(make_encoder, spec, precision=options.precision)
    if options.engine == "ray":
        from cammsr_cli.encoding.ray_cluster import on_cluster

        return on_cluster(make, options.device, encoding)
    devices = options.device.split(",")
    if len(devices) > 1:
        return on_devices(make, devices, encoding)
    return encoding.here(encoder)


def _own_device(options: PrepareOptions) -> str:
    """Where this process has its encoder: on no GPU where others do the work."""
    return "cpu" if options.engine == "ray" or "," in options.device else options.device


class _Before:
    """The data set that is to be replaced, if there is one and it can be read.

    Attributes:
        notes: What is to be said of it.
    """

    def __init__(self, options: PrepareOptions) -> None:
        self.notes: list[str] = []
        self._data: DataSet | None = None
        if options.out.exists() and options.features.shard.count == 1:
            with self._told():
                self._data = DataSet(options.out)

    def changes(
        self,
        modality: str,
        item_ids: Sequence[str],
        inputs: NDArray[np.uint8] | None,
        fingerprint: str,
    ) -> Changes | None:
        """What has changed since; None if that cannot be told."""
        with self._told():
            return changes_since(self._data, modality, item_ids, inputs, fingerprint)
        return None

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Damage is no reason not to make it again."""
        try:
            yield
        except CammsrError as error:
            self._data = None
            self.notes.append(f"what has changed cannot be told: {error.message}")


def _part(options: PrepareOptions, problems: Sequence[Problem]) -> Part | None:
    shard = options.features.shard
    if shard.count == 1:
        return None
    return Part(str(shard), [(p.item_id, p.modality, p.path, p.reason) for p in problems])


def _in_order(problems: Sequence[Problem], corpus: Corpus) -> list[Problem]:
    """Problems in the catalogue's order, however the work was shared."""
    named = {problem.item_id for problem in problems}
    place = {item: row for row, item in enumerate(corpus.item_ids) if item in named}
    return sorted(problems, key=lambda problem: (place[problem.item_id], problem.modality))


def write_problems(out: Path, problems: Sequence[Problem]) -> Path | None:
    """List the items that could not be encoded beside the data set; drop an older list.

    Returns:
        Where they are listed; None if there are none.
    """
    path = out.with_name(f"{out.name}.problems.csv")
    if not problems:
        path.unlink(missing_ok=True)
        return None
    with (
        written_whole(path) as partial,
        # A reason may hold half an emoji: whatever a stranger's encoder says of an item.
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(["item", "modality", "path", "reason"])
        writer.writerows([p.item_id, p.modality, p.path or "", p.reason] for p in problems)
    return path


def _stored(features: Features) -> ModalityVectors:
    info = ModalityInfo(
        dim=int(features.values.shape[1]),
        encoder=features.encoder,
        fingerprint=features.fingerprint,
        fields=features.fields,
    )
    return ModalityVectors(features.values, features.present, info, features.inputs)


def _look(features: Features, corpus: Corpus) -> Look | None:
    return look_at(features.values, features.present, corpus.category_indptr, corpus.category_index)


def _report(
    made_by: str, features: Features, changes: Changes | None = None, look: Look | None = None
) -> ModalityReport:
    present = int(features.present.sum())
    return ModalityReport(
        made_by=made_by,
        present=present,
        missing=len(features.present) - present - features.elsewhere,
        problems=len(features.problems),
        encoded=features.encoded,
        cached=features.cached,
        dim=int(features.values.shape[1]),
        changes=changes,
        look=look,
    )


def _told_of(corpus: Corpus) -> dict[str, Any]:
    """What a report says of the corpus."""
    return {
        "users": len(corpus.user_ids),
        "items": len(corpus.item_ids),
        "events": len(corpus.event_item),
        "categories": len(corpus.category_names),
        "trainable": bool((np.diff(corpus.event_indptr) >= HISTORY_TO_TRAIN_ON).any()),
        "columns": {kind: dict(columns) for kind, columns in corpus.columns.items()},
        "decisions": list(corpus.decisions),
    }
