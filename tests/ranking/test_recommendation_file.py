"""Recommendations in a file: its rows are the recommender's answers, and it is there whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_recommender import USERS, make_recommender

from cammsr_cli.config import resolve
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.ranking import recommendation_file
from cammsr_cli.ranking.recommend import Recommender
from cammsr_cli.ranking.recommendation_file import require_writable, write_recommendations
from cammsr_cli.ranking.recommendations import Answers
from cammsr_cli.ranking.sessions import Sessions


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return make_recommender(tmp_path_factory.mktemp("toy"))


def _silent(*_: int) -> None:
    pass


READERS = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}


@pytest.mark.parametrize("suffix", READERS)
def test_rows_are_the_answers(recommender, tmp_path: Path, monkeypatch, suffix: str) -> None:
    monkeypatch.setattr(recommendation_file, "USERS_AT_ONCE", 7)  # several chunks, the last short
    told: list[tuple[int, int, int]] = []
    out = tmp_path / "new" / f"recs{suffix}"
    users = recommender.everyone
    written = write_recommendations(recommender, users, out, 5, lambda *counts: told.append(counts))
    frame = READERS[suffix](out)
    answers, data = recommender.answers(users, 5), recommender.run.data
    streams = recommender.run.model.streams
    assert frame.columns == [
        "user", "rank", "item", "score", "put_forward", *(f"weight_{name}" for name in streams),
    ]  # fmt: skip
    assert frame["user"].to_list() == [user for user in data.user_ids for _ in range(5)]
    assert frame["rank"].to_list() == [1, 2, 3, 4, 5] * USERS
    assert frame["item"].to_list() == [data.item_ids[i] for i in answers.item_UK.flat]
    np.testing.assert_allclose(frame["score"], answers.score_UK.flat, rtol=1e-4)
    names = [*recommender.run.model.modalities, None]
    assert frame["put_forward"].to_list() == [names[at] for at in answers.forward_UK.flat]
    for s, name in enumerate(streams):
        np.testing.assert_allclose(
            frame[f"weight_{name}"], answers.weight_UKS[..., s].flat, atol=1e-4
        )
    assert (written.users, written.items, written.rows) == (USERS, 40, 5 * USERS)
    assert written.seconds > 0
    assert told == [(min(done, USERS), USERS, 0) for done in range(7, USERS + 7, 7)]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_parquet_has_the_types_of_the_schema(recommender, tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    write_recommendations(recommender, np.array([3]), out, 2, _silent)
    types = dict(pl.read_parquet_schema(out))
    assert types["user"] == types["item"] == types["put_forward"] == pl.String
    assert types["rank"] == pl.Int32
    assert types["score"] == types["weight_id"] == pl.Float32


def test_users_with_little_left_have_fewer_rows(recommender, tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    written = write_recommendations(recommender, recommender.everyone, out, 99, _silent)
    counts = pl.read_parquet(out).group_by("user", maintain_order=True).len()["len"].to_list()
    data = recommender.run.data
    histories = np.split(data.event_item, data.event_indptr[1:-1])
    assert counts == [40 - len(set(history.tolist())) for history in histories]
    assert written.rows == sum(counts)


def test_what_has_no_content_is_null_not_text(tmp_path: Path) -> None:
    ids_alone = make_recommender(tmp_path, resolve("sasrec", None, ["model.width=16"], {}))
    out = tmp_path / "recs.parquet"
    write_recommendations(ids_alone, np.array([0, 1]), out, 3, _silent)
    frame = pl.read_parquet(out)
    assert frame["put_forward"].null_count() == 6
    assert frame.schema["put_forward"] == pl.String


def test_an_error_on_the_way_leaves_no_file_and_the_old_one_alone(
    recommender, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(recommendation_file, "USERS_AT_ONCE", 7)
    out = tmp_path / "recs.parquet"
    write_recommendations(recommender, recommender.everyone[:3], out, 5, lambda *_: None)
    old = out.read_bytes()

    def fail(done: int, *_: int) -> None:
        if done > 20:
            raise RuntimeError("half way")

    with pytest.raises(Exception, match="half way"):
        write_recommendations(recommender, recommender.everyone, out, 5, fail, force=True)
    assert out.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["recs.parquet"]


def test_output_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.parquet, \.csv, \.jsonl") as caught:
        require_writable(tmp_path / "recs.xlsx", force=False)
    assert "recs.parquet" in (caught.value.hint or "")
    there = tmp_path / "recs.csv"
    require_writable(there, force=False)
    there.write_text("mine")
    with pytest.raises(UsageError, match="is there already") as caught:
        require_writable(there, force=False)
    assert "--force" in (caught.value.hint or "")
    there.write_text("")
    require_writable(there, force=True)
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        require_writable(folder, force=True)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_force_replaces_recommendations_and_nothing_else(
    recommender, tmp_path: Path, ending: str
) -> None:
    """The raw interactions, say, that a shell's completion has put there."""
    out = tmp_path / f"recs{ending}"
    write_recommendations(recommender, recommender.everyone[:1], out, 2, lambda *_: None)
    require_writable(out, force=True)
    mine = pl.DataFrame({"user": ["u1"], "item": ["i1"], "timestamp": [1]})
    write = {".csv": mine.write_csv, ".jsonl": mine.write_ndjson, ".parquet": mine.write_parquet}
    write[ending](out)
    with pytest.raises(UsageError, match="replaces only recommendations"):
        require_writable(out, force=True)
    out.write_bytes(b"\xff[")
    with pytest.raises(UsageError, match="replaces only recommendations"):
        require_writable(out, force=True)


