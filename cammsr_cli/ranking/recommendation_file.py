"""Files of recommendations for many users, written in chunks so that memory use is bounded.

Axes: U users of one chunk, K best items, R rows of the file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

from cammsr_cli.errors import UsageError
from cammsr_cli.files import refusals_named, require_table_output, written_whole
from cammsr_cli.locks import only_writer
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.recommendations import Answers
from cammsr_cli.ranking.sessions import Sessions

USERS_AT_ONCE = 4096
"""Largest number of users per chunk."""

VALUES_AT_ONCE = 2**24
"""Largest number of values per chunk for explanations: users x items x score width."""

_SINKS: dict[str, Callable[[pl.LazyFrame, Path], Any]] = {
    ".parquet": pl.LazyFrame.sink_parquet,
    ".csv": pl.LazyFrame.sink_csv,
    ".jsonl": pl.LazyFrame.sink_ndjson,
}


@dataclass(frozen=True)
class Written:
    """Summary of a file that was written.

    Attributes:
        out: The file.
        users: Number of users.
        items: Size of the catalogue that was ranked for each user.
        rows: Number of recommendations.
        seconds: Time from the first user to the finished file.
        popular: Number of users without an event that the model knows, who get the most popular
            items.
    """

    out: Path
    users: int
    items: int
    rows: int
    seconds: float
    popular: int


def require_writable(out: Path, force: bool) -> None:
    """Check that the file has a known format, and does not exist or may be replaced.

    Raises:
        UsageError: One of these is not the case, or the file holds something else.
    """
    require_table_output("--out", out, _SINKS, "recommendations", ".parquet", force)
    if out.exists() and not _is_ours(out):
        raise UsageError(
            f"--force replaces only recommendations, and {out} is something else",
            f"Choose another name: --out NAME{out.suffix}",
        )


def _is_ours(file: Path) -> bool:
    """Whether a file holds recommendations or is empty."""
    if not file.stat().st_size:
        return True
    try:
        if file.suffix == ".parquet":
            columns = list(pl.read_parquet_schema(file))
        else:
            with file.open(encoding="utf-8") as stream:
                line = stream.readline()
            columns = list(json.loads(line)) if file.suffix == ".jsonl" else line.split(",")
    except (ValueError, TypeError, pl.exceptions.PolarsError):
        return False
    return columns[:4] == ["user", "rank", "item", "score"]


def write_recommendations(
    recommender: Recommender,
    sessions: NDArray[np.int64] | Sessions,
    out: Path,
    k: int,
    progress: Callable[[int, int, int], None],
    force: bool = False,
) -> Written:
    """Write the `k` best next items of each user: one row each, best first, in the users' order.

    Columns: user, rank from 1, item, score, put_forward (a modality, or null for an item without
    content) and weight_<stream>, the stream's share in raising the item's score for the user.

    Args:
        recommender: Makes the recommendations.
        sessions: Indices of users, or sessions.
        out: File to write atomically. Its suffix determines the format.
        k: Largest number of items per user.
        progress: Receives the number of completed users, the total number, and 0.
        force: Whether an existing file of recommendations may be replaced.

    Raises:
        UsageError: `out` already exists, or is something else.
        CammsrError: Another process is writing it, or the system does not permit writing.
    """
    began = time.perf_counter()
    frames = Frames(recommender)
    rows = popular = 0
    explained = min(k, len(recommender.run.data.item_ids)) * recommender.score_width
    at_once = max(1, min(USERS_AT_ONCE, VALUES_AT_ONCE // explained))

    def chunks(*_: object) -> Iterator[pl.DataFrame]:
        nonlocal rows, popular
        for first in range(0, len(sessions), at_once):
            past = min(first + at_once, len(sessions))
            if isinstance(sessions, Sessions):
                chunk = sessions.part(first, past)
            else:
                chunk = recommender.of_users(sessions[first:past])
            answers = recommender.answers_for(chunk, k)
            frame = frames.frame(chunk.ids, answers)
            rows += frame.height
            popular += int(answers.popular_U.sum())
            progress(past, len(sessions), 0)
            yield frame

    with refusals_named(out), only_writer(out), written_whole(out) as partial:
        require_writable(out, force)  # do not overwrite a file that another process has written
        _SINKS[out.suffix](register_io_source(chunks, schema=frames.schema), partial)
    seconds = time.perf_counter() - began
    items = len(recommender.run.data.item_ids)
    return Written(out, len(sessions), items, rows, seconds, popular)


class Frames:
    """Turns answers into rows of the file: user, rank, item, score, put_forward, weights."""

    def __init__(self, recommender: Recommender) -> None:
        model, data = recommender.run.model, recommender.run.data
        self._items = pl.Series(data.item_ids, dtype=pl.String)
        self._modalities = pl.Series([*model.modalities, None], dtype=pl.String)
        self._streams = model.streams
        self.schema = pl.Schema(
            {
                "user": pl.String(),
                "rank": pl.Int32(),
                "item": pl.String(),
                "score": pl.Float32(),
                "put_forward": pl.String(),
                **{f"weight_{stream}": pl.Float32() for stream in self._streams},
            }
        )

    def frame(self, ids: Sequence[str], answers: Answers) -> pl.DataFrame:
        """Make the rows of some users' answers."""
        there_UK = np.isfinite(answers.score_UK)
        row_R, place_R = np.nonzero(there_UK)
        forward_R = answers.forward_UK[there_UK]
        weight_RS = answers.weight_UKS[there_UK]
        return pl.DataFrame(
            {
                "user": pl.Series(ids, dtype=pl.String).gather(row_R),
                "rank": place_R.astype(np.int32) + 1,
                "item": self._items.gather(answers.item_UK[there_UK]),
                "score": answers.score_UK[there_UK],
                "put_forward": self._modalities.gather(
                    np.where(forward_R < 0, len(self._modalities) - 1, forward_R)
                ),
                **{f"weight_{name}": weight_RS[:, s] for s, name in enumerate(self._streams)},
            },
            schema=self.schema,
        )
