"""Lists items that could not be encoded, in the catalogue's order, next to the data set."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from cammsr_cli.data.corpus import Corpus
from cammsr_cli.encoding.features import Problem
from cammsr_cli.files import written_whole


def in_order(problems: Sequence[Problem], corpus: Corpus) -> list[Problem]:
    """Return problems in the catalogue's order, regardless of how the work was divided."""
    named = {problem.item_id for problem in problems}
    place = {item: row for row, item in enumerate(corpus.item_ids) if item in named}
    return sorted(problems, key=lambda problem: (place[problem.item_id], problem.modality))


def write_problems(out: Path, problems: Sequence[Problem]) -> Path | None:
    """Write the list of items that could not be encoded; remove an older list.

    Returns:
        The file that lists them; None if there are none.
    """
    path = out.with_name(f"{out.name}.problems.csv")
    if not problems:
        path.unlink(missing_ok=True)
        return None
    with (
        written_whole(path) as partial,
        # A reason comes from third-party code, and may contain a lone surrogate (half an emoji).
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(["item", "modality", "path", "reason"])
        writer.writerows([p.item_id, p.modality, p.path or "", p.reason] for p in problems)
    return path
