"""Writes vectors of items and users as Parquet and NPY, in chunks.

Axes: N items, U users of one chunk, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source

from cammsr_cli.data.splits import TRAIN
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.seen import Seen

USERS_AT_ONCE = 4096
"""Number of users whose vectors are computed together."""

_SEEN = pl.List(pl.Struct({"item": pl.String, "bias": pl.Float32}))


def write_items(recommender: Recommender, item_N: NDArray[np.int64], folder: Path) -> None:
    """Write `items.npy`, and `items.parquet`: item, popularity (training events), vector."""
    data = recommender.run.data
    vector_NW = recommender.item_vectors.cpu().numpy()[item_N]
    trained = data.event_item[data.event_part == TRAIN]
    popularity = np.bincount(trained, minlength=len(data.item_ids))[item_N]
    ids = pl.Series(data.item_ids, dtype=pl.String).gather(item_N)
    frame = pl.DataFrame({"item": ids, "popularity": popularity, "vector": vector_NW})
    np.save(folder / "items.npy", vector_NW)
    frame.write_parquet(folder / "items.parquet")


def write_users(
    recommender: Recommender, folder: Path, progress: Callable[[int, int, int], None]
) -> int:
    """Write `users.npy`, and `users.parquet`: user, vector, and seen items with their bias.

    Users without an event known to the model have no vector and no row.

    Returns:
        The number of users written.
    """
    user_U = _with_history(recommender)
    width = recommender.item_vectors.shape[1]
    ids = pl.Series(recommender.run.data.item_ids, dtype=pl.String)
    array = np.lib.format.open_memmap(
        folder / "users.npy", mode="w+", dtype=np.float32, shape=(len(user_U), width)
    )

    def chunks(*_: object) -> Iterator[pl.DataFrame]:
        for first in range(0, len(user_U), USERS_AT_ONCE):
            sessions = recommender.of_users(user_U[first : first + USERS_AT_ONCE])
            query_UW, seen = recommender.queries(sessions)
            vector_UW = query_UW.cpu().numpy()
            array[first : first + len(sessions)] = vector_UW
            progress(first + len(sessions), len(user_U), 0)
            yield pl.DataFrame(
                {
                    "user": pl.Series(sessions.ids, dtype=pl.String),
                    "vector": vector_UW,
                    "seen": _listed(seen, len(sessions), ids),
                }
            )

    schema = {"user": pl.String(), "vector": pl.Array(pl.Float32, width), "seen": _SEEN}
    register_io_source(chunks, schema=pl.Schema(schema)).sink_parquet(folder / "users.parquet")
    array.flush()
    return len(user_U)


def _with_history(recommender: Recommender) -> NDArray[np.int64]:
    """Return the users with at least one event known to the model."""
    everyone = recommender.everyone
    pieces = [
        part[~recommender.without_history(recommender.of_users(part))]
        for part in np.split(everyone, range(USERS_AT_ONCE, len(everyone), USERS_AT_ONCE))
        if len(part)
    ]
    return np.concatenate(pieces) if pieces else everyone


def _listed(seen: Seen | None, users: int, ids: pl.Series) -> pl.Series:
    """Return each user's items with a changed score, and their bias; null: not recommended."""
    if seen is None:
        return pl.Series([[] for _ in range(users)], dtype=_SEEN)
    row_P, item_P = seen.row_P.cpu().numpy(), seen.item_P.cpu().numpy()
    bias_P = np.full(len(row_P), np.nan, np.float32)
    if seen.bias_P is not None:
        bias_P = seen.bias_P.cpu().numpy().astype(np.float32)
    bias_P[np.isneginf(bias_P)] = np.nan
    pairs = pl.DataFrame({"row": row_P, "item": ids.gather(item_P), "bias": bias_P})
    pairs = pairs.with_columns(pl.col("bias").fill_nan(None)).unique(maintain_order=True)
    listed = pairs.group_by("row", maintain_order=True).agg(seen=pl.struct("item", "bias"))
    every = pl.DataFrame({"row": np.arange(users)})
    joined = every.join(listed, on="row", how="left", maintain_order="left")
    return joined["seen"].fill_null(pl.Series([[]], dtype=_SEEN)).cast(_SEEN)
