"""Whatever stands in raw files: read or refused with a message, and every row accounted for."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cammsr_cli.data.corpus import Corpus, SourceOptions, read_corpus
from cammsr_cli.data.readers.file_contents import Reading, checked_encoding
from cammsr_cli.data.readers.tables import open_table
from cammsr_cli.errors import CammsrError

quick = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Rows = list[dict[str, str]]

TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
ODD = st.sampled_from(
    [
        *("", " ", "007", "7", "7.0", "1e3", "-1", "0x10", "nan", "NaN", "null", "None", "inf"),
        *('"', '""', "'", "a\nb", "a\r\nb", "a\rb", "\r", ",", ";", "\t", "|", "a\x00b", "\x00"),
        *("é", "😀", "\u2028", "\ufeff", "e\u0301", "[", "[]", "{}", "[1, null]", "{'a': [1]}"),
        *("<p>x", "&amp;", "=1+1", "#", "2020-01-01", "../../x", "http://x/y.jpg", "\x1a", "\\"),
    ]
)
CELL = ODD | TEXT
ID = st.sampled_from(["u1", "u2", "007", "7", "é", "😀", "a b", " 7", "7 ", "", "\x00", "x\ny"])
TIME = st.sampled_from(
    [
        *("1", "-1", "0", "1500000000", "1500000000000", "-99999999999", "1e9", "1.5", ""),
        *("9223372036854775807", "-9223372036854775808", "99999999999999999999", "1e400", "nan"),
        *("2020-01-01", "2020-13-01", "9999-12-31T23:59:59Z", "0001-01-01", "yesterday", "-0"),
    ]
)
NAMES = st.sampled_from(
    [
        *("user", "item", "timestamp", "rating", "review", "title", "description", "category"),
        *("image", "video", "genres", "tags", "price", "", " ", "é", "a/b", ".", "item_id", "id"),
    ]
)


SOUND_TIME = st.integers(-(10**6), 10**6).map(str)


def rows_of(columns: st.SearchStrategy[list[str]]) -> st.SearchStrategy[Rows]:
    """Rows of one set of columns; of three tables two have sound times throughout."""

    def cell(column: str, time: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        if column in ("user", "item", "item_id", "id"):
            return ID
        return time if column == "timestamp" else CELL

    def rows(drawn: tuple[list[str], st.SearchStrategy[str]]) -> st.SearchStrategy[Rows]:
        names, time = drawn
        cells = {name: cell(name, time) for name in names}
        return st.lists(st.fixed_dictionaries(cells), min_size=1, max_size=6)

    return st.tuples(columns, st.sampled_from([SOUND_TIME, SOUND_TIME, TIME])).flatmap(rows)


LOGS = rows_of(
    st.lists(NAMES, max_size=3, unique=True).map(
        lambda more: list(dict.fromkeys(["user", "item", "timestamp", *more]))
    )
    | st.lists(NAMES, min_size=1, max_size=4, unique=True)
)
ITEMS = rows_of(
    st.lists(NAMES, max_size=5, unique=True).map(lambda more: list(dict.fromkeys(["item", *more])))
)


def as_delimited(separator: str, quoting: int) -> Callable[[list[dict[str, object]]], bytes]:
    def write(rows: list[dict[str, object]]) -> bytes:
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=separator, quoting=quoting, lineterminator="\n")
        writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)
        return stream.getvalue().encode()

    return write


def as_json_lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_python_lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(repr(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def as_parquet(rows: list[dict[str, object]]) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(rows, strict=False, infer_schema_length=None).write_parquet(stream)
    return stream.getvalue()


WRITERS = st.sampled_from(
    [
        (".csv", as_delimited(",", csv.QUOTE_MINIMAL)),
        (".csv", as_delimited(",", csv.QUOTE_ALL)),
        (".csv", as_delimited(";", csv.QUOTE_ALL)),
        (".tsv", as_delimited("\t", csv.QUOTE_ALL)),
        (".jsonl", as_json_lines),
        (".json", as_python_lines),
        (".parquet", as_parquet),
    ]
)


def said(notes: list[str], pattern: str) -> int:
    """The sum of the counts in the notes that match."""
    found = [re.match(rf"([\d,]+) {pattern}", note) for note in notes]
    return sum(int(match[1].replace(",", "")) for match in found if match)


def assert_all_rows_told(corpus: Corpus, logged: int, listed: int | None) -> None:
    """Rows written = rows kept + rows that a note counts; names are those of `corpus_of`."""
    left_out = (
        said(corpus.notes, r"rows? without a user or an item id dropped")
        + said(corpus.notes, r"duplicate events? .* dropped")
        + said(corpus.notes, r"events? below rating .* dropped")
        + said(corpus.notes, r"rows? of log\S* without any value left out")
    )
    assert len(corpus.event_item) + left_out == logged, corpus.notes
    if listed is not None:
        left_out = (
            said(corpus.notes, r"rows? of items\S* without an item id dropped")
            + said(corpus.notes, r"rows? of items\S* repeating an item id dropped")
            + said(corpus.notes, r"rows? of items\S* without any value left out")
        )
        kept = sum(row is not None for row in corpus.item_rows)
        assert kept + left_out == listed, corpus.notes


def assert_one_line(refused: CammsrError) -> None:
    assert len(refused.message.split("\n")) == 1, refused.message
    assert refused.hint


def assert_sound(corpus: Corpus) -> None:
    """What everything after reading takes for granted."""
    items = len(corpus.item_ids)
    assert len(set(corpus.item_ids)) == items
    assert len(set(corpus.user_ids)) == len(corpus.user_ids)
    assert all(len(values) == items for values in corpus.fields.values())
    for values in (
        corpus.item_ids,
        corpus.user_ids,
        corpus.category_names,
        *corpus.fields.values(),
    ):
        assert not any("\x00" in value for value in values if value), "HDF5 holds no NUL"
        for value in values:
            (value or "").encode()
    assert corpus.category_indptr[-1] == len(corpus.category_index)
    assert corpus.event_indptr[-1] == len(corpus.event_item)


@quick
@given(LOGS, ITEMS | st.none(), WRITERS, WRITERS, st.sampled_from(["time", "file"]), st.booleans())
def test_any_table_is_read_or_refused_and_every_row_told(
    tmp_path_factory: pytest.TempPathFactory,
    log: Rows,
    items: Rows | None,
    log_writer: tuple[str, Callable[..., bytes]],
    items_writer: tuple[str, Callable[..., bytes]],
    order: str,
    level: bool,
) -> None:
    folder = tmp_path_factory.mktemp("p")
    log_path = folder / f"log{log_writer[0]}"
    log_path.write_bytes(log_writer[1](log))
    items_path = None
    if items is not None:
        items_path = folder / f"items{items_writer[0]}"
        items_path.write_bytes(items_writer[1](items))
    chosen = "all" if level else None
    options = SourceOptions(log_path, items_path, order=order, category_level=chosen)
    try:
        corpus = read_corpus(options)
    except CammsrError as refused:
        assert_one_line(refused)
        return
    assert_sound(corpus)
    assert_all_rows_told(corpus, len(log), None if items is None else len(items))


ID_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=5)


@quick
@given(
    st.lists(ID_TEXT.filter(str.strip) | st.sampled_from(["007", "7", "1e3", "-0", "NaN", "null"])),
    WRITERS,
)
def test_ids_are_kept_as_they_are_written(
    tmp_path_factory: pytest.TempPathFactory,
    ids: list[str],
    writer: tuple[str, Callable[..., bytes]],
) -> None:
    ids = ["1", *ids]
    path = tmp_path_factory.mktemp("p") / f"log{writer[0]}"
    path.write_bytes(writer[1]([{"user": one, "item": one, "time": "1"} for one in ids]))
    expected = [one.replace("\x00", "").strip() for one in ids]
    corpus = read_corpus(SourceOptions(path, reading=Reading(missing=frozenset())))
    assert corpus.item_ids == list(dict.fromkeys(one for one in expected if one))
    assert corpus.user_ids == corpus.item_ids
    assert_all_rows_told(corpus, len(ids), None)


# --- typed values -------------------------------------------------------------------------------

NESTED: list[object] = []
for _ in range(60):
    NESTED = [NESTED]

VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | CELL
    | st.dates(date(1, 1, 1), date(9999, 1, 1)).map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELL, inner, max_size=2),
    max_leaves=5,
)
TYPED = st.sampled_from([st.integers(), st.floats(-1e9, 1e9), VALUE]).flatmap(
    lambda time: st.lists(
        st.fixed_dictionaries(
            {
                "user": ID | st.integers(0, 3),
                "item": ID | st.integers(-(2**65), 2**65),
                "timestamp": time,
            },
            optional={name: VALUE for name in ("title", "category", "image", "rating")},
        ),
        min_size=1,
        max_size=4,
    )
)


@quick
@given(TYPED, st.sampled_from([(".jsonl", as_json_lines), (".json", as_python_lines)]))
@example([{"user": 1, "item": 1, "title": NESTED}], (".jsonl", as_json_lines))
@example([{"user": 1, "item": 1, "title": NESTED}], (".json", as_python_lines))
def test_json_of_any_types_is_read_or_refused_and_every_row_told(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, object]],
    writer: tuple[str, Callable[..., bytes]],
) -> None:
    folder = tmp_path_factory.mktemp("p")
    raw = writer[1](rows)
    (folder / f"log{writer[0]}").write_bytes(raw)
    (folder / f"items{writer[0]}").write_bytes(raw)
    paths = [folder / f"{name}{writer[0]}" for name in ("log", "items")]
    try:
        corpus = read_corpus(SourceOptions(*paths, order="file"))
    except CammsrError as refused:
        assert_one_line(refused)
        return
    assert_sound(corpus)
    assert_all_rows_told(corpus, len(rows), len(rows))


FRAMES = st.sampled_from(
    [
        pl.Series([1.5, float("nan"), float("inf"), None]),
        pl.Series([2**63, 1, 2, None], dtype=pl.UInt64),
        pl.Series([2.0**60, 1.0, 2.0, None]),
        pl.Series([date(1, 1, 1), None, date(9999, 1, 1), None]),
        pl.Series(["1.5", "2", None, "3"]).cast(pl.Decimal(10, 2)),
        pl.Series(["a", "b", None, "a"], dtype=pl.Categorical),
        pl.Series(["a", "b", None, "a"], dtype=pl.Enum(["a", "b"])),
        pl.Series([b"a", b"\xff", None, b""]),
        pl.Series([True, False, None, True]),
        pl.Series([[1], [], None, [None]], dtype=pl.List(pl.Int64)),
        pl.Series([{"a": 1}, {"a": None}, None, {"a": 2}]),
        pl.Series([None] * 4, dtype=pl.Null),
        pl.Series([1, 2, None, 4]).cast(pl.Duration("ms")),
        pl.Series([1, 2, None, 4]).cast(pl.Time),
        pl.Series([-(2**63), 2**62, None, 4]).cast(pl.Datetime("ns")),
        pl.Series([-(2**53), 2**62, None, 4]).cast(pl.Datetime("us", "Europe/Berlin")),
        pl.Series([[1, 2]] * 4, dtype=pl.Array(pl.Int64, 2)),
        pl.Series([-(2**100), 2**100, None, 4], dtype=pl.Int128),
        pl.Series(["x", "y", "x", "y"]),
        pl.Series([1, 2, 3, 4]),
    ]
)


@quick
@given(st.fixed_dictionaries({name: FRAMES for name in ("user", "item", "timestamp", "title")}))
def test_parquet_of_any_types_is_read_or_refused_and_every_row_told(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, pl.Series]
) -> None:
    folder = tmp_path_factory.mktemp("p")
    paths = [folder / "log.parquet", folder / "items.parquet"]
    for path in paths:
        frame = pl.DataFrame({name: values.alias(name) for name, values in columns.items()})
        frame.with_columns(category="title", image="title", rating="title").write_parquet(path)
    try:
        corpus = read_corpus(SourceOptions(*paths))
    except CammsrError as refused:
        assert_one_line(refused)
        return
    assert_sound(corpus)
    assert_all_rows_told(corpus, 4, 4)


# --- bytes --------------------------------------------------------------------------------------

PIECES = st.lists(
    st.sampled_from(
        [
            *(b"user,item,timestamp\n", b"u,i,1\n", b"1::2::3::4\n", b"a\tb\tc\n", b"\n", b"\r"),
            *(b'"', b'""', b",", b";", b"|", b"::", b"\t", b"\x00", b"\xff", b"\xc3\xa9", b"\xe9"),
            *(
                b"\xef\xbb\xbf",
                b"\xff\xfe",
                b'{"user": 1, "item": 2, "timestamp": 3}\n',
                b"{",
                b"}",
            ),
            *(b"[", b"]", b"{'asin': 'x'}\n", b"user_id:token\titem_id:token\n", b"PAR1", b"1"),
        ]
    )
    | st.binary(max_size=4),
    max_size=12,
).map(b"".join)
FILE_NAMES = st.sampled_from(
    [
        *(
            "log.csv",
            "log.tsv",
            "log.jsonl",
            "log.json",
            "log.parquet",
            "log.csv.gz",
            "log.csv.zst",
        ),
        *("log.inter", "log.item", "ratings.dat", "u.data"),
    ]
)


@settings(quick, max_examples=100)
@given(
    PIECES,
    FILE_NAMES,
    st.sampled_from([None, "utf-8", "latin-1", "utf-16", "utf-7", "utf-32", "gb18030", "idna"]),
    st.sampled_from(["time", "file"]),
)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    name: str,
    encoding: str | None,
    order: str,
) -> None:
    folder = tmp_path_factory.mktemp("p")
    (folder / name).write_bytes(content)
    for partner in {"ratings.dat": "movies.dat", "u.data": "u.item"}.values():
        (folder / partner).write_bytes(content)
    for source in (folder / name, folder):
        try:
            codec = encoding and checked_encoding(encoding)
            assert_sound(read_corpus(SourceOptions(source, reading=Reading(codec), order=order)))
        except CammsrError as refused:
            assert_one_line(refused)


# A return, and control characters, whose bytes are letters of cp1252.
NOT_LATIN_1 = "\r" + "".join(map(chr, range(0x80, 0xA0)))


@quick
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(codec="latin-1", exclude_characters=NOT_LATIN_1))] * 2),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([".csv", ".tsv", ".jsonl"]),
    st.sampled_from(["latin-1", "utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_any_encoding_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[tuple[str, str]],
    extension: str,
    encoding: str,
) -> None:
    rows = [{"k": str(number), "a": a, "b": b} for number, (a, b) in enumerate(cells)]
    separator = "\t" if extension == ".tsv" else ","
    if extension == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = as_delimited(separator, csv.QUOTE_ALL)(rows).decode()
    path = tmp_path_factory.mktemp("p") / f"t{extension}"
    path.write_bytes(text.encode(encoding))
    frame = open_table(path, Reading(encoding, missing=frozenset())).frame
    assert [tuple(value or "" for value in row) for row in frame.rows()] == [
        tuple(row.values()) for row in rows
    ]


# --- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extension", "write"),
    [
        (".csv", as_delimited(",", csv.QUOTE_MINIMAL)),
        (".tsv", as_delimited("\t", csv.QUOTE_ALL)),
        (".jsonl", as_json_lines),
        (".json", as_python_lines),
        (".parquet", as_parquet),
    ],
)
def test_fields_of_ten_megabytes(
    tmp_path: Path, extension: str, write: Callable[..., bytes]
) -> None:
    long = 'line, "é"\n' * 1_000_000
    rows = [
        {"item": "a", "title": "short", "description": long},
        {"item": "b", "title": '5" stray', "description": "after"},
    ]
    raw = write(rows)
    if extension == ".csv":  # what polars refuses goes row by row
        raw = raw.replace(b'"5"" stray"', b'5" stray')
    (tmp_path / f"items{extension}").write_bytes(raw)
    (tmp_path / "interactions.csv").write_text("user,item,timestamp\nu,a,1\nu,b,2\n")
    corpus = read_corpus(SourceOptions(tmp_path))
    assert corpus.fields["title"] == ["short", '5" stray']
    assert corpus.fields["description"] == [long.strip(), "after"]


def test_many_rows_with_newlines_in_their_fields(tmp_path: Path) -> None:
    # Large enough for polars to read it in several pieces at once.
    rows = [{"item": f"{n:06}", "title": 'a\n"b", c\n' * (n % 7)} for n in range(60_000)]
    path = tmp_path / "items.csv"
    path.write_bytes(as_delimited(",", csv.QUOTE_MINIMAL)(rows))
    frame = open_table(path).frame
    assert frame["item"].to_list() == [row["item"] for row in rows]
    assert [title or "" for title in frame["title"]] == [row["title"] for row in rows]


def test_times_far_away_stay_in_order(tmp_path: Path) -> None:
    times = [-99_999_999_999, -1, 0, 1, 99_999_999_999]
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "".join(f"u,{n},{t}\n" for n, t in enumerate(times)))
    corpus = read_corpus(SourceOptions(path))
    assert corpus.event_time.tolist() == times
    assert Counter(corpus.event_part.tolist()) == {0: 3, 1: 1, 2: 1}
    assert math.isfinite(corpus.event_time.sum())
