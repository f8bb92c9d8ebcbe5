"""Parts of a data set, made by many processes or machines: their names, and their merge."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cammsr_cli.data.dataset_write import require_replaceable
from cammsr_cli.data.merge import merge
from cammsr_cli.encoding.features import Problem, ProgressBar, Shard
from cammsr_cli.errors import UsageError
from cammsr_cli.locks import only_writer
from cammsr_cli.prepare.options import PrepareOptions, require_writable
from cammsr_cli.prepare.problems import write_problems
from cammsr_cli.prepare.report import PrepareReport
from cammsr_cli.prepare.run import prepare

if TYPE_CHECKING:
    from cammsr_cli.distributed import World


@dataclass(frozen=True)
class MergeReport:
    """What `cammsr merge` did.

    Attributes:
        out: The data set.
        items: Number of items.
        modalities: Number of items that have each modality.
        problems: Number of items that could not be encoded, counted per modality.
        problems_file: The file that lists them; None if there are none.
        bytes: Size of the data set.
    """

    out: str
    items: int
    modalities: dict[str, int]
    problems: int
    problems_file: str | None
    bytes: int


def part_path(out: Path, shard: Shard) -> Path:
    """Return the path of a shard's part of the data set `out`: `shop.2-of-8.h5` for `shop.h5`."""
    return out.with_name(f"{out.stem}.{shard.number}-of-{shard.count}{out.suffix}")


def merge_parts(parts: Sequence[Path], out: Path, force: bool = False) -> MergeReport:
    """Merge all parts of a data set, and list its problems in a file next to it.

    Args:
        parts: The files, in any order.
        out: The data set to write.
        force: Whether it may be replaced.

    Raises:
        UsageError: `out` may not be written, or a part is missing.
        CammsrError: The parts do not belong together, or one cannot be read; or another process is
            writing the same data set.
    """
    require_replaceable(out, force)
    if out.exists() and (own := next((one for one in parts if one.samefile(out)), None)):
        raise UsageError(
            f"--out {out} is a part, {own}: it would be overwritten",
            "Choose another name: --out NAME",
        )
    with only_writer(out):
        require_replaceable(out, force)  # another run may have written it in the meantime
        return _merged(parts, out)


def _merged(parts: Sequence[Path], out: Path) -> MergeReport:
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


def require_shareable(options: PrepareOptions) -> None:
    """Check that `prepare_together` supports the options and may write the output.

    Raises:
        UsageError: If not; the message says why.
    """
    if options.features.shard.count > 1 or "," in options.device or options.engine != "local":
        raise UsageError(
            "torchrun shares the work itself: leave out --shard, --engine and several devices"
        )
    require_writable(options)


def prepare_together(
    options: PrepareOptions, progress_bar: ProgressBar, world: World
) -> tuple[PrepareReport, MergeReport] | None:
    """Prepare under `torchrun`: each process makes one part; the first downloads and merges.

    Args:
        options: What to do, the same for all; all processes must have access to `out`.
        progress_bar: Opens a progress bar; only the first process uses it.
        world: The processes, on one machine or many.

    Returns:
        The reports of the first process and of the merge; None in the other processes.

    Raises:
        UsageError: As `prepare`; also if the options divide the work in another way.
        CammsrError: As `prepare`.
    """
    hidden = options.out.with_name(f".{options.out.name}")
    parts = [part_path(hidden, Shard(one + 1, world.size)) for one in range(world.size)]
    own = _own_part(options, parts, world)
    if not world.leads:
        # In `prepare`, each process waits until the first one has downloaded all media.
        prepare(own, lambda _: nullcontext(lambda *_: None), world)
        world.wait()
        return None
    with only_writer(options.out):
        require_writable(options)
        report = prepare(own, progress_bar, world)
        world.wait()
        merged = _merged(parts, options.out)
        for part in parts:
            part.unlink()
            part.with_name(f"{part.name}.problems.csv").unlink(missing_ok=True)
    return report, merged


def _own_part(options: PrepareOptions, parts: Sequence[Path], world: World) -> PrepareOptions:
    """Return the options of one process; processes of a machine share its GPUs and processors."""
    device = f"cuda:{os.environ['LOCAL_RANK']}" if options.device == "cuda" else options.device
    workers = -(-options.features.workers // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return replace(
        options,
        out=parts[world.rank],
        force=True,
        device=device,
        download=options.download if world.leads else None,
        features=replace(
            options.features, shard=Shard(world.rank + 1, world.size), workers=workers
        ),
    )
