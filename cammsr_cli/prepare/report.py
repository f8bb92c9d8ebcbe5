"""The report of `cammsr prepare`: what it did, or in a dry run would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cammsr_cli.data.corpus import Corpus
from cammsr_cli.encoding.encode import Plan
from cammsr_cli.encoding.features import Features
from cammsr_cli.prepare.changes import Changes
from cammsr_cli.prepare.options import PrepareOptions
from cammsr_cli.prepare.vector_quality import Look, look_at
from cammsr_cli.prepare.web_media import DownloadReport

HISTORY_TO_TRAIN_ON = 4
"""Minimum events of one user: two for training, one for validation, one for the test."""


@dataclass(frozen=True)
class ModalityReport:
    """The result, or in a dry run the expected result, for one modality.

    Attributes:
        made_by: The encoder as requested, or the file of precomputed vectors.
        present: Number of items that have it.
        missing: Number of items without it, for any reason; items of other parts are not counted.
        problems: Number of items that should have it but do not: file missing, refused or
            unreadable.
        encoded: Number of distinct inputs that this run encodes.
        cached: Number of distinct inputs known from earlier runs.
        dim: Length of a vector; None in a dry run if no earlier run has recorded it.
        changes: Changes since the data set that is replaced; None if there is none, or if it does
            not record its inputs.
        look: Statistics of the vectors; None if no item has one, and in a dry run that would first
            have to encode them.
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
        trainable: Whether any user has enough events for training.
        columns: For each file, "interactions" and "items", the column that each field was read
            from.
        decisions: How the raw files were read: each question and its decision.
        modalities: The report of each modality, by name.
        downloads: Media with a URL; None if there are none.
        notes: Counts and remarks for the user.
        problems_file: The file that lists items that could not be encoded; None if there are none.
        bytes: Size of the data set; in a dry run the size of its arrays, or None if a `dim` is not
            known.
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


def about_corpus(corpus: Corpus) -> dict[str, Any]:
    """Return the fields of a report that describe the corpus."""
    return {
        "users": len(corpus.user_ids),
        "items": len(corpus.item_ids),
        "events": len(corpus.event_item),
        "categories": len(corpus.category_names),
        "trainable": bool((np.diff(corpus.event_indptr) >= HISTORY_TO_TRAIN_ON).any()),
        "columns": {kind: dict(columns) for kind, columns in corpus.columns.items()},
        "decisions": list(corpus.decisions),
    }


def about_features(
    made_by: str, features: Features, corpus: Corpus, changes: Changes | None = None
) -> ModalityReport:
    """Report on a modality whose vectors exist."""
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
        look=look_at(
            features.values, features.present, corpus.category_indptr, corpus.category_index
        ),
    )


def about_plan(made_by: str, plan: Plan, changes: Changes | None) -> ModalityReport:
    """Report on a modality that would be encoded."""
    return ModalityReport(
        made_by=made_by,
        present=plan.items,
        missing=len(plan.item_ids) - plan.items - plan.elsewhere,
        problems=len(plan.problems),
        encoded=plan.to_encode,
        cached=plan.cached,
        dim=plan.dim,
        changes=changes,
    )


def warnings(options: PrepareOptions, reports: Mapping[str, ModalityReport]) -> list[str]:
    """Return warnings about options that are allowed but probably unintended."""
    whole = options.features.shard.count == 1  # a part does not show what the others have
    absent = [name for name, one in reports.items() if whole and not one.present]
    found = [f"no item has the modality {name}" for name in absent]
    if not options.encoders and not options.vectors:
        found.append(
            "no encoder is given, so items are known by their ids alone; "
            "for more: --encoder text --encoder image --encoder video"
        )
    return found
