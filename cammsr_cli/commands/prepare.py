"""`cammsr prepare`: convert raw files to one data set.

This file has more than 400 lines, since Typer wants each option declared where it is used.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cammsr_cli import console
from cammsr_cli.commands.examples import epilog
from cammsr_cli.commands.prepare_report import note_what_training_needs, show, show_notes
from cammsr_cli.commands.raw_file_options import (
    CatalogueName,
    DtypeName,
    DuplicatesName,
    EngineName,
    FormatChoice,
    OrderName,
    PrecisionName,
    beside,
    devices_of,
    level_of,
    negatives,
    pairs,
    reading_of,
    spare_cores,
)
from cammsr_cli.commands.typed_command import as_typed

if TYPE_CHECKING:
    from cammsr_cli.prepare.options import PrepareOptions

EXAMPLES = [
    "cammsr prepare shop --out shop.h5 --encoder text --encoder image --encoder video",
    "cammsr prepare shop/reviews.jsonl --items shop/items.jsonl --out small.h5 "
    "--encoder image=,size=96 --dry-run",
    "cammsr prepare shop --out core.h5 --k-core 5 --min-rating 4 --encoder text",
    "cammsr prepare shop --out fine.h5 --format plain --encoding utf-8 --category-level 1",
    "cammsr prepare shop --out weighed.h5 --weight rating=4:0.5 --negative rating=3",
    "cammsr prepare shop --out liked.h5 --where 'rating>=4' --time-format seconds",
]
HELP_EPILOG = epilog(EXAMPLES)

_NOT_OF_THE_RESULT = {
    *("out", "force", "strict", "as_json", "dry_run", "shard", "engine", "device", "workers"),
    *("batch_size", "decode_seconds", "downloads_per_host", "download_seconds"),
    *("max_download_mb", "allow_private_hosts"),
}
"""Parameters that decide where or how fast a data set is made, and not what is in it."""


def command(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            help="Interactions (CSV, TSV, JSONL, Parquet, plain, .gz or .zst; a sheet or a table "
            "of a workbook, SQLite or DuckDB file), or a folder: Amazon Reviews, MovieLens, "
            "RecBole, MicroLens or MIND as downloaded, or one with interactions.* and items.*"
        ),
    ],
    items: Annotated[
        Path | None, typer.Option(help="Items file, if SOURCE is not a folder that holds it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Data set to write.")] = Path("data.h5"),
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=MODEL][,OPTION=VALUE]",
            help="Encoder to run: text, image, video or a plugin's; repeatable. "
            "MODEL is any Hugging Face (text) or timm (image, video) name.",
        ),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODALITY=FILE",
            help="Ready-made vectors (CSV, TSV, Parquet, NPY) as a modality; repeatable.",
        ),
    ] = None,
    media_root: Annotated[
        Path | None,
        typer.Option(help="Folder that media paths are relative to [default: the items file's]."),
    ] = None,
    format_: Annotated[
        FormatChoice | None,
        typer.Option("--format", help="What SOURCE is [default: recognised by what is inside]."),
    ] = None,
    encoding: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FILE=]NAME",
            help="What text files, or one of them, are written in, such as latin-1; repeatable "
            "[default: found out].",
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FILE=]NAME,…",
            help="Columns of SOURCE, or of one file, that has no header; repeatable.",
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[FILE=]NAME",
            help="Sheet or table of SOURCE, or of one file, that holds several; repeatable "
            "[default: that whose columns are known].",
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="What gives the rows, where SOURCE is a database."),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="What stands for a missing value; repeatable, and '' for nothing "
            r"[default: NULL, \\N, nan, None, NA, N/A and the like].",
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option(help="Download pictures and clips that are given as http(s) URLs.")
    ] = True,
    max_download_mb: Annotated[
        float, typer.Option(min=0.001, help="Refuse to download larger files.")
    ] = 200,
    download_seconds: Annotated[
        float, typer.Option(min=0.1, help="Break off a download that takes longer.")
    ] = 300,
    downloads_per_host: Annotated[
        int, typer.Option(min=1, max=64, help="Downloads at a time from one host.")
    ] = 4,
    allow_private_hosts: Annotated[
        bool,
        typer.Option(
            "--allow-private-hosts",
            help="Let URLs lead to private, loopback and link-local addresses.",
        ),
    ] = False,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="Column of a field that is not found by its name; repeatable. "
            "items.FIELD= and interactions.FIELD= say which file.",
        ),
    ] = None,
    min_rating: Annotated[
        float | None,
        typer.Option(
            help="Drop events with a lower rating; what a user rated so is not recommended to them."
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Take only rows of which it is so: event=purchase, price>=10, event!=view, "
            "'event in cart,purchase'; repeatable, and then all must be so.",
        ),
    ] = None,
    negative: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Negative events, such as event=dislike: not learnt from, and the item is not "
            "recommended to that user; repeatable, and '' for none [default: kinds of events "
            "called dislike and the like].",
        ),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN=KIND:WEIGHT,…",
            help="What kinds of events weigh in the loss, as event=view:0.2,purchase:1; a kind "
            "that is not named weighs 1.",
        ),
    ] = None,
    k_core: Annotated[
        int, typer.Option(min=0, help="Drop users and items with fewer events, repeatedly.")
    ] = 0,
    order: Annotated[OrderName, typer.Option(help="Order of a user's events.")] = OrderName.TIME,
    time_format: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT",
            help="How times are written, where it cannot be told: a strptime pattern such as "
            "'%d/%m/%Y %H:%M', day-first, month-first, year-first, seconds, milliseconds, "
            "microseconds, nanoseconds or excel.",
        ),
    ] = None,
    duplicates: Annotated[
        DuplicatesName,
        typer.Option(
            help="exact: same user, item and time count once; first, last: one event a user and "
            "item; keep: all."
        ),
    ] = DuplicatesName.EXACT,
    catalogue: Annotated[
        CatalogueName, typer.Option(help="Keep all listed items, or only those with events.")
    ] = CatalogueName.ALL,
    category_level: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Level of a category hierarchy that guides the model, 1 the coarsest [default: "
            "the coarsest with 3 categories or more, of which none holds over 80% of the items]. "
            "N reads lists of categories as paths.",
        ),
    ] = None,
    review_text: Annotated[
        bool,
        typer.Option(help="Let reviews of training events describe items. Held-out ones never do."),
    ] = True,
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda, cuda:N or mps; several, as cuda:0,cuda:1, share the work."
        ),
    ] = "auto",
    engine: Annotated[
        EngineName,
        typer.Option(help="local: this machine; ray: the nodes of a Ray cluster (extra ray)."),
    ] = EngineName.LOCAL,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Encode the I-th of N parts of the work into OUT.I-of-N.h5; for cammsr merge.",
        ),
    ] = None,
    precision: Annotated[
        PrecisionName,
        typer.Option(help="What encoders compute in; auto: bfloat16 on CUDA, else float32."),
    ] = PrecisionName.AUTO,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Texts, pictures or frames a batch.  [default: 256 on CUDA, else 32]"
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=-1,
            help="Processes that decode media, of each GPU in a Ray cluster; -1: one a spare core; "
            "0: none, and no time limit.",
        ),
    ] = -1,
    decode_seconds: Annotated[
        float, typer.Option(min=0.1, help="Give up on a picture or clip that takes longer.")
    ] = 120,
    dtype: Annotated[DtypeName, typer.Option(help="How vectors are stored.")] = DtypeName.FLOAT16,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if any item cannot be encoded.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Turn raw files into one data set.

    Interactions, texts, images and videos go in, vectors of all items and the events come out.

    Work already done is kept in a cache: a second run encodes only what is new, and a run that was
    killed goes on where it was. An item whose picture or clip is missing or broken stays, without
    that modality; such items are counted and listed beside the data set. Pictures and clips may
    be URLs: each is downloaded once, and those that fail are tried again by the next run.
    """
    from dataclasses import asdict, replace

    from cammsr_cli.cache_folder import cache_folder
    from cammsr_cli.data.corpus import SourceOptions
    from cammsr_cli.data.event_conditions import Condition
    from cammsr_cli.data.event_kinds import Weights
    from cammsr_cli.encoding.features import FeatureOptions, Shard
    from cammsr_cli.media.download import DownloadOptions, any_address
    from cammsr_cli.plugins.registry import EncoderSpec
    from cammsr_cli.prepare.dataset_parts import part_path
    from cammsr_cli.prepare.options import PrepareOptions
    from cammsr_cli.prepare.run import plan, prepare

    part = Shard() if shard is None else Shard.parse(shard)

    limits = DownloadOptions(
        per_host=downloads_per_host,
        connections=max(16, downloads_per_host),
        max_bytes=int(max_download_mb * 1e6),
        seconds=download_seconds,
    )
    if allow_private_hosts:
        limits = replace(limits, reachable=any_address)
    devices = devices_of(device, engine)
    computing, batch = _computing(devices, precision, batch_size)
    options = PrepareOptions(
        source=SourceOptions(
            interactions=source,
            items=items,
            columns=pairs("--map", map_ or [], "FIELD=COLUMN"),
            min_rating=min_rating,
            k_core=k_core,
            order=order.value,
            duplicates=duplicates.value,
            review_text=review_text,
            catalogue=catalogue.value,
            format=format_.value if format_ else None,
            read_otherwise=[
                Path(file) for file in pairs("--features", features or [], "MODALITY=FILE").values()
            ],
            reading=reading_of(source, encoding or [], columns or [], missing, table or [], query),
            category_level=level_of(category_level),
            time_format=time_format,
            where=tuple(Condition.parse(text) for text in where or []),
            negative=negatives(negative),
            weights=None if weight is None else Weights.parse(weight),
        ),
        out=out if part.count == 1 else part_path(out, part),
        encoders=[EncoderSpec.parse(text) for text in encoder or []],
        vectors={
            name: Path(file)
            for name, file in pairs("--features", features or [], "MODALITY=FILE").items()
        },
        media_root=media_root or beside(source, items),
        features=FeatureOptions(
            batch_size=batch,
            workers=spare_cores() if workers < 0 else workers,
            decode_seconds=decode_seconds,
            dtype=dtype.value,
            cache_dir=cache_folder(),
            shard=part,
        ),
        download=limits if download else None,
        device=devices,
        precision=computing,
        engine=engine.value,
        strict=strict,
        force=force,
        command=as_typed(context, _NOT_OF_THE_RESULT),
    )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if not dry_run:
            _prepare_together(options, as_json)
            return
        if os.environ.get("RANK", "0") != "0":
            return  # one process shows the plan
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results, not encoder output
        report = plan(options) if dry_run else prepare(options, console.progress_bar)
    show_notes(report, in_table=not as_json)
    if as_json:
        console.result_json(asdict(report))
    else:
        show(report, dry_run)
    if not report.trainable:
        note_what_training_needs()
    if dry_run:
        return
    if part.count > 1:
        first, last = str(part_path(out, Shard(1, part.count))).rsplit(".1-of-", 1)
        parts = f"{shlex.quote(first)}.*-of-{shlex.quote(last)}"
        console.next_command("cammsr merge", parts, "--out", out)
    elif report.trainable:
        console.next_command("cammsr train", out)


