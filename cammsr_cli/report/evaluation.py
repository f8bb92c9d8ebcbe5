"""The report of an evaluation: figures, charts and a gallery of users."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cammsr_cli.errors import CammsrError, first_line
from cammsr_cli.ranking.by_category import ExpertUse
from cammsr_cli.ranking.evaluate import Evaluation, Ranked
from cammsr_cli.ranking.evaluation_details import Details
from cammsr_cli.ranking.metrics import Estimate
from cammsr_cli.report.gallery import Gallery
from cammsr_cli.report.page import write_report
from cammsr_cli.report.thumbnails import Album
from cammsr_cli.runs.folder import RunFolder

SLICES = {
    "history": "Length of the user's history",
    "popularity": "Popularity of the item",
    "category": "Category of the item",
    "item": "New or known item",
}
"""Headings for the kinds of slices; any other kind is a modality."""


def write(
    file: Path,
    found: Ranked,
    evaluation: Evaluation,
    gallery: Gallery,
    album: Album,
    command: str,
) -> None:
    """Write the report of an evaluation that has details.

    Args:
        file: The file to write.
        found: The evaluated run.
        evaluation: Its metrics.
        gallery: A sample of users.
        album: Their pictures.
        command: The command that creates the report.

    Raises:
        CammsrError: A file of the run is damaged, or the report cannot be written.
    """
    details = evaluation.details
    assert details is not None
    folder = RunFolder(found.path)
    trained = datetime.fromtimestamp(folder.weights.stat().st_mtime, UTC)
    report: dict[str, Any] = {
        "run": str(found.path),
        "data": str(found.run.data.path),
        "preset": found.run.spec.preset,
        "tool": found.run.spec.tool,
        "trained": f"{trained:%Y-%m-%d}",
        "parameters": sum(one.numel() for one in found.run.model.parameters()),
        "evaluation": evaluation,
        "details": details,
        "experts": branches_of(details.experts),
        "headings": SLICES,
    }
    title = "How good are the recommendations?"
    charts = {
        "training": training_curves(folder.metrics),
        "slices": _slices(details),
        "worth": [{"name": name, **_interval(one.lost)} for name, one in details.worth.items()],
        "overall": evaluation.model["NDCG@10"].mean,
    }
    write_report(file, gallery, album, title, command, report, charts)


def training_curves(metrics: Path) -> list[dict[str, float]]:
    """Return loss and validation NDCG@10 by epoch; empty if the run has no such file.

    Raises:
        CammsrError: The file is damaged.
    """
    if not metrics.is_file():
        return []
    curves = []
    for number, line in enumerate(metrics.read_text(encoding="utf-8").splitlines(), 1):
        try:
            epoch = json.loads(line)
            curves.append(
                {
                    "epoch": int(epoch["epoch"]),
                    "loss": float(epoch["losses"]["recommendation"]),
                    "ndcg": float(epoch["ndcg"]),
                }
            )
        except (ValueError, LookupError, TypeError) as error:
            raise CammsrError(
                f"{metrics} is damaged at line {number}: {first_line(error)}",
                "Delete it to have a report without training curves",
            ) from error
    return curves


def branches_of(experts: list[ExpertUse]) -> dict[str, list[tuple[str, int, list[float]]]]:
    """Return the use of the experts, one table per branch: category, events, shares."""
    names = list(experts[0].shares) if experts else []
    return {
        name: [(one.category, one.events, one.shares[name]) for one in experts] for name in names
    }


def _slices(details: Details) -> list[dict[str, Any]]:
    """Return the slices, grouped by their kind; groups with only one slice are dropped."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in details.slices:
        row = {"name": one.value, "users": one.users, **_interval(one.ndcg)}
        groups.setdefault(one.by, []).append(row)
    return [
        {"by": by, "heading": SLICES.get(by, f"With or without {by}"), "rows": rows}
        for by, rows in groups.items()
        if len(rows) > 1
    ]


def _interval(estimate: Estimate) -> dict[str, float]:
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
