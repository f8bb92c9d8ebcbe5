"""Items that could not be encoded: in the order of the catalogue, in a file beside the data set."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from cammsr_cli.data.corpus import Corpus
from cammsr_cli.encoding.features import Problem
from cammsr_cli.files import written_whole


def in_order(problems: Sequence[Problem], corpus: Corpus) -> list[Problem]:
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
