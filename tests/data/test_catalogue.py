"""The catalogue: cells as people write them, ids made unique, and what training text adds."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cammsr_encoders import protocol

from cammsr_cli.data.catalogue import (
    MEDIA_FIELDS,
    Catalogue,
    read_catalogue,
    training_reviews,
    training_tags,
)
from cammsr_cli.data.readers.tables import open_table
from cammsr_cli.errors import CammsrError


def test_media_fields_are_those_of_the_encoders() -> None:
    assert MEDIA_FIELDS == protocol.MEDIA_FIELDS  # `data` imports no encoders, so it has its own


def from_json(folder: Path, items: list[dict[str, object]], **columns: str) -> Catalogue:
    path = folder / "items.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in items), encoding="utf-8")
    return read_catalogue(open_table(path), {"item": "id", **columns})


def test_a_row_whose_id_is_a_date_is_left_out_where_others_are_none(tmp_path: Path) -> None:
    path = tmp_path / "movies.csv"
    path.write_text("id,title\n862,A\n8844,B\n1997-08-20,shifted\n11862,C\n15602,D\n31357,E\n")
    catalogue = read_catalogue(open_table(path), {"item": "id", "title": "title"})
    assert catalogue.ids == ["862", "8844", "11862", "15602", "31357"]
    assert catalogue.rows == [0, 1, 3, 4, 5]
    [note] = catalogue.notes
    assert note == (
        "1 row of movies.csv left out, whose id is a date as no other's is, such as 1997-08-20 "
        f"({path}, line 4): its cells are perhaps shifted"
    )
    path.write_text("id,title\n2024-01-01,A\n2024-01-02,B\n")  # days are items, too
    assert len(read_catalogue(open_table(path), {"item": "id"}).ids) == 2


def test_items_by_hand(tmp_path: Path) -> None:
    catalogue = from_json(
        tmp_path,
        [
            {"id": "7", "name": "A", "desc": ["one", "two"], "pic": ["a.jpg"], "brand": "B"},
            {"id": None, "name": "nobody"},
            {"id": "007", "name": "", "desc": [], "pic": [], "cast": ["x", "y"]},
            {"id": " 7", "name": "again"},
        ],
        title="name",
        description="desc",
        image="pic",
    )
    assert catalogue.ids == ["7", "007"]
    assert catalogue.rows == [0, 2]
    assert catalogue.fields == {
        "title": ["A", None],
        "description": ["one two", None],
        "image": ["a.jpg", None],
        "brand": ["B", None],
        "cast": [None, "x, y"],
    }
    assert catalogue.categories == [[], []]
    assert catalogue.notes == [
        "1 row of items.jsonl without an item id dropped",
        "1 row of items.jsonl repeating an item id dropped, the first kept",
    ]


def test_a_mapped_column_beats_an_unclaimed_one_of_that_name(tmp_path: Path) -> None:
    catalogue = from_json(tmp_path, [{"id": 1, "title": "old", "name": "new"}], title="name")
    assert catalogue.fields == {"title": ["new"]}


def test_items_without_any_id(tmp_path: Path) -> None:
    with pytest.raises(CammsrError, match="no row has an item id in column 'id'"):
        from_json(tmp_path, [{"id": "", "name": "A"}])


def test_reviews_are_the_oldest_three_of_training() -> None:
    texts = ["sixth", "x" * 600, "held\nout", "  first &amp;\n foremost ", None, "", "second", "b"]
    rank = np.array([6, 3, 0, 1, 2, 4, 5, 7])
    part = np.array([0, 0, 2, 0, 0, 0, 0, 1], dtype=np.uint8)
    item = np.array([1, 1, 1, 1, 1, 1, 1, 0])
    reviews = training_reviews(pl.Series(texts), item, part, rank, 3)
    assert reviews == [None, "\n".join(["first & foremost", "x" * 500, "second"]), None]


def test_tags_of_held_out_pairs_are_left_out() -> None:
    rows = [
        ("u", "x", "Funny"),
        ("v", "x", "funny"),
        (" v ", "x", "sad"),
        ("u", "y", "dark"),
        ("w", "gone", "lost"),
        (None, "x", "nobody"),
        ("w", "x", None),
        ("w", "x", " slow "),
    ]
    index = {"y": 0, "x": 1, "z": 2}
    assert training_tags(rows, index, {("u", "y")}) == [None, "Funny, sad, slow", None]
    assert training_tags(rows, index, {("v", "x")}) == ["dark", "Funny, slow", None]


def test_at_most_twenty_tags() -> None:
    rows = [("u", "x", f"t{n}") for n in range(30)]
    assert training_tags(rows, {"x": 0}, set()) == [", ".join(f"t{n}" for n in range(20))]
