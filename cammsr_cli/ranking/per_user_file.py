"""The file of `evaluate --per-user`: each held-out item, its rank, and the recommended items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cammsr_cli.files import refusals_named, require_table_output, written_whole
from cammsr_cli.locks import only_writer
from cammsr_cli.ranking.evaluation_details import CUTOFF
from cammsr_cli.ranking.full_ranking import Ranking
from cammsr_cli.runs.loading import LoadedRun

_WRITERS: dict[str, Callable[[pl.DataFrame, Path], Any]] = {
    ".parquet": pl.DataFrame.write_parquet,
    ".jsonl": pl.DataFrame.write_ndjson,
    ".csv": pl.DataFrame.write_csv,
}


def require_free(file: Path, force: bool) -> None:
    """Check that the file has a known format, and does not exist or may be replaced.

    Raises:
        UsageError: One of these is not the case.
    """
    require_table_output("--per-user", file, _WRITERS, "ranks", ".csv", force)


def write_per_user(run: LoadedRun, ranking: Ranking, rank: NDArray[np.int64], file: Path) -> None:
    """Write one row per user: user, item, rank, recommended (ids, best first).

    In CSV, the recommended items are separated by `|`.

    Raises:
        CammsrError: Another process is writing the file, or the system does not permit writing.
    """
    cases = ranking.cases
    ids = run.data.item_ids
    listed = [[ids[at] for at in row if at >= 0] for row in ranking.top(CUTOFF).tolist()]
    frame = pl.DataFrame(
        {
            "user": [run.data.user_ids[user] for user in cases.user_U],
            "item": [ids[item] for item in cases.item_U],
            "rank": rank,
            "recommended": pl.Series(listed, dtype=pl.List(pl.String)),
        }
    )
    if file.suffix == ".csv":
        frame = frame.with_columns(pl.col("recommended").list.join("|"))
    with refusals_named(file), only_writer(file), written_whole(file) as partial:
        _WRITERS[file.suffix](frame, partial)
