"""Statistics of a data set, as `cammsr info` shows them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TEST, TRAIN, VALIDATION


@dataclass(frozen=True)
class ModalitySummary:
    """A modality: see `cammsr info --help`."""

    dim: int
    dtype: str
    present: int
    missing: int
    undecodable: int | None
    encoder: str
    weights: str | None
    fingerprint: str
    fields: list[str]


@dataclass(frozen=True)
class Summary:
    """The data that `cammsr info --json` prints."""

    data: str
    counts: dict[str, int]
    modalities: dict[str, ModalitySummary]
    decisions: list[list[str]]
    sources: dict[str, str]
    content: str
    tool: str
    verified: bool
    remarks: list[str]


def summarise(path: Path, verify: bool = False) -> Summary:
    """Counts, modalities and provenance of the data set at `path`, ready for JSON.

    Args:
        path: The data set.
        verify: Whether to read and check every byte of it first.

    Raises:
        CammsrError: The file cannot be read, or is damaged.
    """
    data = DataSet(path)
    if verify:
        data.verify()
    modalities: dict[str, ModalitySummary] = {}
    for name, info in data.modalities.items():
        present = data.present(name)
        inputs = data.inputs(name)
        modalities[name] = ModalitySummary(
            dim=info.dim,
            dtype=data.dtypes[name],
            present=int(present.sum()),
            missing=int((~present).sum()),
            undecodable=None if inputs is None else int((inputs.any(axis=1) & ~present).sum()),
            encoder=info.encoder,
            weights=_weights(info.fingerprint),
            fingerprint=info.fingerprint,
            fields=list(info.fields),
        )
    part = data.event_part
    return Summary(
        data=str(path),
        counts={
            "users": len(data.user_ids),
            "items": len(data.item_ids),
            "events": len(part),
            "training events": int((part == TRAIN).sum()),
            "validation events": int((part == VALIDATION).sum()),
            "test events": int((part == TEST).sum()),
            "categories": len(data.category_names),
        },
        modalities=modalities,
        decisions=data.decisions,
        sources=data.sources,
        content=data.content,
        tool=data.tool,
        verified=verify,
        remarks=data.remarks,
    )


def _weights(fingerprint: str) -> str | None:
    """The revision of the weights, if the fingerprint records it as our encoders' do."""
    try:
        facts = json.loads(fingerprint)
    except ValueError:
        return None
    weights = facts.get("weights") if isinstance(facts, dict) else None
    return None if weights is None else str(weights)
