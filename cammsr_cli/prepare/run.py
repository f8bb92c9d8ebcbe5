"""Turns raw files into a data set: the work of `cammsr prepare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from cammsr_encoders.protocol import MODALITY_NAME, Encoder

from cammsr_cli.data.corpus import Corpus, read_corpus
from cammsr_cli.data.dataset import ModalityInfo
from cammsr_cli.data.dataset_write import ModalityVectors, Part, write_dataset
from cammsr_cli.encoding.encode import Plan, plan_items
from cammsr_cli.encoding.engine import Encoding, Engine, encoder_faults, full_fingerprint
from cammsr_cli.encoding.features import Features, Problem, ProgressBar
from cammsr_cli.encoding.processes import on_devices
from cammsr_cli.encoding.vectors import read_vectors
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.locks import only_writer
from cammsr_cli.media.download import Downloads
from cammsr_cli.plugins.registry import EncoderSpec, make_encoder
from cammsr_cli.prepare.changes import Changes, Replaced
from cammsr_cli.prepare.options import PrepareOptions, require_writable
from cammsr_cli.prepare.problems import in_order, write_problems
from cammsr_cli.prepare.report import (
    ModalityReport,
    PrepareReport,
    about_corpus,
    about_features,
    about_plan,
    warnings,
)
from cammsr_cli.prepare.web_media import WebMedia

if TYPE_CHECKING:
    from cammsr_cli.distributed import World

MADE_BY = "made by"
"""The decision that is the command itself."""

ID = "id"
"""Name of the stream that is not a modality: the item's own embedding."""


def prepare(
    options: PrepareOptions, progress_bar: ProgressBar, world: World | None = None
) -> PrepareReport:
    """Read raw files, encode them, and write the data set, completely or not at all.

    Args:
        options: What to do.
        progress_bar: Opens a progress bar.
        world: The processes that make one part each; all make this call, and the first downloads.

    Raises:
        UsageError: The options contradict each other or do not fit the files.
        CammsrError: A file cannot be read, weights are not available, or, if strict, an item cannot
            be encoded; or another process is writing the same data set.
    """
    require_writable(options)
    with only_writer(options.out):
        require_writable(options)  # another run may have written it in the meantime
        raw = _Raw.read(options)
        downloads = _fetched(raw.media, options, progress_bar, world)
        made: dict[str, Features] = {}
        for spec, encoder in raw.encoders:
            with progress_bar(encoder.modality) as progress:
                plan = raw.plan(spec, encoder, downloads)
                made[encoder.modality] = plan.encode(
                    progress, partial(_engine, options, spec, encoder)
                )
        return _written(raw, {**made, **raw.vectors}, downloads)


def _written(raw: _Raw, made: Mapping[str, Features], downloads: Downloads) -> PrepareReport:
    """Write the data set, and a list of items that could not be encoded."""
    options, corpus = raw.options, raw.corpus
    problems = in_order([one for features in made.values() for one in features.problems], corpus)
    if problems and options.strict:
        raise CammsrError(
            f"{len(problems):,} item(s) could not be encoded and --strict is on, so "
            f"{options.out} was not written; they are listed in "
            f"{write_problems(options.out, problems)}",
            f"The first: item {problems[0].item_id}, {problems[0].modality} "
            f"{problems[0].path or ''}: {problems[0].reason}",
        )
    changes = {name: raw.changes(name, features) for name, features in made.items()}
    stored = {name: _stored(features) for name, features in made.items()}
    write_dataset(options.out, corpus, stored, _part(options, problems))
    problems_file = write_problems(options.out, problems)
    reports = {
        name: about_features(raw.made_by[name], features, corpus, changes[name])
        for name, features in made.items()
    }
    notes = [f"{name}: {note}" for name, features in made.items() for note in features.notes]
    size = options.out.stat().st_size
    return raw.report(reports, downloads, notes, size, problems_file)


def plan(options: PrepareOptions) -> PrepareReport:
    """Report what `prepare` would do: read the raw files and look for media, encode nothing.

    Raises:
        UsageError: As `prepare`.
        CammsrError: As `prepare`.
    """
    require_writable(options)
    raw = _Raw.read(options)
    downloads = raw.media.looked_up(options.download, options.features.cache_dir)
    reports: dict[str, ModalityReport] = {}
    for spec, encoder in raw.encoders:
        planned = raw.plan(spec, encoder, downloads)
        changes = raw.changes(encoder.modality, planned)
        reports[encoder.modality] = about_plan(str(spec), planned, changes)
    for name, features in raw.vectors.items():
        reports[name] = about_features(raw.made_by[name], features, raw.corpus)
    notes = [f"{name}: {note}" for name, one in raw.vectors.items() for note in one.notes]
    return raw.report(reports, downloads, notes, raw.size(reports))