def test_fewer_users_at_a_time_where_lists_are_long(
    recommender, tmp_path: Path, monkeypatch
) -> None:
    """So that what explains them does not grow with them."""
    asked: list[int] = []
    plain = recommender.answers_for

    def answers_for(asking_for: Sessions, k: int) -> Answers:
        asked.append(len(asking_for) * k)
        return plain(asking_for, k)

    monkeypatch.setattr(recommender, "answers_for", answers_for)
    width = recommender.score_width
    monkeypatch.setattr(recommendation_file, "VALUES_AT_ONCE", 100 * width)
    frames = []
    for k in (1, 5, 30):
        out = tmp_path / f"{k}.parquet"
        write_recommendations(recommender, recommender.everyone, out, k, _silent)
        assert max(asked) <= 100
        asked.clear()
        frames.append(pl.read_parquet(out))
    best = frames[2].filter(pl.col("rank") == 1)
    assert best["item"].to_list() == frames[0]["item"].to_list()


def test_what_the_system_refuses_is_told_as_it_said_it(
    recommender, tmp_path: Path, monkeypatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError("File too large (os error 27): recs.csv")  # as polars says it

    monkeypatch.setitem(recommendation_file._SINKS, ".csv", refused)
    with pytest.raises(CammsrError, match=r"recs\.csv cannot be written: File too large") as told:
        write_recommendations(recommender, np.array([1]), tmp_path / "recs.csv", 2, _silent)
    assert "cache" not in (told.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_are_one_writer_and_one_that_is_told(tmp_path: Path) -> None:
    """Two that share a name for what is half written would rename each other's."""
    recommender, out = make_recommender(tmp_path), tmp_path / "recs.csv"
    everyone = recommender.everyone

    def second(*_: int) -> None:
        with pytest.raises(CammsrError, match=r"recs\.csv is being written by process"):
            write_recommendations(recommender, everyone, out, 3, _silent, force=True)

    assert write_recommendations(recommender, everyone, out, 3, second).rows == 3 * len(everyone)
    assert len(out.read_text().splitlines()) == 1 + 3 * len(everyone)
    with pytest.raises(UsageError, match="is there already"):
        write_recommendations(recommender, everyone, out, 3, _silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recs.csv", "run", "toy.h5"]
