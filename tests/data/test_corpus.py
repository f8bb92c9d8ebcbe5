"""The corpus as a whole: what is joined, what is kept, and what must never leak into an item."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_back import categories_of

from cammsr_cli.data.corpus import Corpus, SourceOptions, read_corpus
from cammsr_cli.errors import CammsrError, UsageError
from cammsr_cli.files import sha256_of

LOG = "user,item,time,text\nb,y,1,\nb,x,2,\na,new,3,\na,y,4,\n"
ITEMS = [
    {"id": "cold", "title": "Cold", "genres": "Drama"},
    {"id": "x", "title": "X", "genres": ["Comedy", "Drama"], "img": "x.jpg", "brand": "B"},
    {"id": "y", "title": "Y"},
]


def lines(rows: list[dict[str, object]]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def corpus_of(folder: Path, log: str, items: str | None = None, **options: object) -> Corpus:
    """`log` and `items` are written as CSV, or as JSON lines if they begin with "{"."""
    paths: dict[str, Path] = {}
    for name, text in (("log", log), ("items", items)):
        if text is not None:
            paths[name] = folder / f"{name}.{'jsonl' if text.startswith('{') else 'csv'}"
            paths[name].write_text(text, encoding="utf-8")
    return read_corpus(SourceOptions(paths["log"], paths.get("items"), **options))


def test_items_and_events_are_joined_by_hand(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, LOG, lines(ITEMS))
    assert corpus.user_ids == ["b", "a"]
    assert corpus.item_ids == ["cold", "x", "y", "new"]
    assert corpus.item_rows == [0, 1, 2, None]
    assert corpus.fields == {
        "title": ["Cold", "X", "Y", None],
        "image": [None, "x.jpg", None, None],
        "brand": [None, "B", None, None],
    }
    assert corpus.category_names == ["Drama", "Comedy"]
    assert categories_of(corpus) == {
        "cold": ["Drama"],
        "x": ["Comedy", "Drama"],
        "y": [],
        "new": [],
    }
    assert corpus.event_indptr.tolist() == [0, 2, 4]
    assert corpus.event_item.tolist() == [2, 1, 3, 2]
    assert corpus.event_time.tolist() == [1, 2, 3, 4]
    assert corpus.event_part.tolist() == [0, 2, 0, 2]
    assert corpus.sources == {
        "log.csv": sha256_of(tmp_path / "log.csv"),
        "items.jsonl": sha256_of(tmp_path / "items.jsonl"),
    }
    assert "1 listed item without events kept" in corpus.notes
    assert "1 item with events not listed in items.jsonl; kept without content" in corpus.notes


def test_types_are_those_of_the_contract(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, LOG, lines(ITEMS))
    types = {
        "category_indptr": np.int64,
        "category_index": np.int32,
        "event_indptr": np.int64,
        "event_item": np.int32,
        "event_time": np.int64,
        "event_part": np.uint8,
    }
    assert {name: getattr(corpus, name).dtype for name in types} == types


def test_only_rated_items(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, LOG, lines(ITEMS), catalogue="rated")
    assert corpus.item_ids == ["x", "y", "new"]
    assert corpus.item_rows == [1, 2, None]
    assert corpus.fields["title"] == ["X", "Y", None]
    assert corpus.category_names == ["Comedy", "Drama"]
    assert corpus.event_item.tolist() == [1, 0, 2, 1]
    assert "1 listed item without events left out" in corpus.notes


def test_the_core_drops_items_of_the_catalogue_but_not_those_nobody_took(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, LOG + "a,x,9,\n", lines(ITEMS), k_core=2)
    assert corpus.item_ids == ["cold", "x", "y"]
    items = [*ITEMS, {"id": "new", "title": "New"}]
    corpus = corpus_of(tmp_path, LOG + "a,x,9,\n", lines(items), k_core=2)
    assert corpus.item_ids == ["cold", "x", "y"]
    assert corpus.event_item.tolist() == [2, 1, 2, 1]


def test_without_an_items_file_the_interactions_make_the_catalogue(tmp_path: Path) -> None:
    log = "user,item,time,title,image,category\na,x,1,Great!,mine.jpg,Good\na,y,2,Bad,,\n"
    corpus = corpus_of(tmp_path, log)
    assert corpus.item_ids == ["x", "y"]
    assert corpus.item_rows == [None, None]
    assert corpus.fields == {}
    assert corpus.category_names == []
    assert corpus.category_indptr.tolist() == [0, 0, 0]


def test_files_of_different_ids_are_told(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, LOG, '{"id": "other", "title": "T"}')
    assert any("which is all of them" in note for note in corpus.notes)


def test_a_column_chosen_among_several_is_told_with_how_to_choose(tmp_path: Path) -> None:
    log = "user,customer id,product,sku,date,rating,score,text,review\na,1,x,7,2024-01-01,1,2,,\n"
    items = "sku,id,title,name\n7,x,T,N\n"
    corpus = corpus_of(tmp_path, log, items, columns={"interactions.item": "sku"})
    assert corpus.columns["interactions"]["user"] == "user"
    assert corpus.columns["items"] == {"item": "sku", "title": "title"}
    assert [note for note in corpus.notes if "to choose" in note] == [
        "user read from column 'user' of log.csv, not from 'customer id' "
        "(to choose: --map 'user=customer id')",
        "review read from column 'review' of log.csv, not from 'text' "
        "(to choose: --map review=text)",
        "item read from column 'sku' of items.csv, not from 'id' (to choose: --map items.item=id)",
        "title read from column 'title' of items.csv, or where that is empty from 'name' "
        "(to choose: --map items.title=name)",
    ]
    corpus = corpus_of(tmp_path, log, min_rating=0, review_text=False, columns={"user": "user"})
    [item, rating] = [note for note in corpus.notes if "to choose" in note]
    assert item.startswith("item read from column 'product' of log.csv, not from 'sku'")
    assert rating.startswith("rating read from column 'rating' of log.csv, not from 'score'")


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_the_index_that_pandas_writes_is_no_field(tmp_path: Path, name: str) -> None:
    corpus = corpus_of(tmp_path, LOG, f"{name},id,brand\n0,x,B\n")
    assert corpus.fields == {"brand": ["B", None, None]}


def test_what_a_user_rated_too_low_is_kept_apart(tmp_path: Path) -> None:
    log = "user,item,time,rating\na,x,1,1\na,y,2,5\na,new,3,1\nb,y,2,5\n"
    corpus = corpus_of(tmp_path, log, lines(ITEMS), min_rating=4)
    assert corpus.item_ids == ["cold", "x", "y"]  # of "new" there is nothing but a low rating
    assert corpus.rejected is not None
    assert [one.tolist() for one in corpus.rejected] == [[0], [1], [0]]
    assert corpus_of(tmp_path, log, lines(ITEMS)).rejected is None


def test_options_reach_the_readers(tmp_path: Path) -> None:
    log = "who,what,grade\na,x,5\na,y,5\na,z,1\n"
    columns = {"user": "who", "item": "what", "rating": "grade"}
    corpus = corpus_of(tmp_path, log, columns=columns, order="file", min_rating=2.0)
    assert corpus.item_ids == ["x", "y"]
    assert corpus.notes == ["1 event below rating 2 dropped"]
    with pytest.raises(UsageError, match="no column recognised as timestamp"):
        corpus_of(tmp_path, log, columns=columns)
    with pytest.raises(UsageError, match="no column recognised as rating"):
        corpus_of(tmp_path, "user,item,time\na,x,1\n", min_rating=1.0)


def test_the_interactions_are_not_the_items(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    with pytest.raises(UsageError, match="given as the interactions and as the items"):
        read_corpus(SourceOptions(path, items=path))


def test_files_of_one_name_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    log, items = tmp_path / "data.csv", tmp_path / "items" / "data.csv"
    log.write_text(LOG)
    items.write_text("item,title\nx,X\n")
    assert list(read_corpus(SourceOptions(log, items)).sources) == ["data.csv", "data.csv (items)"]


def test_missing_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CammsrError, match="no such file"):
        read_corpus(SourceOptions(tmp_path / "gone"))
    (tmp_path / "log.csv").write_text(LOG)
    with pytest.raises(CammsrError, match="no such file"):
        read_corpus(SourceOptions(tmp_path / "log.csv", tmp_path / "gone.csv"))


# --- folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log_name", "items_name"),
    [
        ("interactions.csv", "items.jsonl"),
        ("reviews.csv", "meta.jsonl"),
        ("ratings.csv", "products.jsonl"),
        ("Events.CSV", "catalogue.jsonl"),
        ("ratings.csv", None),
    ],
)
def test_a_folder_of_well_named_files(
    tmp_path: Path, log_name: str, items_name: str | None
) -> None:
    (tmp_path / log_name).write_text(LOG)
    (tmp_path / "items.txt").write_text("no table")
    if items_name:
        (tmp_path / items_name).write_text(lines(ITEMS))
    corpus = read_corpus(SourceOptions(tmp_path))
    assert list(corpus.sources) == [name for name in (log_name, items_name) if name]
    assert len(corpus.item_ids) == (4 if items_name else 3)


def test_the_first_of_several_names_wins_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("broken")
    (tmp_path / "interactions.csv").write_text(LOG)
    assert list(read_corpus(SourceOptions(tmp_path)).sources) == ["interactions.csv"]
    (tmp_path / "interactions.tsv").write_text(LOG)
    with pytest.raises(UsageError, match=r"interactions\.csv, interactions\.tsv"):
        read_corpus(SourceOptions(tmp_path))


# --- leaks --------------------------------------------------------------------------------------


def test_marked_reviews_of_held_out_events_reach_no_field(tmp_path: Path) -> None:
    # Both users bought x three times; its training reviews are known, the later ones marked.
    log = [
        {"user": "a", "asin": "x", "time": 1, "text": "train a1", "title": "MARKER"},
        {"user": "a", "asin": "x", "time": 3, "text": "MARKER valid", "title": "MARKER"},
        {"user": "a", "asin": "x", "time": 5, "text": "MARKER test", "title": "MARKER"},
        {"user": "b", "asin": "x", "time": 9, "text": "MARKER test", "image": "MARKER"},
        {
            "user": "b",
            "asin": "x",
            "time": 2,
            "text": "train <b>1</b> &amp; b",
            "category": "MARKER",
        },
        {"user": "b", "asin": "x", "time": 8, "text": "MARKER valid"},
        {"user": "c", "asin": "y", "time": 1, "text": "train c"},
        {"user": "d", "asin": "y", "time": 1, "text": "train d"},
        {"user": "d", "asin": "y", "time": 2, "text": "MARKER test"},
    ]
    corpus = corpus_of(tmp_path, lines(log), '{"asin": "x", "title": "X"}')
    assert corpus.fields == {
        "title": ["X", None],
        "reviews": ["train a1\ntrain 1 & b", "train c\ntrain d"],
    }
    assert "MARKER" not in json.dumps([corpus.fields, corpus.category_names], default=list)
    assert "reviews" not in corpus_of(tmp_path, lines(log), review_text=False).fields


def test_a_review_must_be_text(tmp_path: Path) -> None:
    log = '{"user": 1, "item": 1, "time": 1, "text": ["a"]}'
    with pytest.raises(CammsrError, match="column 'text', read as the review, holds lists"):
        corpus_of(tmp_path, log)
    assert corpus_of(tmp_path, log, review_text=False).item_ids == ["1"]


def test_training_reviews_take_the_place_of_a_column_of_that_name(tmp_path: Path) -> None:
    log = "user,item,time,review\na,x,1,good\n"
    corpus = corpus_of(tmp_path, log, "item,reviews\nx,all of them\n")
    assert corpus.fields == {"reviews": ["good"]}
    assert "column 'reviews' of the items file replaced by training reviews" in corpus.notes


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4), st.integers(1, 5)),
    min_size=1,
    max_size=20,
)


def train_rows(events: list[tuple[int, int, int, int]], corpus: Corpus) -> Mapping[str, list[int]]:
    """Row numbers of each item's training events, oldest first, in plain Python."""
    users = {user: [] for user, *_ in events}
    seen = set()
    for row in sorted(range(len(events)), key=lambda n: (events[n][2], n)):
        if events[row][3] >= 2 and events[row][:3] not in seen:
            users[events[row][0]].append(row)
            seen.add(events[row][:3])
    rows: dict[str, list[int]] = {item: [] for item in corpus.item_ids}
    for own in users.values():
        held_out = {0: 0, 1: 0, 2: 1}.get(len(own), 2)
        for row in own[: len(own) - held_out]:
            rows[str(events[row][1])].append(row)
    return {item: sorted(own, key=lambda n: (events[n][2], n)) for item, own in rows.items()}


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_reviews_are_those_of_training_events_and_no_others(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, int, int, int]]
) -> None:
    rows = [f"{u},{i},{t},{r},marker{n}" for n, (u, i, t, r) in enumerate(events)]
    log = "\n".join(["user,item,time,rating,review", *rows])
    folder = tmp_path_factory.mktemp("c")
    if all(rating < 2 for *_, rating in events):
        with pytest.raises(CammsrError):
            corpus_of(folder, log, min_rating=2.0)
        return
    corpus = corpus_of(folder, log, min_rating=2.0)
    expected = {
        item: "\n".join(f"marker{n}" for n in own[:3]) or None
        for item, own in train_rows(events, corpus).items()
    }
    reviews = corpus.fields.get("reviews", [None] * len(corpus.item_ids))
    assert dict(zip(corpus.item_ids, reviews, strict=True)) == expected