@dataclass(frozen=True)
class _Raw:
    """All inputs, read before anything is encoded, so that their errors appear at once.

    Attributes:
        options: What to do.
        encoders: The encoders to run.
        corpus: Users, items and events.
        vectors: Modality to precomputed vectors.
        media: Media with a URL.
        replaced: The existing data set, if any.
    """

    options: PrepareOptions
    encoders: Sequence[tuple[EncoderSpec, Encoder]]
    corpus: Corpus
    vectors: Mapping[str, Features]
    media: WebMedia
    replaced: Replaced

    @classmethod
    def read(cls, options: PrepareOptions) -> _Raw:
        """Read all inputs."""
        encoders = _make_encoders(options)
        corpus = read_corpus(options.source)
        if options.command:
            corpus = replace(corpus, decisions=[(MADE_BY, options.command), *corpus.decisions])
        vectors = {
            modality: _ready_made(path, corpus, modality, options)
            for modality, path in options.vectors.items()
        }
        media = WebMedia.of(corpus.fields, [encoder for _, encoder in encoders])
        return cls(options, encoders, corpus, vectors, media, Replaced(options))

    @property
    def made_by(self) -> dict[str, str]:
        """Modality to the encoder as requested, or to the file of precomputed vectors."""
        encoders = {encoder.modality: str(spec) for spec, encoder in self.encoders}
        return encoders | {name: str(path) for name, path in self.options.vectors.items()}

    def plan(self, spec: EncoderSpec, encoder: Encoder, downloads: Downloads) -> Plan:
        """Plan what to encode of one modality."""
        options, corpus = self.options, self.corpus
        features = replace(
            options.features, find_url=downloads.find, scratch_dir=options.out.parent
        )
        records = _Records(corpus, encoder.fields)
        return plan_items(
            encoder, records, corpus.item_ids, options.media_root, features, spec.name
        )

    def changes(self, modality: str, now: Plan | Features) -> Changes | None:
        """Return what has changed since the data set that is replaced."""
        inputs = now.input_keys if isinstance(now, Plan) else now.inputs
        return self.replaced.changes(modality, self.corpus.item_ids, inputs, now.fingerprint)

    def size(self, reports: Mapping[str, ModalityReport]) -> int | None:
        """Return the bytes of the data set's arrays; None if the length of a vector is unknown."""
        corpus = self.corpus
        itemsize = np.dtype(self.options.features.dtype).itemsize
        total = corpus.event_item.nbytes + corpus.event_time.nbytes
        for one in reports.values():
            if one.dim is None:
                return None
            total += len(corpus.item_ids) * one.dim * itemsize
        return total

    def report(
        self,
        modalities: dict[str, ModalityReport],
        downloads: Downloads,
        notes: Sequence[str],
        size: int | None,
        problems_file: Path | None = None,
    ) -> PrepareReport:
        """Create the report."""
        return PrepareReport(
            out=str(self.options.out),
            **about_corpus(self.corpus),
            modalities=modalities,
            downloads=self.media.report(downloads),
            notes=[
                *self.corpus.notes,
                *self.media.notes(downloads, self.options.download),
                *self.replaced.notes,
                *notes,
                *warnings(self.options, modalities),
            ],
            problems_file=None if problems_file is None else str(problems_file),
            bytes=size,
        )


def _require_name(modality: str, whose: str) -> None:
    """Check a modality's name, which names a stream of the model and a group of the data set."""
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
        with encoder_faults(spec.name):
            # This reports missing weights before the long work starts.
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
    """The values of an encoder's fields for each item, created on access."""

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


def _fetched(
    media: WebMedia, options: PrepareOptions, progress_bar: ProgressBar, world: World | None
) -> Downloads:
    """Download media with a URL; the first of several processes downloads for all."""
    if world is not None and not world.leads:
        world.wait()
    downloads = media.fetched(options.download, options.features.cache_dir, progress_bar)
    if world is not None and world.leads:
        world.wait()
    return downloads


def _engine(
    options: PrepareOptions, spec: EncoderSpec, encoder: Encoder, encoding: Encoding
) -> Engine:
    """Return the engine: this process, one process per device, or the nodes of a Ray cluster."""
    make = partial(make_encoder, spec, precision=options.precision)
    if options.engine == "ray":
        from cammsr_cli.encoding.ray_cluster import on_cluster

        return on_cluster(make, options.device, encoding)
    devices = options.device.split(",")
    if len(devices) > 1:
        return on_devices(make, devices, encoding)
    return encoding.here(encoder)


def _own_device(options: PrepareOptions) -> str:
    """Return the device of this process's encoder: the CPU if other processes do the work."""
    return "cpu" if options.engine == "ray" or "," in options.device else options.device


def _part(options: PrepareOptions, problems: Sequence[Problem]) -> Part | None:
    shard = options.features.shard
    if shard.count == 1:
        return None
    return Part(str(shard), [(p.item_id, p.modality, p.path, p.reason) for p in problems])


def _stored(features: Features) -> ModalityVectors:
    info = ModalityInfo(
        dim=int(features.values.shape[1]),
        encoder=features.encoder,
        fingerprint=features.fingerprint,
        fields=features.fields,
    )
    return ModalityVectors(features.values, features.present, info, features.inputs)
