"""Category cells as sets or paths, and the level of a hierarchy that guides the model."""

import polars as pl
import pytest

from cammsr_cli.data.categories import CategoryPath, Labels, category_paths, joint_of, labels_of
from cammsr_cli.errors import UsageError


def set_of(*names: str) -> list[CategoryPath]:
    return [(name,) for name in names]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("Drama", set_of("Drama")),
        ("Drama|Comedy|Drama", set_of("Drama", "Comedy")),
        (" Drama | ", set_of("Drama")),
        ("Drama, Comedy", set_of("Drama, Comedy")),
        ("(no genres listed)", []),
        ("", []),
        (None, []),
        (["b", "a", "b", None, ""], set_of("b", "a")),
        ('["Drama", "Comedy"]', set_of("Drama", "Comedy")),
        ("['Drama', \"Children's\"]", set_of("Drama", "Children's")),
        ('[{"id": 18, "name": "Drama"}]', set_of("Drama")),
        ("[unclosed, but a name]", set_of("[unclosed, but a name]")),
        ("Health &amp; Care", set_of("Health & Care")),
        ('<img src="a.png" alt="x"/>', []),
        (7, set_of("7")),
        ([1, 2], set_of("1", "2")),
        (float("nan"), []),
        ([["Beauty", "Make|up"], ["Bath"]], [("Beauty", "Make|up"), ("Bath",)]),
        ("[['Beauty', '', 'Nails']]", [("Beauty", "Nails")]),
        ([["a", "b"], "c"], [("a", "b"), ("c",)]),
        ("Home > Kitchen &gt; Knives", [("Home", "Kitchen", "Knives")]),
        ("Home > Kitchen|Gifts", [("Home", "Kitchen"), ("Gifts",)]),
        (["Home > Kitchen", "Home › Garden"], [("Home", "Kitchen"), ("Home", "Garden")]),
        ("A>B", set_of("A>B")),
    ],
)  # fmt: skip
def test_cells(cell: object, expected: list[CategoryPath]) -> None:
    assert category_paths(cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["Beauty", "Nails", "Polish"], [("Beauty", "Nails", "Polish")]),
        ("Beauty|Nails", [("Beauty", "Nails")]),
        ("Beauty", [("Beauty",)]),
        ([], []),
        ([["a", "b"], ["c", "d"]], [("a", "b"), ("c", "d")]),
        ("A > B|C > D", [("A", "B"), ("C", "D")]),
    ],
)
def test_lists_as_paths(cell: object, expected: list[CategoryPath]) -> None:
    assert category_paths(cell, lists_are_paths=True) == expected


BEAUTY: list[list[CategoryPath]] = [
    [("Beauty", "Nails", "Polish")],
    [("Beauty", "Nails", "Tools")],
    [("Beauty", "Hair", "Tools")],
    [("Beauty", "Skin")],
    [("Beauty", "Skin", "Face"), ("Beauty", "Hair", "Tools")],
    [("Beauty",)],
    [],
]


def test_the_coarsest_level_that_tells_items_apart_guides() -> None:
    labels = labels_of(BEAUTY, None)
    assert labels == Labels(
        names=[["Nails"], ["Nails"], ["Hair"], ["Skin"], ["Skin", "Hair"], [], []],
        level=2,
        counts=[1, 3, 4],
        beside=1,
    )


def test_places_that_share_a_name_are_told_apart() -> None:
    assert labels_of(BEAUTY, 3).names == [
        ["Polish"],
        ["Beauty > Nails > Tools"],
        ["Beauty > Hair > Tools"],
        [],
        ["Face", "Beauty > Hair > Tools"],
        [],
        [],
    ]


def test_all_levels() -> None:
    labels = labels_of(BEAUTY, "all")
    assert labels.names[4] == ["Beauty", "Skin", "Hair", "Face", "Beauty > Hair > Tools"]
    assert (labels.level, labels.beside) == ("all", 0)
    genres = [set_of("Drama", "Comedy"), []]
    assert labels_of(genres, "all").names == [["Drama", "Comedy"], []]


@pytest.mark.parametrize(
    ("items", "level"),
    [
        # Three roots in balance are enough.
        ([[("A", "1")], [("B", "2")], [("C", "3")]], 1),
        # One root holds 9 of 10: too many.
        ([[("A", str(n % 4))] for n in range(9)] + [[("B", "x")], [("C", "x")]][:1], 2),
        # No level has three: the one whose largest holds least.
        ([[("A", "1")], [("A", "1")], [("A", "2")], [("B", "2")]], 2),
        # The second level has many, but few items reach it.
        ([[("A", "1")], [("A", "2")], [("A", "3")]] + [[("A",)], [("B",)]] * 3, 1),
        # A set has one level, however uneven.
        ([set_of("A"), set_of("A"), set_of("A", "B")], 1),
    ],
)
def test_choice(items: list[list[CategoryPath]], level: int) -> None:
    assert labels_of(items, None).level == level


def test_a_level_deeper_than_any_path() -> None:
    with pytest.raises(UsageError, match="--category-level 4: the deepest category path has 3"):
        labels_of(BEAUTY, 4)
    with pytest.raises(UsageError, match="--category-level 1: no item has a category"):
        labels_of([[], []], 1)


def test_nothing() -> None:
    assert labels_of([[], []], None) == Labels([[], []], 1, [], 0)
    assert labels_of([], "all") == Labels([], "all", [], 0)


@pytest.mark.parametrize(
    ("cells", "joint"),
    [
        (["Restaurants, Mexican, Bars", "Mexican, Restaurants", "Bars, Nightlife", None], ","),
        (["Action;Indie", "Indie;Casual", "Casual", "Action"], ";"),
        (["Clothing, Shoes & Jewelry", "Arts, Crafts & Sewing", "Books", "Shoes"], None),
        (["Gloves, Winter", "Hats, Winter", "Scarves, Winter"], None),
        (["Clothing, Shoes > Men", "Shoes, Clothing > Men", "Clothing, Shoes > Women"], None),
        (['["A, B", "B, A"]', "A", "B"], None),
        (["A, B"] * 5, None),
        ([], None),
    ],
)
def test_what_joins_the_names_of_sets(cells: list[str | None], joint: str | None) -> None:
    assert joint_of(pl.Series(cells, dtype=pl.String)) == joint


def test_cells_of_joined_names() -> None:
    assert category_paths("A, B;C", joint=",") == set_of("A", "B;C")
    assert category_paths("A, B|C", joint=",") == set_of("A", "B", "C")
    assert category_paths("A, B > C", joint=",") == [("A, B", "C")]
    assert category_paths("A, B, C", lists_are_paths=True, joint=",") == [("A", "B", "C")]
