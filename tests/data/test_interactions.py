"""Interactions: cleaning, timestamps, filters and order, by hand and against plain Python."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.data.event_filters import Filters, RowMarks, k_core
from cammsr_cli.data.interactions import Interactions, read_interactions
from cammsr_cli.data.readers.tables import Table, open_table
from cammsr_cli.errors import CammsrError

COLUMNS = {"user": "user", "item": "item", "timestamp": "time", "rating": "rating"}


def read(table: Table, filters: Filters | None = None) -> Interactions:
    columns = {name: column for name, column in COLUMNS.items() if column in table.frame.columns}
    return read_interactions(table, columns, filters or Filters())


def from_csv(folder: Path, text: str, filters: Filters | None = None) -> Interactions:
    path = folder / "log.csv"
    path.write_text(text, encoding="utf-8")
    return read(open_table(path), filters)


def from_times(times: pl.Series) -> Interactions:
    count = len(times)
    frame = pl.DataFrame({"user": ["u"] * count, "item": [f"i{n}" for n in range(count)]})
    table = Table(Path("log.parquet"), frame.with_columns(time=times), "rows")
    return read(table)


def sequences(log: Interactions) -> dict[str, list[str]]:
    """Item ids of each user, in order."""
    return {
        user: [log.item_ids[item] for item in log.item[log.indptr[n] : log.indptr[n + 1]]]
        for n, user in enumerate(log.user_ids)
    }


def test_sequences_by_hand(tmp_path: Path) -> None:
    log = from_csv(tmp_path, "user,item,time\nb,x,30\na,y,20\nb,y,10\na,x,20\nb,z,20\na,z,5\n")
    assert log.user_ids == ["b", "a"]
    assert log.item_ids == ["x", "y", "z"]
    assert sequences(log) == {"b": ["y", "z", "x"], "a": ["z", "y", "x"]}
    assert log.time.tolist() == [10, 20, 30, 5, 20, 20]
    assert log.row.tolist() == [2, 4, 0, 5, 1, 3]
    # All events by time, then row: 5 (a z), 2 (b y), 1 (a y), 3 (a x), 4 (b z), 0 (b x).
    assert log.rank.tolist() == [1, 4, 5, 0, 2, 3]
    assert log.indptr.tolist() == [0, 3, 6]
    assert (log.indptr.dtype, log.item.dtype, log.time.dtype) == (np.int64, np.int32, np.int64)
    assert log.notes == [
        "times are those of column 'time' of log.csv: numbers of seconds, 1970-01-01 00:00:05 to "
        "1970-01-01 00:00:30; 33% of events share theirs with another of the same user: their "
        "order says nothing (--order file if that of the rows does)"
    ]


def test_order_of_the_file(tmp_path: Path) -> None:
    text = "user,item,time\na,x,30\na,y,20\nb,y,10\na,z,20\n"
    log = from_csv(tmp_path, text, Filters(order="file"))
    assert sequences(log) == {"a": ["x", "y", "z"], "b": ["y"]}
    assert log.time.tolist() == [30, 20, 20, 10]
    assert any(note.startswith("1 event earlier than the one before") for note in log.notes)


def test_without_timestamps_time_is_the_position(tmp_path: Path) -> None:
    text = "user,item\na,x\nb,x\na,x\nb,y\na,z\n"
    log = from_csv(tmp_path, text, Filters(order="file"))
    assert sequences(log) == {"a": ["x", "x", "z"], "b": ["x", "y"]}
    assert log.time.tolist() == [0, 1, 2, 0, 1]


def test_users_and_items_keep_the_order_of_their_first_row_though_it_is_dropped(
    tmp_path: Path,
) -> None:
    text = "user,item,time,rating\na,x,1,1\nb,y,1,5\na,y,2,5\nb,x,2,5\n"
    log = from_csv(tmp_path, text, Filters(min_rating=2))
    assert log.user_ids == ["a", "b"]
    assert log.item_ids == ["x", "y"]


def test_rows_without_ids_are_dropped_and_counted(tmp_path: Path) -> None:
    log = from_csv(tmp_path, 'user,item,time\na,x,1\n,x,2\na,,x\na," ",3\n" b",y ,2\n')
    assert sequences(log) == {"a": ["x"], "b": ["y"]}
    assert log.notes[0] == "3 rows without a user or an item id dropped"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pl.Series([7, 8, None]), ["7", "8"]),
        (pl.Series([7.0, float("nan"), 8.0]), ["7", "8"]),
        (pl.Series([7.5, 8.0, None]), ["7.5", "8.0"]),
        (pl.Series(["007", "8", ""]), ["007", "8"]),
        (pl.Series(["a", "b", None], dtype=pl.Categorical), ["a", "b"]),
        (pl.Series([2**100, 1, None], dtype=pl.Int128), [str(2**100), "1"]),
    ],
)
def test_ids_of_any_type_become_strings(ids: pl.Series, expected: list[str]) -> None:
    frame = pl.DataFrame({"user": ["u"] * len(ids), "item": ids, "time": range(len(ids))})
    assert read(Table(Path("t.parquet"), frame, "rows")).item_ids == expected


def test_ids_must_not_be_lists() -> None:
    frame = pl.DataFrame({"user": ["u"], "item": [["x"]], "time": [1]})
    with pytest.raises(CammsrError, match="row 1: item is a list or an object, not an id"):
        read(Table(Path("t.parquet"), frame, "rows"))


# --- timestamps ---------------------------------------------------------------------------------

NOON = 1_577_880_000  # 2020-01-01 12:00 UTC


@pytest.mark.parametrize(
    ("ticks", "unit"),
    [(1, "seconds"), (10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_units_are_guessed_from_the_median(ticks: int, unit: str, as_text: bool) -> None:
    times = pl.Series([NOON * ticks, 0, (NOON + 1) * ticks + ticks // 2])
    log = from_times(times.cast(pl.String) if as_text else times)
    assert log.time.tolist() == [0, NOON, NOON + 1]
    assert f": numbers of {unit}, 1970-01-01 00:00:00 to 2020-01-01 12:00:01; " in log.notes[-1]


def test_floats_are_sorted_by_their_fraction_and_rounded_down() -> None:
    log = from_times(pl.Series([NOON + 0.75, NOON + 0.25, -0.5]))
    assert log.item.tolist() == [2, 1, 0]
    assert log.time.tolist() == [-1, NOON, NOON]


def test_nanoseconds_beyond_the_precision_of_floats_are_told_apart() -> None:
    first = NOON * 10**9 + 1
    assert from_times(pl.Series([str(first + 1), str(first)])).item.tolist() == [1, 0]


def test_milliseconds_of_one_second_are_sorted() -> None:
    assert from_times(pl.Series([NOON * 1000 + 2, NOON * 1000 + 1])).item.tolist() == [1, 0]


def test_times_far_in_the_future_are_told(tmp_path: Path) -> None:
    text = f"user,item,time\nu,a,{NOON}\nu,b,7258118400\nv,a,{NOON + 1}\nv,b,99999999999\n"
    text += f"v,c,{NOON}\nw,d,7258118399\n"
    [late, _] = from_csv(tmp_path, text).notes
    assert late.startswith("2 events later than the year 2200, such as time 7258118400 (")
    assert "log.csv, line 3), put last: perhaps no times at all, or of another unit" in late
    assert "2200, such" not in " ".join(from_csv(tmp_path, text, Filters(order="file")).notes)


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("2020-01-01", NOON - 43_200),
        ("2020-01-01T12:00", NOON),
        ("2020-01-01 12:00:00", NOON),
        ("2020-01-01t12:00:00z", NOON),
        ("2020-01-01T12:00:00.999999999Z", NOON),
        ("2020-01-01T12:00:00,5", NOON),
        ("2020-01-01 12:00:00 UTC", NOON),
        ("2020-01-01T12:00:00+01:00", NOON - 3600),
        ("2020-01-01T12:00:00-0530", NOON + 19_800),
        ("2020-01-01T12:00:00 +02", NOON - 7200),
        ("20200101T120000Z", NOON),
        ("1969-12-31T23:59:59.5", -1),
        (" 2020-01-01 ", NOON - 43_200),
    ],
)
def test_iso_8601(text: str, second: int) -> None:
    log = from_times(pl.Series([text]))
    assert log.time.tolist() == [second]


def test_iso_fractions_order_events() -> None:
    stamp = "2020-01-01T12:00:00"
    times = pl.Series([f"{stamp}.5", f"{stamp}.123456789", f"{stamp}.123456788", f"{stamp}"])
    assert from_times(times).item.tolist() == [3, 2, 1, 0]


def test_typed_dates() -> None:
    noon = datetime(2020, 1, 1, 12)
    assert from_times(pl.Series([date(2020, 1, 1)])).time.tolist() == [NOON - 43_200]
    for unit in ("ms", "us", "ns"):
        naive = pl.Series([noon]).cast(pl.Datetime(unit))
        assert from_times(naive).time.tolist() == [NOON]
        zoned = naive.dt.replace_time_zone("Europe/Berlin")
        assert from_times(zoned).time.tolist() == [NOON - 3600]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.datetimes(
            min_value=datetime(1600, 1, 1),
            max_value=datetime(9000, 1, 1),
            timezones=st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))]),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_iso_8601_agrees_with_python(moments: list[datetime]) -> None:
    log = from_times(pl.Series([moment.isoformat() for moment in moments]))
    order = sorted(range(len(moments)), key=lambda n: moments[n])
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    kept = [n for n in order]
    assert log.item.tolist() == kept
    assert log.time.tolist() == [(moments[n] - epoch) // timedelta(seconds=1) for n in kept]


@pytest.mark.parametrize(
    ("values", "line", "shown"),
    [
        (["5", "yesterday"], 4, "'yesterday'"),
        (["2020-01-01", "2020-02-30"], 4, "'2020-02-30'"),
        (["2020-01-01", "2020-01-01T25:00"], 4, "'2020-01-01T25:00'"),
        (["5", "6", "2020-01-01"], 5, "'2020-01-01'"),
        (["2020-01-01", "2020-01-01", "6"], 5, "'6'"),
        (["5", ""], 4, "is empty"),
        (["nan", "5"], 3, "is empty"),
        (["inf", "5"], 3, "'inf'"),
        (["5", "1e300"], 4, "'1e300'"),
    ],
)
def test_what_is_no_timestamp_is_shown_with_its_line(
    tmp_path: Path, values: list[str], line: int, shown: str
) -> None:
    rows = "".join(f"a,x,{value}\n" for value in values)
    with pytest.raises(CammsrError) as caught:
        from_csv(tmp_path, f"user,item,time\n\n{rows}")
    assert f"log.csv, line {line}: time" in caught.value.message
    assert shown in caught.value.message
    assert "--map timestamp=COLUMN" in (caught.value.hint or "")


def test_what_is_no_timestamp_in_parquet_and_json_lines(tmp_path: Path) -> None:
    with pytest.raises(CammsrError, match=r"log\.parquet, row 2: time is empty"):
        from_times(pl.Series([1, None]))
    with pytest.raises(CammsrError, match=r"log\.parquet, row 1: time is True"):
        from_times(pl.Series([True]))
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": 1, "item": 1, "time": 1}\n\n{"user": 1, "item": 1, "time": "x"}\n')
    with pytest.raises(CammsrError, match=r"log\.jsonl, line 3: time is 'x'"):
        read(open_table(path))


def test_a_row_that_is_dropped_anyway_may_hold_any_timestamp(tmp_path: Path) -> None:
    text = "user,item,time,rating\na,x,1,5\n,x,never,5\na,y,never,1\n"
    assert sequences(from_csv(tmp_path, text, Filters(min_rating=2))) == {"a": ["x"]}


# --- filters ------------------------------------------------------------------------------------


def test_least_rating(tmp_path: Path) -> None:
    text = "user,item,time,rating\na,x,1,4\na,y,2,3.9\nb,x,1, 5.0 \nb,y,2,1e0\n"
    log = from_csv(tmp_path, text, Filters(min_rating=4))
    assert sequences(log) == {"a": ["x"], "b": ["x"]}
    assert log.notes[0] == "2 events below rating 4 dropped"


def test_what_was_rated_too_low_is_kept_apart(tmp_path: Path) -> None:
    text = "user,item,time,rating\na,x,1,1\nb,x,1,5\na,y,2,5\nb,y,3,2\nb,y,4,5\na,z,5,2\na,z,6,1\n"
    log = from_csv(tmp_path, f"{text}c,x,1,1\n", Filters(min_rating=4))
    # b has taken to y since; nothing of c is left.
    assert (log.user_ids, log.item_ids) == (["a", "b"], ["x", "y"])
    assert log.rejected.rows() == [(0, "x", 0), (0, "z", 1)]
    assert from_csv(tmp_path, text).rejected.is_empty()


def test_ratings_with_decimal_commas(tmp_path: Path) -> None:
    text = "user;item;time;rating\na;x;1;4,5\na;y;2;3,9\nb;x;1;5\n"
    assert sequences(from_csv(tmp_path, text, Filters(min_rating=4))) == {"a": ["x"], "b": ["x"]}


def test_ids_that_may_be_lists_are_told(tmp_path: Path) -> None:
    text = "user,item,time\na,x|y|z,1\na,x|w,2\nb,y|z,3\n"
    [note] = [note for note in from_csv(tmp_path, text).notes if "lists" in note]
    assert note == (
        "ids of log.csv such as x|y|z (item) are each read as one item: if they are lists, write "
        "a row an item"
    )
    own = "user,item,time\na,x|1,1\na,y|2,2\nb,z|3,3\n"  # a key of two parts
    assert not [note for note in from_csv(tmp_path, own).notes if "lists" in note]


def test_the_last_event_of_an_item_decides_and_has_its_place(tmp_path: Path) -> None:
    text = "user,item,time,event\n" + "".join(
        f"{row}\n"
        for row in ("a,x,1,buy", "a,x,2,no", "a,y,3,buy", "a,z,4,buy", "a,z,5,no", "a,q,6,no")
    )
    path = tmp_path / "log.csv"
    path.write_text(text + "a,q,7,buy\nb,y,1,buy\nb,w,,no\n")
    table = open_table(path)
    marks = RowMarks(negative=table.frame["event"] == "no")
    log = read_interactions(table, COLUMNS, Filters(), marks)
    assert sequences(log) == {"a": ["x", "y", "z", "q"], "b": ["y"]}
    assert set(log.rejected.rows()) == {(0, "x", 1), (0, "z", 3), (1, "w", 1)}
    assert "4 negative events not learnt from" in log.notes
    assert "1 negative event without a time taken as the last" in log.notes
    by_rows = read_interactions(table, COLUMNS, Filters(order="file"), marks)
    assert set(by_rows.rejected.rows()) == {(0, "x", 1), (0, "z", 3), (1, "w", 1)}
    with pytest.raises(CammsrError, match="all 9 events are negative"):
        read_interactions(table, COLUMNS, Filters(), RowMarks(negative=table.frame["time"] != ""))


def test_of_exact_duplicates_the_most_weight_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\na,x,1\na,x,1\na,y,2\n")
    marks = RowMarks(weight=pl.Series([0.5, 2.0, 1.0], dtype=pl.Float32))
    log = read_interactions(open_table(path), COLUMNS, Filters(), marks)
    assert log.weight is not None
    assert log.weight.tolist() == [2.0, 1.0]
    assert log.weight.dtype == np.float32


@pytest.mark.parametrize("value", ["good", "", "nan", "inf"])
def test_what_is_no_rating_is_shown_where_ratings_matter(tmp_path: Path, value: str) -> None:
    text = f"user,item,time,rating\na,x,1,4\na,y,2,{value}\n"
    assert len(from_csv(tmp_path, text).item) == 2
    with pytest.raises(CammsrError, match=r"log\.csv, line 3: rating .*, not a number") as caught:
        from_csv(tmp_path, text, Filters(min_rating=4))
    assert ("empty" if value in ("", "nan") else repr(value)) in caught.value.message


DUPLICATES = "user,item,time\na,x,3\na,x,1\na,y,2\na,x,3\nb,x,3\n"


@pytest.mark.parametrize(
    ("policy", "rows"),
    [
        ("keep", [1, 2, 0, 3, 4]),
        ("exact", [1, 2, 0, 4]),
        ("first", [1, 2, 4]),
        ("last", [2, 3, 4]),
    ],
)
def test_duplicates(tmp_path: Path, policy: str, rows: list[int]) -> None:
    log = from_csv(tmp_path, DUPLICATES, Filters(duplicates=policy))
    assert log.row.tolist() == rows
    dropped = 5 - len(rows)
    noted = [note for note in log.notes if "duplicate" in note]
    assert len(noted) == (dropped > 0)
    assert all(note.startswith(f"{dropped} duplicate event") for note in noted)


def test_first_and_last_follow_the_file_where_the_file_gives_the_order(tmp_path: Path) -> None:
    log = from_csv(tmp_path, DUPLICATES, Filters(duplicates="first", order="file"))
    assert log.row.tolist() == [0, 2, 4]


def test_exact_duplicates_differ_by_less_than_a_second() -> None:
    frame = pl.DataFrame({"user": ["u"] * 3, "item": ["x"] * 3, "time": [1.5, 1.25, 1.5]})
    log = read(Table(Path("t.parquet"), frame, "rows"))
    assert log.row.tolist() == [1, 0]


def test_core_by_hand(tmp_path: Path) -> None:
    # c goes first (one event), z with it, then d, who is left with one.
    pairs = ["ax", "ay", "bx", "by", "cz", "dx", "dz"]
    text = "user,item,time\n" + "".join(f"{u},{i},{n}\n" for n, (u, i) in enumerate(pairs))
    log = from_csv(tmp_path, text, Filters(k_core=2))
    assert sequences(log) == {"a": ["x", "y"], "b": ["x", "y"]}
    assert log.dropped_items == {"z"}
    assert log.notes[-2] == "3 events outside the 2-core dropped, with 2 users and 1 item"


def brute_force_core(events: list[tuple[int, int]], k: int) -> list[int]:
    kept = list(range(len(events)))
    while True:
        users = Counter(events[n][0] for n in kept)
        items = Counter(events[n][1] for n in kept)
        left = [n for n in kept if users[events[n][0]] >= k and items[events[n][1]] >= k]
        if left == kept:
            return kept
        kept = left


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40),
    st.integers(1, 4),
)
def test_core_agrees_with_its_definition(events: list[tuple[int, int]], k: int) -> None:
    pairs = np.array(events, dtype=np.int64).reshape(-1, 2)
    assert k_core(pairs[:, 0], pairs[:, 1], k).tolist() == brute_force_core(events, k)


@pytest.mark.parametrize(
    ("text", "filters", "message"),
    [
        ("user,item,time\n,x,1\na,,2\n", Filters(), "no row has both a user and an item id"),
        (
            "user,item,time,rating\na,x,1,2\na,y,2,3\n",
            Filters(min_rating=4),
            "all 2 events are rated below 4",
        ),
        ("user,item,time\na,x,1\nb,y,2\n", Filters(k_core=2), r"2 events before the 2-core"),
    ],
)
def test_the_filter_that_leaves_nothing_is_named(
    tmp_path: Path, text: str, filters: Filters, message: str
) -> None:
    with pytest.raises(CammsrError, match=message):
        from_csv(tmp_path, text, filters)


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(1, 5)),
    min_size=1,
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(
    EVENTS, st.sampled_from(["exact", "keep", "first", "last"]), st.sampled_from(["time", "file"])
)
def test_any_log_agrees_with_plain_python(
    events: list[tuple[int, int, int, int]], duplicates: str, order: str
) -> None:
    frame = pl.DataFrame(events, schema=["user", "item", "time", "rating"], orient="row")
    table = Table(Path("t.parquet"), frame, "rows")
    rows = [n for n, event in enumerate(events) if event[3] >= 2]
    if not rows:
        with pytest.raises(CammsrError):
            read(table, Filters(2, duplicates, 0, order))
        return
    log = read(table, Filters(2, duplicates, 0, order))
    if order == "time":
        rows.sort(key=lambda n: events[n][2])
    width = {"exact": 3, "keep": 0, "first": 2, "last": 2}[duplicates]
    if width:
        seen = set()
        unique = []
        for n in reversed(rows) if duplicates == "last" else rows:
            if events[n][:width] not in seen:
                seen.add(events[n][:width])
                unique.append(n)
        rows = unique[::-1] if duplicates == "last" else unique
    appearance = list(dict.fromkeys(str(event[0]) for event in events))
    expected = sorted(rows, key=lambda n: appearance.index(str(events[n][0])))
    assert log.row.tolist() == expected
    assert log.user_ids == [u for u in appearance if any(str(events[n][0]) == u for n in rows)]
    assert [log.item_ids[item] for item in log.item] == [str(events[n][1]) for n in expected]
    assert log.time.tolist() == [events[n][2] for n in expected]
    assert [rows[rank] for rank in log.rank] == expected
