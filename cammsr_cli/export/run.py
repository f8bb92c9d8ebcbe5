"""Exports a run folder to files for a service: the work of `cammsr export`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cammsr_cli import __version__
from cammsr_cli.errors import UsageError
from cammsr_cli.export.user_encoder import UserEncoderProgram, write_encoder
from cammsr_cli.export.vectors import write_items, write_users
from cammsr_cli.files import refusals_named, sha256_of, write_checksums, written_whole
from cammsr_cli.locks import only_writer
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.sessions import usual_gap
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.loading import load_run

FORMAT = 1

ABOUT = "export.json"
ENCODER = "user_encoder.pt2"

SeenRule = Literal["left out", "biased", "as all others"]


@dataclass(frozen=True)
class About:
    """The description of an export, which is its `export.json`.

    Attributes:
        format: Version of the export format.
        tool: Version of cammsr that wrote it.
        run: The run folder.
        data: The data set.
        data_content: Content digest of the data set.
        items: Number of rows of items.npy and items.parquet.
        items_left_out: Number of items of the data set that the model knows nothing about.
        users: Number of rows of users.npy and users.parquet.
        users_left_out: Number of users without an event known to the model; recommend the most
            popular items to them.
        width: Number of values of a vector.
        score: How a score is computed.
        seen_items: How items of a user's own history are treated.
        bias_by_age: The bias of seen items, if `seen_items` is "biased"; None otherwise. For an
            item that was last seen a events ago (1 for the newest), add the value at index
            floor(log2(a)) to its score, or the last value if there is no such index.
        length: Maximum number of events of the encoder: the latest events of longer histories.
        usual_gap: Seconds between two events, for histories without timestamps.
    """

    format: int
    tool: str
    run: str
    data: str
    data_content: str
    items: int
    items_left_out: int
    users: int
    users_left_out: int
    width: int
    score: str
    seen_items: SeenRule
    bias_by_age: list[float] | None
    length: int
    usual_gap: int


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        out: The folder.
        about: The description of its content.
        encoder_sha256: SHA-256 of the encoder's file, to verify it before loading.
        bytes: Total size of all files.
        remarks: Further notes for the user.
    """

    out: str
    about: About
    encoder_sha256: str
    bytes: int
    remarks: list[str]


def export(
    run: Path,
    out: Path,
    *,
    data: Path | None = None,
    exclude_seen: bool | None = None,
    new_share: float | None = None,
    force: bool = False,
    progress: Callable[[int, int, int], None] = lambda _done, _total, _failed: None,
) -> Exported:
    """Write a run's vectors and user encoder to the folder `out`, completely or not at all.

    Args:
        run: A finished run.
        out: The folder to write.
        data: The data set, if not the one the run was trained on.
        exclude_seen: Whether seen items are excluded; if None, the training data decides.
        new_share: Share of the top ranks that new items get.
        force: Whether an export in `out` may be replaced.
        progress: Called with the number of finished users, of all users, and 0.

    Raises:
        UsageError: `out` exists already, or is not an export.
        CammsrError: The run or its data cannot be used, or the system refuses the write.
    """
    require_replaceable(out, force)
    loaded = load_run(RunFolder(run), data, torch.device("cpu"))
    recommender = Recommender(loaded, new_share, exclude_seen)
    with refusals_named(out), only_writer(out), written_whole(out) as partial:
        require_replaceable(out, force)  # another export may have written it in the meantime
        partial.mkdir()
        about = _write(recommender, run, partial, progress)
        names = sorted(file.name for file in partial.iterdir())
        write_checksums(partial, {name: partial / name for name in names})
    files = [file for file in out.iterdir() if file.is_file()]
    return Exported(
        out=str(out),
        about=about,
        encoder_sha256=sha256_of(out / ENCODER),
        bytes=sum(file.stat().st_size for file in files),
        remarks=loaded.remarks,
    )


def require_replaceable(out: Path, force: bool) -> None:
    """Check that a folder is empty or missing, or holds an export that may be replaced.

    Raises:
        UsageError: If not.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / ABOUT).is_file():
        raise UsageError(
            f"{out} is there already and is no export: it has no {ABOUT}",
            "Choose another folder: --out DIR",
        )
    if not force:
        raise UsageError(f"{out} is there already", "Choose another name, or replace it: --force")


def _write(
    recommender: Recommender, run: Path, folder: Path, progress: Callable[[int, int, int], None]
) -> About:
    loaded, everyone = recommender.run, len(recommender.everyone)
    item_N = np.arange(len(loaded.data.item_ids))
    if recommender.not_shown is not None:
        item_N = np.setdiff1d(item_N, recommender.not_shown.cpu().numpy())
    width = recommender.item_vectors.shape[1]
    write_items(recommender, item_N, folder)
    users = write_users(recommender, folder, progress)
    program = UserEncoderProgram(loaded.model, recommender.tables, torch.from_numpy(item_N), width)
    write_encoder(program, folder / ENCODER)
    rule, bias = _seen_rule(recommender)
    about = About(
        format=FORMAT,
        tool=f"cammsr {__version__}",
        run=str(run),
        data=str(loaded.data.path),
        data_content=loaded.data.content,
        items=len(item_N),
        items_left_out=len(loaded.data.item_ids) - len(item_N),
        users=users,
        users_left_out=everyone - users,
        width=width,
        score="inner product of a user's and an item's vector, float32",
        seen_items=rule,
        bias_by_age=bias,
        length=loaded.model.length,
        usual_gap=usual_gap(loaded.data),
    )
    text = json.dumps(asdict(about), ensure_ascii=False, indent=2)
    (folder / ABOUT).write_text(text + "\n", encoding="utf-8")
    return about


def _seen_rule(recommender: Recommender) -> tuple[SeenRule, list[float] | None]:
    repeats = recommender.run.model.repeats
    if recommender.exclude_seen:
        return "left out", None
    if repeats is None:
        return "as all others", None
    return "biased", repeats.values().tolist()
