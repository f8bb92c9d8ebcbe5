"""Column names: recognised as people write them, mapped as they say, all faults at once."""

import pytest

from cammsr_cli.data.readers.columns import (
    CANDIDATES,
    Header,
    MatchedColumns,
    match_columns,
    normalised,
)
from cammsr_cli.errors import UsageError


def matched(
    interactions: list[str],
    items: list[str] | None = None,
    overrides: dict[str, str] | None = None,
    required: tuple[str, ...] = ("user", "item", "timestamp"),
) -> MatchedColumns:
    header = Header("items.csv", items) if items is not None else None
    return match_columns(Header("log.csv", interactions), header, overrides or {}, required)


def refused(
    interactions: list[str],
    items: list[str] | None = None,
    overrides: dict[str, str] | None = None,
    required: tuple[str, ...] = ("user", "item", "timestamp"),
) -> UsageError:
    with pytest.raises(UsageError) as caught:
        matched(interactions, items, overrides, required)
    return caught.value


@pytest.mark.parametrize(
    "columns",
    [
        ["user_id", "item_id", "timestamp", "rating", "review"],
        ["userId", "movieId", "time", "score", "text"],
        ["reviewerID", "asin", "unixReviewTime", "overall", "reviewText"],
        ["customer_id", "product_id", "date", "stars", "review_body"],
        ["UID", "SKU", "Created At", "RATING", "Review-Text"],
    ],
)
def test_usual_names(columns: list[str]) -> None:
    fields = dict(zip(("user", "item", "timestamp", "rating", "review"), columns, strict=True))
    assert matched([*columns, "other"]).interactions == fields


def test_usual_names_of_items() -> None:
    columns = ["movie_id", "Name", "plot", "genres", "img", "trailer", "price"]
    fields = ("item", "title", "description", "category", "image", "video")
    assert matched(["user", "item", "time"], columns).items == dict(
        zip(fields, columns, strict=False)
    )


def test_amazon_2023() -> None:
    reviews = [
        "rating",
        "title",
        "text",
        "images",
        "asin",
        "parent_asin",
        "user_id",
        "timestamp",
        "helpful_vote",
    ]
    meta = [
        "main_category",
        "title",
        "features",
        "description",
        "images",
        "videos",
        "categories",
        "parent_asin",
    ]
    columns = matched(reviews, meta)
    assert columns.interactions == {
        "user": "user_id",
        "item": "parent_asin",
        "timestamp": "timestamp",
        "rating": "rating",
        "review": "text",
    }
    assert columns.items == {
        "item": "parent_asin",
        "title": "title",
        "description": "description",
        "category": "categories",
        "image": "images",
        "video": "videos",
    }


def test_candidates_are_written_as_they_are_compared() -> None:
    for fields in CANDIDATES.values():
        names = [name for candidates in fields.values() for name in candidates]
        assert names == [normalised(name) for name in names]
        assert len(names) == len(set(names))


def test_columns_of_the_same_name_but_for_its_writing_are_told_apart() -> None:
    columns = matched(["user_id", "userId", "item", "time"], ["id", "title", "name", "Title"])
    assert columns.interactions["user"] == "user_id"
    assert columns.others == {
        "interactions": {"user": ["userId"]},
        "items": {"title": ["Title", "name"]},
    }
    assert columns.spares == {"title": ["Title", "name"]}


def test_an_override_beats_the_usual_name_and_frees_it() -> None:
    columns = matched(["user", "item", "sku", "time"], overrides={"item": "sku"})
    assert columns.interactions == {"user": "user", "item": "sku", "timestamp": "time"}


def test_a_column_mapped_to_one_field_is_not_taken_for_another() -> None:
    columns = matched(["user", "text", "time"], overrides={"item": "text"})
    assert columns.interactions == {"user": "user", "item": "text", "timestamp": "time"}


def test_an_override_holds_for_whichever_file_has_the_column() -> None:
    log, items = ["user", "time", "thing"], ["thing_no", "title"]
    columns = matched(log, items, {"item": "thing", "items.item": "thing_no"})
    assert (columns.interactions["item"], columns.items["item"]) == ("thing", "thing_no")
    columns = matched([*log], ["thing", "title"], {"item": "thing"})
    assert (columns.interactions["item"], columns.items["item"]) == ("thing", "thing")
    columns = matched(["user", "time", "item"], ["thing"], {"item": "thing"})
    assert (columns.interactions["item"], columns.items["item"]) == ("item", "thing")


def test_prefixes_tell_the_files_apart() -> None:
    both = ["user", "time", "a", "b"]
    columns = matched(both, both, {"interactions.item": "a", "items.item": "b", "item": "user"})
    assert (columns.interactions["item"], columns.items["item"]) == ("a", "b")


def test_missing_columns_of_both_files_are_told_at_once() -> None:
    error = refused(["who", "sku2", "clicked"], ["nr"], required=("user", "item", "rating"))
    assert "log.csv has no column recognised as user, item, rating" in error.message
    assert "its columns: who, sku2, clicked" in error.message
    assert "items.csv has no column recognised as item (its columns: nr)" in error.message
    assert (error.hint or "").endswith(
        "--map user=COLUMN --map item=COLUMN --map rating=COLUMN --map items.item=COLUMN"
    )


def test_one_missing_column_ends_with_how_to_map_it() -> None:
    error = refused(["user", "time", "sku_code"])
    assert error.hint == "Say which column it is: --map item=COLUMN"


def test_a_missing_timestamp_names_the_way_without() -> None:
    error = refused(["user", "item", "moment"])
    assert "--order file" in (error.hint or "")
    assert (error.hint or "").endswith("--map timestamp=COLUMN")
    assert "timestamp" not in matched(["user", "item"], required=("user", "item")).interactions


def test_wrong_overrides_are_told_at_once_with_what_there_is() -> None:
    error = refused(
        ["user", "item", "time"], ["item"], {"itme": "item", "user": "usr", "title": "t"}
    )
    assert "no field 'itme' to map (interactions: user, item, timestamp" in error.message
    assert "items: item, title, description, category, image, video" in error.message
    assert "column 'usr', mapped to user, is not in log.csv, did you mean 'user'?" in error.message
    assert "column 't', mapped to title, is not in items.csv" in error.message
    assert "user, item, time" in error.message


@pytest.mark.parametrize("key", ["interactions.title", "items.user", "meta.item", "", "."])
def test_a_field_of_the_other_file_is_unknown(key: str) -> None:
    assert f"no field {key!r}" in refused(["user", "item", "time"], ["item"], {key: "item"}).message


def test_a_title_needs_an_items_file() -> None:
    error = refused(["user", "item", "time", "title"], None, {"title": "title"})
    assert "'title' is read from an items file, and there is none" in error.message
    items = "Give the file that tells of the items: --items FILE."
    assert error.hint == items
    hint = refused(["user", "item", "when"], None, {"title": "title"}).hint or ""
    assert hint.startswith(f"{items} If the rows stand in")
    assert hint.endswith("--map timestamp=COLUMN")
    hint = refused(["user", "item", "time"], None, {"title": "title", "user": "usr"}).hint or ""
    assert hint == f"{items} Give --map FIELD=COLUMN with a field and a column named above."
