"""Parts of a data set, made on many machines or devices: their names, and joining them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cammsr_cli.data.merge import merge
from cammsr_cli.features.prepare import write_problems
from cammsr_cli.features.runner import Problem, Shard
from cammsr_cli.files import require_replaceable


@dataclass(frozen=True)
class MergeReport:
    """What `cammsr merge` did.

    Attributes:
        out: The data set.
        items: Number of items.
        modalities: Items that have each modality.
        problems: Items that could not be encoded, one a modality.
        problems_file: Where they are listed, if there are any.
        bytes: Size of the data set.
    """

    out: str
    items: int
    modalities: dict[str, int]
    problems: int
    problems_file: str | None
    bytes: int


def part_path(out: Path, shard: Shard) -> Path:
    """Where a shard's part of the data set `out` goes: `shop.2-of-8.h5` for `shop.h5`."""
    return out.with_name(f"{out.stem}.{shard.number}-of-{shard.count}{out.suffix}")


def merge_parts(parts: Sequence[Path], out: Path, force: bool = False) -> MergeReport:
    """Join all parts of a data set, and list its problems beside it.

    Args:
        parts: The files, in any order.
        out: The data set to write.
        force: Whether it may be replaced.

    Raises:
        UsageError: `out` may not be written, or the parts are not all there.
        CammsrError: The parts do not belong together, or one cannot be read.
    """
    require_replaceable(out, force)
    merged = merge(parts, out)
    listed = write_problems(out, [Problem(*one) for one in merged.problems])
    return MergeReport(
        out=str(out),
        items=merged.items,
        modalities=merged.present,
        problems=len(merged.problems),
        problems_file=None if listed is None else str(listed),
        bytes=out.stat().st_size,
    )
