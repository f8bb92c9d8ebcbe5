"""Conditions on events: which rows they take, by hand and against plain Python."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.data.corpus import SourceOptions, read_corpus
from cammsr_cli.data.event_conditions import Condition
from cammsr_cli.data.readers.tables import Table
from cammsr_cli.errors import CammsrError, UsageError


def rows_of(text: str, **columns: object) -> list[int]:
    table = Table(Path("log.parquet"), pl.DataFrame(columns), "parquet")
    holds = Condition.parse(text).holds(table, {"rating": "stars"})
    return holds.arg_true().to_list()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("event=buy", [0, 3]),
        ("event = buy", [0, 3]),
        ("event!=buy", [1, 2, 4]),
        ("event in buy,view", [0, 1, 3]),
        ("event in  buy , view ", [0, 1, 3]),
        ("event=", [4]),
        ("event!=", [0, 1, 2, 3]),
        ("event=add to cart", [2]),
        ("price>=10", [0, 2]),
        ("price<=9.5", [1, 3]),
        ("price=10", [0]),
        ("stars>=4", [3, 4]),
        ("rating>=4", [3, 4]),
        ("rating=2", [1]),
        ("new=true", [1, 3]),
        ("new=True", [1, 3]),
        ("at>=2020-01-02", [1, 2, 4]),
        ("at<=2020-01-02 11:59", [0, 1]),
        ("day>=2020-01-02", [1, 2, 3, 4]),
        ("unix>=2020-01-02", [2, 3, 4]),
        ("unix<=1577923199", [0, 1]),
        ("code=007", [0]),
        ("code=7", [1]),
    ],
)
def test_conditions_by_hand(text: str, rows: list[int]) -> None:
    found = rows_of(
        text,
        event=["buy", "view", " add to cart", "buy ", None],
        price=["10.0", "9.5", "11", "1e0", "dear"],
        stars=[1, 2, 3, 4, 5],
        new=[False, True, False, True, None],
        at=["2020-01-01", "2020-01-02", "2020-01-02T12:00:00", "", "2021-01-01"],
        day=pl.Series(["2020-01-01", *["2020-01-02"] * 4]).str.to_date(),
        unix=[1_577_836_800, 1_577_923_199, 1_577_923_200, 1_577_923_201, 1_600_000_000],
        code=["007", "7", "8", "x", "07"],
    )
    assert found == rows


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["view", "cart", "buy", "", "dislike"]), min_size=1),
    st.lists(st.integers(-3, 3), min_size=1),
    st.integers(-3, 3),
)
def test_conditions_agree_with_plain_python(
    kinds: list[str], numbers: list[int], limit: int
) -> None:
    kinds = [*kinds, "view", "buy"]
    expected = [n for n, kind in enumerate(kinds) if kind in ("view", "buy")]
    assert rows_of("k in view,buy", k=kinds) == expected
    assert rows_of("k!=view", k=kinds) == [n for n, kind in enumerate(kinds) if kind != "view"]
    for values in (numbers, [str(n) for n in numbers], [float(n) for n in numbers]):
        assert rows_of(f"n>={limit}", n=values) == [
            at for at, number in enumerate(numbers) if number >= limit
        ]


@pytest.mark.parametrize("text", ["", "event", "=buy", "event>5", "event<5", "event in", "in buy"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a condition") as caught:
        Condition.parse(text)
    assert "COLUMN=VALUE" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("kind=buy", "has no column 'kind'", "Its columns: event, price"),
        ("even=buy", "did you mean 'event'", "Its columns"),
        ("event=purchase", "no row of log.parquet has 'event' 'purchase'", "buy (2), view (1)"),
        ("event in buy,purchase", "'purchase'", "It holds"),
        ("event>=5", "'5' and column 'event' of log.parquet cannot be compared", "Give a number"),
        ("price>=cheap", "cannot be compared", "Give a number"),
    ],
)
def test_what_cannot_be_asked_is_told(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        rows_of(text, event=["buy", "view", "buy"], price=[1, 2, 3])
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


LOG = """user,item,timestamp,event_type,price
u,a,1,view,1
u,b,2,purchase,2
u,c,3,view,3
u,d,4,purchase,4
v,a,5,view,5
"""


def read(tmp_path: Path, *where: str) -> SourceOptions:
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return SourceOptions(path, where=tuple(map(Condition.parse, where)))


def test_only_chosen_events_are_read_and_the_others_counted(tmp_path: Path) -> None:
    corpus = read_corpus(read(tmp_path, "event_type=purchase", "price<=3"))
    assert (corpus.user_ids, corpus.item_ids) == (["u"], ["b"])
    assert "3 rows left out by --where event_type=purchase" in corpus.notes
    assert "1 row left out by --where price<=3" in corpus.notes
    by_field = read_corpus(read(tmp_path, "event=purchase"))
    assert by_field.item_ids == ["b", "d"]
    with pytest.raises(CammsrError, match="no row fulfils --where price<=2 and price>=4"):
        read_corpus(read(tmp_path, "price<=2", "price>=4"))


def test_numbers_with_decimal_commas_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user;item;timestamp;price\nu;a;1;3,99\nu;b;2;10,5\nu;c;3;2\n")
    where = (Condition.parse("price>=3"), Condition.parse("price!=10.5"))
    assert read_corpus(SourceOptions(path, where=where)).item_ids == ["a"]


def test_kinds_of_events_are_told_with_how_many_there_are(tmp_path: Path) -> None:
    [note] = [note for note in read_corpus(read(tmp_path)).notes if "kinds" in note]
    assert note == (
        "kinds of events, column 'event_type' of log.csv: view 3, purchase 2; all count alike "
        "(one kind alone: --where event_type=purchase; "
        "weights: --weight event_type=purchase:2)"
    )
    chosen = read_corpus(read(tmp_path, "event_type=view")).notes
    assert not [note for note in chosen if "kinds" in note]


def test_a_row_that_is_left_out_may_hold_any_timestamp(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,timestamp\nu,a,1\nu,b,never\nu,c,\n")
    where = (Condition.parse("timestamp!=never"), Condition.parse("timestamp!="))
    assert read_corpus(SourceOptions(path, where=where)).item_ids == ["a"]