def _computing(devices: str, precision: PrecisionName, batch_size: int | None) -> tuple[str, int]:
    """The precision and the batch size on these devices; requested values take precedence."""
    on_gpu = devices.startswith("cuda")
    if precision is PrecisionName.AUTO:
        precision = PrecisionName.BFLOAT16 if on_gpu else PrecisionName.FLOAT32
    return precision.value, batch_size or (256 if on_gpu else 32)


def _prepare_together(options: PrepareOptions, as_json: bool) -> None:
    """Prepare with all processes under `torchrun`; only the first process reports."""
    from dataclasses import asdict
    from datetime import timedelta

    import torch

    from cammsr_cli.commands import merge
    from cammsr_cli.distributed import joined
    from cammsr_cli.prepare.dataset_parts import prepare_together, require_shareable

    require_shareable(options)
    with (
        joined(torch.device("cpu"), timedelta(days=7)) as world,
        contextlib.redirect_stdout(sys.stderr),  # stdout is for results, not encoder output
    ):
        done = prepare_together(options, console.progress_bar, world)
    if done is None:
        return
    report, merged = done
    for line in report.notes:
        console.note(f"note: {line}")
    if as_json:
        console.result_json(asdict(merged))
    else:
        merge.show(merged)
    if report.trainable:
        console.next_command("cammsr train", options.out)
    else:
        note_what_training_needs()
