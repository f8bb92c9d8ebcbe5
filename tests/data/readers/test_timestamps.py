"""Times: a column written in any form is read back to the same instants, or the user is asked."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.data.corpus import SourceOptions, read_corpus
from cammsr_cli.data.event_filters import Filters
from cammsr_cli.data.interactions import Interactions, read_interactions
from cammsr_cli.data.readers.tables import Table
from cammsr_cli.data.readers.timestamps import NAMED_FORMATS, checked_time_format, finer_column
from cammsr_cli.errors import CammsrError, UsageError

COLUMNS = {"user": "user", "item": "item", "timestamp": "time"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOON = 1_577_880_000  # 2020-01-01 12:00 UTC


def read(times: pl.Series, time_format: str | None = None, order: str = "time") -> Interactions:
    count = len(times)
    frame = pl.DataFrame({"user": ["u"] * count, "item": [f"i{n}" for n in range(count)]})
    table = Table(Path("log.parquet"), frame.with_columns(time=times), "parquet")
    wanted = None if time_format is None else checked_time_format(time_format)
    return read_interactions(table, COLUMNS, Filters(order=order, time_format=wanted))


def seconds_of(moments: list[datetime]) -> list[int]:
    return [(moment - EPOCH) // timedelta(seconds=1) for moment in moments]


def in_file_order(times: pl.Series, time_format: str | None = None) -> list[int]:
    log = read(times, time_format, "file")
    assert log.row.tolist() == list(range(len(times)))
    return log.time.tolist()


def told(log: Interactions) -> str:
    [note] = [note for note in log.notes if note.startswith("times are those of")]
    return note


# --- any form -----------------------------------------------------------------------------------

Write = Callable[[datetime], str | int | float]


def unpadded(moment: datetime, form: str) -> str:
    return moment.strftime(form.replace("D", str(moment.day)).replace("N", str(moment.month)))


# How a form writes a moment, and the step of time that it can tell, in seconds.
FORMS: dict[str, tuple[Write, float]] = {
    "ISO 8601": (lambda m: m.isoformat(), 1e-6),
    "ISO 8601, naive": (lambda m: m.strftime("%Y-%m-%d %H:%M:%S.%f"), 1e-6),
    "ISO 8601, basic": (lambda m: m.strftime("%Y%m%dT%H%M%SZ"), 1),
    "with UTC": (lambda m: m.strftime("%Y-%m-%d %H:%M:%S UTC"), 1),
    "slashes, year first": (lambda m: m.strftime("%Y/%m/%d %H:%M"), 60),
    "dotted": (lambda m: m.strftime("%d.%m.%Y %H:%M:%S"), 1),
    "dotted, days": (lambda m: unpadded(m, "D.N.%Y"), 86_400),
    "C": (lambda m: m.strftime("%a %b %d %H:%M:%S %Y"), 1),
    "Goodreads": (lambda m: m.strftime("%a %b %d %H:%M:%S +0000 %Y"), 1),
    "mail": (lambda m: m.strftime("%a, %d %b %Y %H:%M:%S +0000"), 1),
    "JavaScript": (lambda m: m.strftime("%a %b %d %Y %H:%M:%S GMT+0000 (Some Place)"), 1),
    "Apache": (lambda m: m.strftime("%d/%b/%Y %H:%M:%S +0000"), 1),
    "long": (lambda m: unpadded(m, "%B D, %Y"), 86_400),
    "long, half days": (lambda m: m.strftime("%b %d, %Y, %I:%M %p"), 60),
    "YYYYMM": (lambda m: int(m.strftime("%Y%m")), 0),
    "YYYYMMDD": (lambda m: int(m.strftime("%Y%m%d")), 86_400),
    "YYYYMMDDHH": (lambda m: int(m.strftime("%Y%m%d%H")), 3_600),
    "YYYYMMDDHHMM": (lambda m: int(m.strftime("%Y%m%d%H%M")), 60),
    "YYYYMMDDHHMMSS": (lambda m: m.strftime("%Y%m%d%H%M%S"), 1),
    "seconds": (lambda m: (m - EPOCH) // timedelta(seconds=1), 1),
    "seconds with a fraction": (lambda m: (m - EPOCH) / timedelta(seconds=1), 1e-6),
    "milliseconds": (lambda m: (m - EPOCH) // timedelta(milliseconds=1), 1e-3),
    "microseconds": (lambda m: (m - EPOCH) // timedelta(microseconds=1), 1e-6),
    "nanoseconds": (lambda m: 1_000 * ((m - EPOCH) // timedelta(microseconds=1)), 1e-6),
    "Excel": (lambda m: 25_569 + (m - EPOCH) / timedelta(days=1), 1),
}
MOMENTS = st.lists(
    st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC)),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("as_text", [True, False])
@settings(max_examples=15, deadline=None)
@given(moments=MOMENTS)
def test_a_column_of_any_form_is_read_back_to_the_same_instants(
    form: str, as_text: bool, moments: list[datetime]
) -> None:
    write, step = FORMS[form]
    if form == "YYYYMMDDHH":  # from 2030 on these numbers may be seconds, and no log is of then
        moments = [moment.replace(year=min(moment.year, 2029)) for moment in moments]
    if form == "YYYYMM":
        moments = [moment.replace(day=1, hour=0, minute=0, second=0) for moment in moments]
    if step >= 1:
        moments = [
            EPOCH + timedelta(seconds=(moment - EPOCH).total_seconds() // step * step)
            for moment in moments
        ]
    values = [write(moment) for moment in moments]
    times = pl.Series([str(value) for value in values] if as_text else values)
    assert in_file_order(times) == seconds_of(moments)


@settings(max_examples=15, deadline=None)
@given(
    moments=MOMENTS,
    pattern=st.sampled_from(
        [
            ("%d/%m/%Y %H:%M:%S", "day-first"),
            ("%m/%d/%Y %I:%M:%S %p", "month-first"),
            ("%d-%m-%y %H:%M:%S", "day-first"),
            ("%y/%m/%d %H:%M:%S", "year-first"),
        ]
    ),
)
def test_days_and_months_that_may_be_swapped_are_asked_for(
    moments: list[datetime], pattern: tuple[str, str]
) -> None:
    moments = [moment.replace(microsecond=0, year=max(moment.year, 2000)) for moment in moments]
    times = pl.Series([moment.strftime(pattern[0]) for moment in moments])
    expected = seconds_of(moments)
    assert in_file_order(times, pattern[0]) == expected
    assert in_file_order(times, pattern[1]) == expected
    others = {in_order for in_order in ORDERS if may_be_read(times, in_order, expected)}
    if others:
        with pytest.raises(CammsrError, match="tells which") as asked:
            in_file_order(times)
        assert f"--time-format {pattern[1]}" in (asked.value.hint or "")
    else:
        assert in_file_order(times) == expected


ORDERS = ("day-first", "month-first", "year-first")


def may_be_read(times: pl.Series, order: str, expected: list[int]) -> bool:
    """Whether all of a column may be read in that order, to other times."""
    try:
        return in_file_order(times, order) != expected
    except CammsrError:
        return False


def test_a_column_that_allows_two_readings_is_asked_for() -> None:
    with pytest.raises(CammsrError) as asked:
        read(pl.Series(["5/5/2024 2:05 PM", "3/4/2024 2:05 PM"]))
    assert asked.value.message == (
        "log.parquet, row 2: time '3/4/2024 2:05 PM' is 2024-04-03 (day-first) or 2024-03-04 "
        "(month-first), and no row of log.parquet tells which"
    )
    assert asked.value.hint == "Say which: --time-format day-first or --time-format month-first"
    assert in_file_order(pl.Series(["5/5/2024"])) == [1_714_867_200]  # both are the same


@pytest.mark.parametrize(
    ("values", "row", "like"),
    [
        (["13/01/2024", "01/13/2024", "14/01/2024"], 2, "day first"),
        (["2024-01-02", "2024-01/03"], 2, "year first"),
        (["20240101", "20240102"] * 5 + ["20240230"], 11, "YYYYMMDD"),
        (["1 Jan 2024", "2 Jam 2024"], 2, "1 Jan 2024"),
        (["1 Jan 2024 13:00 PM", "1 Jan 2024 1:00 PM"], 1, "1 Jan 2024"),
        (["20.03.2024", "2024-03-21", "22.03.2024"], 2, "day first"),
    ],
)
def test_a_value_unlike_the_others_is_shown_with_what_they_are(
    values: list[str], row: int, like: str
) -> None:
    with pytest.raises(CammsrError, match=rf"row {row}: time is .*like the others \(") as caught:
        read(pl.Series(values))
    assert like in caught.value.message
    assert "--time-format" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("values", "name", "second"),
    [
        (pl.Series(["12"]), "seconds", 12),
        (pl.Series([12_000]), "milliseconds", 12),
        (pl.Series([20_200_101]), "seconds", 20_200_101),
        (pl.Series(["1.5"]), "excel", -2_209_161_600 + 86_400 + 43_200),
        (pl.Series([20_200_101]), "%Y%m%d", NOON - 43_200),
        (pl.Series([20_200_101.0]), "%Y%m%d", NOON - 43_200),
        (pl.Series(["12:00:00.250 1/1/2020"]), "%H:%M:%S.%f %d/%m/%Y", NOON),
        (pl.Series(["2020-01-01 13:00+0100"]), "%Y-%m-%d %H:%M%z", NOON),
        (pl.Series(["01/02/2020"]), "month-first", NOON + 43_200),
    ],
)
def test_a_form_that_is_said_is_taken(values: pl.Series, name: str, second: int) -> None:
    assert in_file_order(values, name) == [second]


def test_a_form_that_is_said_and_does_not_fit_is_told() -> None:
    with pytest.raises(CammsrError, match=r"row 2: time is '2020', .*like the others \(%d/%m/%Y"):
        read(pl.Series(["01/02/2020", "2020"]), "%d/%m/%Y")
    with pytest.raises(CammsrError, match="row 1"):
        read(pl.Series([date(2020, 1, 1)]), "%d/%m/%Y")
    for wrong in ("days", "%Y%m%d%H", ""):
        with pytest.raises(UsageError, match="--time-format"):
            checked_time_format(wrong)
    assert [checked_time_format(name) for name in NAMED_FORMATS] == list(NAMED_FORMATS)


# --- units --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(315_532_800, 4_102_444_799), st.integers(0, 3)), min_size=1))
def test_mixed_units_are_each_read_in_their_own(times: list[tuple[int, int]]) -> None:
    values = pl.Series([second * 1_000**power for second, power in times])
    compact = values.is_between(1_900_000_000, 2_101_000_000).any()
    if compact:  # such seconds of the 2030s may be YYYYMMDDHH
        return
    assert in_file_order(values) == [second for second, _ in times]
    if len({power for _, power in times}) > 1:
        assert "numbers of several units, each read in its own" in told(read(values))


@pytest.mark.parametrize(
    ("early", "others"),
    [
        (0, [NOON, NOON + 1]),
        (-62_135_596_800_000, [NOON * 1000, NOON * 1000 + 1]),
        ("0001-01-01", ["2020-01-01", "2020-01-02"]),
        ("1970-01-01T00:00:00Z", ["2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"]),
        (date(1900, 1, 1), [date(2020, 1, 1), date(2020, 1, 2)]),
    ],
)
def test_times_that_stand_for_none_are_told(early: object, others: list[object]) -> None:
    log = read(pl.Series([others[0], early, others[1]]))
    assert log.item.tolist() == [1, 0, 2]
    [note] = [note for note in log.notes if "earlier than 1980" in note]
    assert note.startswith("1 event earlier than 1980, such as time ")
    assert "(log.parquet, row 2), put first" in note
    assert not [note for note in read(pl.Series(others)).notes if "1980" in note]


# --- what is told -------------------------------------------------------------------------------


def test_what_was_understood_is_told_once() -> None:
    days = read(pl.Series(["20/03/2024", "21/03/2024", "21/03/2024", "22/03/2024"]))
    assert days.notes == [
        "times are those of column 'time' of log.parquet: dates such as '20/03/2024', day first, "
        "days without a clock, 2024-03-20 to 2024-03-22; 50% of events share theirs with another "
        "of the same user: their order says nothing (--order file if that of the rows does)"
    ]
    assert told(read(pl.Series([NOON, NOON + 30]))).endswith(
        "numbers of seconds, 2020-01-01 12:00:00 to 2020-01-01 12:00:30; 0% of events share "
        "theirs with another of the same user"
    )
    assert "share" not in told(read(pl.Series([NOON, NOON]), order="file"))


# --- finer columns ------------------------------------------------------------------------------

DAYS = [20_220_408, 20_220_408, 20_220_409, 20_220_409]
CLOCKS = [1_649_400_204_002, 1_649_396_604_001, 1_649_480_000_000, 1_649_490_000_123]


def log_table(**columns: list[object]) -> Table:
    base = {"user": ["u"] * 4, "item": [f"i{n}" for n in range(4)]}
    return Table(Path("log.csv"), pl.DataFrame(base | columns), "parquet")


@pytest.mark.parametrize(
    ("coarse", "fine", "found"),
    [
        (DAYS, CLOCKS, True),
        ([c // 1000 for c in CLOCKS], CLOCKS, True),
        (DAYS, [c + 7 * 86_400_000 for c in CLOCKS], False),  # a week later: something else
        (CLOCKS, DAYS, False),
        (DAYS, DAYS, False),
        (DAYS, [3, 1, 2, 4], False),
        (DAYS, ["a", "b", "c", "d"], False),
        ([c // 3_600_000 * 3_600 for c in CLOCKS], [c // 1000 + 7_200 for c in CLOCKS], True),
    ],
)
def test_finer_times_are_found(coarse: list[object], fine: list[object], found: bool) -> None:
    table = log_table(coarse=coarse, fine=fine, other=["x"] * 4)
    assert finer_column(table, "coarse", ["other", "fine"]) == ("fine" if found else None)


def test_the_finer_of_two_columns_of_times_is_taken_and_told(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = "".join(f"u,i{n},{day},1400,{CLOCKS[n]}\n" for n, day in enumerate(DAYS))
    path.write_text(f"user,item,date,hourmin,clock\n{rows}")
    corpus = read_corpus(SourceOptions(path))
    assert corpus.event_time.tolist() == sorted(clock // 1000 for clock in CLOCKS)
    assert (
        "timestamp read from column 'clock' of log.csv, which is finer than 'date' "
        "(to choose: --map timestamp=date)"
    ) in corpus.notes
    mapped = read_corpus(SourceOptions(path, columns={"timestamp": "date"}))
    assert len(set(mapped.event_time.tolist())) == 2
    assert any("column 'clock' of log.csv tells times more finely" in n for n in mapped.notes)


def test_zones_are_respected() -> None:
    zone = timezone(timedelta(hours=-9, minutes=-30))
    moment = datetime(2017, 7, 30, 7, 44, 10, tzinfo=zone)
    for form in ("%a %b %d %H:%M:%S %z %Y", "%d %b %Y %H:%M:%S %z", "%m/%d/%Y %I:%M:%S %p %z"):
        assert in_file_order(pl.Series([moment.strftime(form)])) == seconds_of([moment])
