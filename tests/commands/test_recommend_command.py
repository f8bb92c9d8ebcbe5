"""`cammsr recommend` as it is typed: for whom, where to, and by which index."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from toy_data import write_toy_data

from cammsr_cli.ranking import top_k
from cammsr_cli.ranking.top_k import faiss_is_installed

USERS = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cammsr: Callable) -> Path:
    folder = tmp_path_factory.mktemp("recommend")
    data = write_toy_data(folder / "toy.h5", USERS)
    answer = cammsr("train", data, "--out", folder / "run", "--set", "training.epochs=1")
    assert answer.code == 0, answer.err
    return folder / "run"


def test_all_users_are_written_and_counted(run: Path, tmp_path: Path, cammsr: Callable) -> None:
    out = tmp_path / "recs.parquet"
    answer = cammsr("recommend", run, "--all-users", "--out", out, "--k", "3")
    assert answer.code == 0, answer.err
    told = re.sub(r"[\d.]+ s \([\d,]+ users/s\)", "TIME", answer.out.strip())
    assert told == f"{out}: 180 recommendations for 60 users out of 40 items, TIME"
    frame = pl.read_parquet(out)
    assert frame["user"].unique(maintain_order=True).to_list() == [f"u{n}" for n in range(USERS)]
    printed = json.loads(cammsr("recommend", run, "--user", "u7", "--k", "3", "--json").out)
    items = [one["item"] for one in printed[0]["recommendations"]]
    assert frame.filter(pl.col("user") == "u7")["item"].to_list() == items


def test_users_of_a_file_come_in_its_order(run: Path, tmp_path: Path, cammsr: Callable) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("u9\nu2\nu30\n")
    out = tmp_path / "recs.jsonl"
    answer = cammsr(
        "recommend", run, "--users-from", ids, "--user", "u5", "--out", out, "--k", "2", "--json"
    )
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    assert told.pop("seconds") > 0
    assert told == {
        "out": str(out), "users": 4, "items": 40, "rows": 8, "popular": 0, "recall": None,
    }  # fmt: skip
    assert pl.read_ndjson(out)["user"].to_list() == [
        u for u in ("u5", "u9", "u2", "u30") for _ in "ab"
    ]
    printed = cammsr("recommend", run, "--users-from", ids, "--json")
    assert [one["user"] for one in json.loads(printed.out)] == ["u9", "u2", "u30"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "for whom? Name a user"),
        (["--all-users"], "--all-users writes a file"),
        (["--all-users", "--user", "u1", "--out", "x.csv"], "leaves no one to name"),
        (["--all-users", "--out", "x.txt"], ".parquet, .csv, .jsonl"),
        (["--user", "u1", "--index", "hnsw"], "hnsw"),
        (["--users-from", "nowhere.txt"], "nowhere.txt"),
        (["--user", "u1", "--history", "i1"], "three ways to say for whom"),
        (["--history", ","], "names no item"),
        (["--history", "i1@noon"], "cannot read the time"),
        (["--user", "u1", "--as-of", "noon"], "--as-of noon: no time"),
        (["--user", "u1", "--items", "nowhere.txt"], "cannot read the item ids in nowhere.txt"),
    ],
)
def test_wrong_usage_is_told(
    run: Path, tmp_path: Path, monkeypatch, cammsr: Callable, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = cammsr("recommend", run, *arguments)
    assert answer.code == 2
    assert says in answer.err
    assert not answer.out
    assert not list(tmp_path.iterdir())


def test_a_user_named_twice_is_asked_about_once(
    run: Path, tmp_path: Path, cammsr: Callable
) -> None:
    (tmp_path / "ids.txt").write_text("u1\nu2\n")
    out = tmp_path / "recs.csv"
    answer = cammsr(
        "recommend", run, "--user", "u1", "--user", "u1", "--users-from", tmp_path / "ids.txt",
        "--out", out, "-k", "3",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "for 2 users" in answer.out
    assert pl.read_csv(out).height == 6


def test_nothing_is_overwritten_unasked(run: Path, tmp_path: Path, cammsr: Callable) -> None:
    out = tmp_path / "recs.csv"
    out.write_text("mine")
    asked = ("recommend", run, "--user", "u1", "--out", out)
    answer = cammsr(*asked)
    assert answer.code == 2
    assert "--force" in answer.err
    assert cammsr(*asked, "--force").code == 2
    assert out.read_text() == "mine"
    out.unlink()
    assert cammsr(*asked, "--k", "3").code == 0
    assert cammsr(*asked, "--force").code == 0
    assert pl.read_csv(out).height == 10


@pytest.mark.skipif(not faiss_is_installed(), reason="the extra faiss is not there")
def test_faiss_tells_its_recall_each_time(run: Path, tmp_path: Path, cammsr: Callable) -> None:
    asked = ("recommend", run, "--index", "faiss", "--k", "4")
    answer = cammsr(*asked, "--user", "u1")
    assert answer.code == 0, answer.err
    assert re.search(r"^recall@4 against exact: [\d.]+, 60 users; index built", answer.err, re.M)
    out = tmp_path / "recs.parquet"
    told = json.loads(cammsr(*asked, "--all-users", "--out", out, "--json").out)
    assert told["recall"]["k"] == 4
    assert told["recall"]["share"] > 0.9
    assert pl.read_parquet(out).height == told["rows"] == 4 * USERS


@pytest.fixture(scope="module")
def newer(run: Path) -> Path:
    """A data set that the run knows half of the items of."""
    return write_toy_data(run.parent / "newer.h5", USERS, 80)


@pytest.mark.parametrize(("share", "held"), [(None, 0.5), (0, 0.0), (0.25, 0.25), (1, 1.0)])
def test_new_items_have_the_share_that_is_asked_for(
    run: Path, newer: Path, tmp_path: Path, cammsr: Callable, share: float | None, held: float
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"u{n}\n" for n in range(USERS)))
    given = [] if share is None else ["--new-share", share]
    answer = cammsr(
        "recommend", run, "--data", newer, "--users-from", ids, "-k", 20, "--json", *given
    )
    assert answer.code == 0, answer.err
    lists = [one["recommendations"] for one in json.loads(answer.out)]
    assert [len(one) for one in lists] == [20] * USERS
    new = [item["new"] for one in lists for item in one]
    # Some of the items are without any content, and some new ones have been seen.
    assert sum(new) / len(new) == pytest.approx(held, abs=0.06)
    assert "items have no training events" in answer.err
    evaluated = cammsr("evaluate", run, "--data", newer, "--json", *given)
    assert evaluated.code == 0, evaluated.err


def test_items_that_a_model_without_content_cannot_know_are_not_recommended(
    run: Path, newer: Path, tmp_path: Path, cammsr: Callable
) -> None:
    out, epoch = tmp_path / "run", "training.epochs=1"
    toy = run.parent / "toy.h5"
    assert cammsr("train", toy, "--out", out, "--preset", "sasrec", "--set", epoch).code == 0
    answer = cammsr(
        "recommend", out, "--data", newer, "--user", "u1", "-k", 80, "--exclude-seen", "--json"
    )
    assert answer.code == 0, answer.err
    assert "40 of 80 items have neither training events nor any content" in answer.err
    assert "judged" not in answer.err
    (one,) = json.loads(answer.out)
    assert 20 < len(one["recommendations"]) < 40
    assert not any(item["new"] for item in one["recommendations"])


def test_seen_items_stay_where_the_data_repeats_them_and_a_flag_wins(
    run: Path, tmp_path: Path, cammsr: Callable
) -> None:
    never = write_toy_data(tmp_path / "never.h5", USERS, again=False)
    other = tmp_path / "run"
    assert cammsr("train", never, "--out", other, "--set", "training.epochs=1").code == 0
    asked = ("--user", "u1", "-k", 40, "--json")
    for trained, kept in ((run, True), (other, False)):
        found = {
            flag: len(
                json.loads(cammsr("recommend", trained, *asked, *flag).out)[0]["recommendations"]
            )
            for flag in ((), ("--keep-seen",), ("--exclude-seen",))
        }
        assert found[("--keep-seen",)] == 40 > found[("--exclude-seen",)]
        assert (found[()] == 40) == kept


def test_a_share_is_no_more_than_all(run: Path, cammsr: Callable) -> None:
    for command in (["recommend", run, "--user", "u1"], ["evaluate", run]):
        answer = cammsr(*command, "--new-share", "20")
        assert answer.code == 2
        assert "--new-share" in answer.err


def test_faiss_without_the_extra_is_one_clear_error(run: Path, monkeypatch, cammsr) -> None:
    monkeypatch.setattr(top_k, "find_spec", lambda name: None)
    answer = cammsr("recommend", run, "--user", "u1", "--index", "faiss")
    assert answer.code == 2
    assert "pip install 'cammsr[faiss]'" in answer.err
    assert cammsr("recommend", run, "--user", "u1", "--index", "auto").code == 0


def test_one_user_needs_nothing_heavier_than_torch(run: Path) -> None:
    """What `import torch` does not bring by itself would make the command slow to start."""
    code = (
        "import sys, torch; before = set(sys.modules); "
        "from cammsr_cli.app import app; "
        "app(sys.argv[1:], standalone_mode=False); "
        "print({name.partition('.')[0] for name in set(sys.modules) - before} & "
        "{'torchvision', 'timm', 'transformers', 'sentence_transformers', 'polars', 'faiss', "
        "'scipy', 'sklearn', 'tensorboard', 'av', 'PIL'}); "
        "print('torch._dynamo' in sys.modules and 'torch._dynamo' not in before)"
    )
    command = [sys.executable, "-c", code, "recommend", str(run), "--user", "u1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["set()", "False"]


def test_visitors_and_choices_as_they_are_typed(
    run: Path, tmp_path: Path, cammsr: Callable
) -> None:
    sold_out = tmp_path / "sold out.txt"
    sold_out.write_text("i1\ni2\nnowhere\n")
    answer = cammsr(
        "recommend", run, "--history", "i5,i9,lost", "--exclude", sold_out, "--category", "c1",
        "--category", "c2", "--per-category", "2", "--k", "4", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "2 named items are not in" in answer.err
    (told,) = json.loads(answer.out)
    assert (told["user"], told["popular"]) == ("visitor", False)
    items = told["recommendations"]
    assert len(items) == 4
    assert sorted(one["categories"] for one in items) == [["c1"], ["c1"], ["c2"], ["c2"]]
    assert not {"i1", "i2"} & {one["item"] for one in items}


def test_many_visitors_to_a_file(run: Path, tmp_path: Path, cammsr: Callable) -> None:
    file, out = tmp_path / "visits.jsonl", tmp_path / "out.csv"
    rows = [{"session": f"s{n // 3}", "item": f"i{n}", "time": n} for n in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = cammsr("recommend", run, "--sessions", file, "--out", out, "--k", "2")
    assert answer.code == 0, answer.err
    frame = pl.read_csv(out)
    assert frame["user"].to_list() == [f"s{n}" for n in range(10) for _ in "ab"]


def test_nothing_may_be_sold_out(run: Path, tmp_path: Path, cammsr: Callable) -> None:
    (tmp_path / "sold-out.txt").write_text("")
    plain, without = (
        cammsr("recommend", run, "--user", "u3", "--json", *flag).out
        for flag in ((), ("--exclude", tmp_path / "sold-out.txt"))
    )
    assert plain == without


def test_who_has_no_history_then_is_told_so(run: Path, cammsr: Callable) -> None:
    answer = cammsr("recommend", run, "--user", "u3", "--as-of", "1900-01-01", "--k", "2")
    assert answer.code == 0, answer.err
    assert "u3 has no event that the model knows: these are the most popular items" in answer.err