# --- real data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "users", "rated", "events", "categories"),
    [
        ("ml100k", 943, 1_682, 100_000, 18),
        ("ml1m", 6_040, 3_416, 999_611, 18),
        ("amazon-beauty", 22_363, 12_101, 198_502, 6),
        ("ml-latest-small", 671, 9_066, 100_004, 19),
    ],
)
def test_real_data(
    real_data: Path, name: str, users: int, rated: int, events: int, categories: int
) -> None:
    corpus = read_corpus(SourceOptions(real_data / name))
    assert len(corpus.user_ids) == users
    assert len(np.unique(corpus.event_item)) == rated
    assert len(corpus.event_item) == events
    assert len(corpus.category_names) == categories
    assert np.bincount(corpus.event_part).tolist() == [events - 2 * users, users, users]
    steps = np.diff(corpus.event_time)
    assert (np.delete(steps, corpus.event_indptr[1:-1] - 1) >= 0).all()


def test_real_data_order_and_core(real_data: Path) -> None:
    corpus = read_corpus(SourceOptions(real_data / "ml1m"))
    assert corpus.event_time[: corpus.event_indptr[1]].tolist() == list(
        range(corpus.event_indptr[1])
    )
    core = read_corpus(SourceOptions(real_data / "amazon-beauty", k_core=5))
    assert len(core.event_item) == 198_502
