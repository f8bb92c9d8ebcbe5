"""Tables: every format, every compression, and one clear error for every kind of broken file."""

import csv
import gzip
import io
import json
from pathlib import Path

import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cammsr_cli.data.readers.file_contents import MISSING, Reading, checked_encoding
from cammsr_cli.data.readers.tables import columns_of, open_table
from cammsr_cli.errors import CammsrError, UsageError

ROWS = [("007", "Amélie"), ("8", 'with "quotes", commas\nand lines')]
PACKERS = {"": lambda raw: raw, ".gz": gzip.compress, ".zst": zstandard.compress}


def delimited(separator: str, rows: list[tuple[str, ...]] = ROWS) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, delimiter=separator).writerows([("id", "name"), *rows])
    return stream.getvalue().encode()


def parquet() -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(ROWS, schema=["id", "name"], orient="row").write_parquet(stream)
    return stream.getvalue()


def json_lines() -> bytes:
    return b"".join(json.dumps({"id": a, "name": b}).encode() + b"\n" for a, b in ROWS)


CONTENTS = {
    ".csv": delimited(","),
    ".tsv": delimited("\t"),
    ".jsonl": json_lines(),
    ".ndjson": json_lines(),
    ".parquet": parquet(),
}


def read_table(path: Path, encoding: str | None = None) -> pl.DataFrame:
    return open_table(path, Reading(encoding)).frame


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("extension", CONTENTS)
def test_every_format_yields_the_same_rows(tmp_path: Path, extension: str, packing: str) -> None:
    path = written(tmp_path, f"t{extension}{packing}", PACKERS[packing](CONTENTS[extension]))
    frame = read_table(path)
    assert frame.columns == ["id", "name"]
    assert frame.rows() == ROWS


def test_extensions_are_told_in_upper_case_too(tmp_path: Path) -> None:
    assert read_table(written(tmp_path, "T.CSV", b"a\n1\n")).rows() == [("1",)]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, name: str) -> None:
    content = {"t.csv": b"id\n1\n", "t.jsonl": b'{"id": "1"}\n'}[name]
    frame = read_table(written(tmp_path, name, b"\xef\xbb\xbf" + content))
    assert frame.columns == ["id"]
    assert frame.rows() == [("1",)]


def test_every_delimited_column_is_a_string(tmp_path: Path) -> None:
    frame = read_table(written(tmp_path, "t.csv", b"id,n,when\n007,1.50,2020-01-01\n"))
    assert frame.rows() == [("007", "1.50", "2020-01-01")]
    assert set(frame.dtypes) == {pl.String}


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_line_ends(tmp_path: Path, ending: bytes) -> None:
    path = written(tmp_path, "t.csv", ending.join([b"a,b", b"1,2", b"3,4"]))
    assert read_table(path).rows() == [("1", "2"), ("3", "4")]
    assert open_table(path).place(1).endswith("line 3")


def test_blank_rows_are_left_out_and_counted_as_lines(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "t.csv", b'a,b\n\n1,"x\ny"\n,\n3,4\n\n'))
    assert table.frame.rows() == [("1", "x\ny"), ("3", "4")]
    assert table.notes == ("3 rows of t.csv without any value left out",)
    assert table.place(0).endswith("t.csv, line 3")
    assert table.place(1).endswith("t.csv, line 6")


def test_places_in_json_lines_and_parquet(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "t.jsonl", b'{"a": 1}\n\n{"a": 2}\n'))
    assert table.place(1).endswith("line 3")
    table = open_table(written(tmp_path, "t.parquet", CONTENTS[".parquet"]))
    assert table.place(1).endswith("row 2")


def test_stray_quotes_are_kept(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "t.csv", b'id,size,x\n1,5" disk,\n2,ok,\n'))
    assert table.frame.rows() == [("1", '5" disk', None), ("2", "ok", None)]


@pytest.mark.parametrize("stray", ["", '"'])
@pytest.mark.parametrize("empty", ["\n", "\r\n", ""])
def test_short_rows_are_refused_with_their_line(tmp_path: Path, stray: str, empty: str) -> None:
    text = f'id,title,x\n1,5{stray} disk,\n{empty}2,ok\n3,"a\nb",\n4\n,,\n'
    with pytest.raises(CammsrError, match="2 fields, but the header has 3") as caught:
        read_table(written(tmp_path, "t.csv", text.encode()))
    assert f"line {3 + bool(empty)}: " in caught.value.message
    assert "(the first of 2 such lines)" in caught.value.message


def test_tsv_whose_quotes_do_not_add_up_has_none(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "t.tsv", b'id\tname\n1\t"open\n2\t5" disk\n'))
    assert table.frame.rows() == [("1", '"open'), ("2", '5" disk')]
    assert table.place(1).endswith("line 3")


def test_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    polars = read_table(written(tmp_path, "a.csv", b"a,a,a\n1,2,3\n"))
    ours = read_table(written(tmp_path, "b.csv", b'a,a,a\n1,x"y,3\n'))
    assert polars.columns == ours.columns


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([{"a": 1}, {"a": "007"}], ["1", "007"]),
        ([{"a": "x"}, {"a": ["y"]}], ["x", '["y"]']),
        ([{"a": True}, {"a": "x"}, {"a": 1.5}], ["true", "x", "1.5"]),
        ([{"b": 1}, {"a": "x"}], [None, "x"]),
        ([{"a": float("nan")}, {"a": "x"}, {"a": ["y"]}], [None, "x", '["y"]']),
        ([{"a": "\ud800"}, {"a": float("nan")}], ["?", None]),
    ],
)
def test_json_lines_of_mixed_types(
    tmp_path: Path, lines: list[dict[str, object]], expected: list[str | None]
) -> None:
    content = "\n".join(json.dumps(line) for line in lines).encode()
    assert read_table(written(tmp_path, "t.jsonl", content))["a"].to_list() == expected


BROKEN = {
    "empty.csv": (b"", "is empty"),
    "blank.jsonl": (b"\n \n", "is empty"),
    "empty.csv.gz": (gzip.compress(b""), "is empty"),
    "empty.parquet": (b"", "is empty"),
    "header.csv": (b"a,b\n", "header but no rows"),
    "header.tsv": (b"a\tb\n\n\n", "header but no rows"),
    "keyless.jsonl": (b"{}\n{}\n", "names no columns"),
    "cut.csv.gz": (gzip.compress(b"a,b\n" + b"1,2\n" * 999)[:-12], "cut short or damaged"),
    "cut.csv.zst": (zstandard.compress(b"a,b\n" + b"1,2\n" * 999)[:-3], "cut short or damaged"),
    "no.csv.gz": (b"a,b\n1,2\n", "cut short or damaged"),
    "no.csv.zst": (b"a,b\n1,2\n", "cut short or damaged"),
    "kyrillic.csv": ("a,b\n1,x\n2,кино\n".encode("cp1251"), "line 3: not UTF-8"),
    "kyrillic_header.csv": ("a,кино\n1,x\n".encode("cp1251"), "line 1: not UTF-8"),
    "kyrillic.jsonl": ('{"a": 1}\n{"a": "кино"}\n'.encode("cp1251"), "line 2: not UTF-8"),
    "damaged.csv": ("a,b\n1,é\n2,é\n3,".encode() + b"\xc3\n", "line 4: not UTF-8"),
    "ragged.csv": (b"a,b\n1,2\n3,4,5\n", "line 3: 3 fields, but the header has 2"),
    "quotes.csv": (b'a,b\n1,2\n3,"open\n4,5\n', "line 3: a quoted field is broken"),
    "bad.jsonl": (b'{"a": 1}\n\n{"a": \n', "line 3: not JSON"),
    "cut.jsonl": (b'{"a": 1}\n{"a": 2', "line 2: not JSON"),
    "two.jsonl": (b'{"a": 1}{"a": 2}\n', "line 1: not JSON"),
    "list.jsonl": (b'{"a": 1}\n[2]\n', "line 2: a JSON value, but not an object"),
    "number.jsonl": (b"1\n2\n", "line 1: a JSON value, but not an object"),
    "no.parquet": (b"PAR0 and so on", "is not a file of Parquet"),
    "t.pkl": (b"x", "unknown kind of table"),
    "t.xlsx": (b"x", "cannot be read as a workbook"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, name: str) -> None:
    content, message = BROKEN[name]
    path = written(tmp_path, name, content)
    with pytest.raises(CammsrError) as caught:
        read_table(path)
    assert str(path) in caught.value.message
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_an_unknown_extension_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CammsrError) as caught:
        read_table(written(tmp_path, "t.yaml.gz", b"{}"))
    for known in (
        ".csv",
        ".tsv",
        ".jsonl",
        ".ndjson",
        ".json",
        ".parquet",
        ".inter",
        ".gz",
        ".zst",
    ):
        assert known in (caught.value.hint or "")


TWO = [{"a": 1, "b": {"c": [2]}}, {"a": 2, "b": None}]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(TWO),
        json.dumps(TWO, indent=1),
        "[\n" + ",\n".join(map(json.dumps, TWO)) + "\n]\n",
        "".join(json.dumps(row) + ",\n" for row in TWO),
        "\n".join(json.dumps(row, indent=1) for row in TWO),
        json.dumps({"total": 2, "rows": TWO}),
        json.dumps({"total": 2, "rows": TWO}, indent=1),
        "\n".join(map(json.dumps, TWO)),
    ],
)
def test_json_of_any_form(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, "t.json", text.encode())
    [(one, inner), (two, none)] = read_table(path).rows()
    assert (str(one), json.loads(inner), str(two), none) == ("1", {"c": [2]}, "2", None)
    assert columns_of(path) == ["a", "b"]


def test_one_item_is_a_row_though_it_holds_a_list(tmp_path: Path) -> None:
    row = {"item": "7", "images": [{"large": "x.jpg"}]}
    assert read_table(written(tmp_path, "t.json", json.dumps(row).encode()))["item"].item() == "7"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"a": 1},\n {"a": }]', "line 2: not JSON"),
        ('[{"a": 1}, 2]', "row 2: a JSON value, but not an object"),
        ("[]", "holds no rows"),
        ('[{"a": 1},\n {"a": 2}', "not JSON"),
        ("[" * 100_000, "too deep"),
    ],
)
def test_broken_documents(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(CammsrError, match=told):
        read_table(written(tmp_path, "t.json", text.encode()))


def test_lines_that_python_wrote(tmp_path: Path) -> None:
    text = "{'a': '007', 'b': [['x', \"it's\"]], 'c': None, 'd': True, 'e': {'k': 1.5}}\n"
    path = written(tmp_path, "t.json.gz", gzip.compress((text + '{"a": 8}\n').encode()))
    assert read_table(path).rows() == [
        ("007", '[["x", "it\'s"]]', None, "true", '{"k": 1.5}'),
        ("8", None, None, None, None),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "{'a': __import__('os').getpid()}",
        "{'a': (lambda: 1)()}",
        "{'a': {1, 2}}",
        "{'a': 1j}",
        "{'a': b'x'}",
        "{(1, 2): 'a'}",
        "{'a': " + "[" * 100_000 + "]" * 100_000 + "}",
        "{'a': 'b'",
        "{1, 2}",
        "{'a': " + "9" * 5000 + "}",
    ],
)
def test_what_is_no_plain_value_is_refused_and_never_run(tmp_path: Path, line: str) -> None:
    with pytest.raises(CammsrError, match="line 2: not JSON"):
        read_table(written(tmp_path, "t.jsonl", f"{{'a': 1}}\n{line}\n".encode()))


def test_keys_that_cannot_be_stored(tmp_path: Path) -> None:
    path = written(tmp_path, "t.jsonl", b'{"a": 1, "\\ud800": 2, "n": NaN}\n')
    assert read_table(path).to_dict(as_series=False) == {"a": ["1"], "?": ["2"], "n": [None]}


def test_objects_stay_json_text_so_that_their_keys_make_no_columns(tmp_path: Path) -> None:
    rows = [{"id": n, "details": {f"key {n}": "v"}, "none": None} for n in range(30)]
    path = written(tmp_path, "t.jsonl", "\n".join(map(json.dumps, rows)).encode())
    frame = read_table(path)
    assert frame.schema["details"] == pl.String
    assert [json.loads(cell) for cell in frame["details"]] == [row["details"] for row in rows]


def test_bytes_in_parquet_are_text_or_left_out(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": [b"7", "é".encode(), None], "raw": [b"\xff\xd8", b"", None]})
    frame.write_parquet(tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    assert table.frame.to_dict(as_series=False) == {"id": ["7", "é", None]}
    assert table.notes == ("column 'raw' of t.parquet holds bytes, not text: left out",)


# --- encodings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "UTF8", "gb18030"]
)
def test_named_encodings(tmp_path: Path, extension: str, encoding: str) -> None:
    text = CONTENTS[extension].decode().replace("\\u00e9", "é")
    path = written(tmp_path, f"t{extension}", text.encode(encoding))
    table = open_table(path, Reading(encoding))
    assert table.frame.rows() == ROWS
    assert table.place(1).endswith("line 2" if extension == ".jsonl" else "line 3")
    assert columns_of(path, Reading(encoding)) == ["id", "name"]


def test_a_byte_order_mark_tells_more_than_a_name(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", b"\xef\xbb\xbfid\n\xc3\xa9\n")
    assert read_table(path, "latin-1").rows() == [("é",)]


def test_a_wrong_encoding_names_the_file_the_byte_and_the_option(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", "a,b\n1,x\n2,é\n".encode("latin-1"))
    with pytest.raises(CammsrError) as caught:
        read_table(path, "utf-8")
    assert caught.value.message == f"{path}, line 3: not UTF-8 text (byte 0xe9 at 10)"
    assert caught.value.hint == "Say what it is written in, e.g. --encoding latin-1"
    with pytest.raises(CammsrError, match=r"t\.csv, line 3: not ASCII text \(byte 0xe9") as caught:
        read_table(path, "ascii")
    assert "--encoding utf-8" in (caught.value.hint or "")


@pytest.mark.parametrize("extension", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-8-sig"])
def test_encodings_that_are_found_out(tmp_path: Path, extension: str, encoding: str) -> None:
    text = CONTENTS[extension].decode().replace("\\u00e9", "é").replace("commas", "»Café«")
    path = written(tmp_path, f"t{extension}", text.encode(encoding))
    table = open_table(path)
    assert table.frame.rows() == [ROWS[0], (ROWS[1][0], ROWS[1][1].replace("commas", "»Café«"))]
    assert columns_of(path) == ["id", "name"]
    assert table.place(0).endswith("line 1" if extension == ".jsonl" else "line 2")
    told = [note for note in table.notes if "is not UTF-8: read as cp1252, as in 'Am" in note]
    assert len(told) == (encoding in ("cp1252", "latin-1"))


def test_encodings_of_single_files(tmp_path: Path) -> None:
    reading = Reading("utf-8", {"t.csv": "cp1251"})
    path = written(tmp_path, "t.csv", "a\nкино\n".encode("cp1251"))
    assert open_table(path, reading).frame.rows() == [("кино",)]
    with pytest.raises(CammsrError, match="not UTF-8"):
        open_table(path.rename(tmp_path / "u.csv"), reading)


@pytest.mark.parametrize(
    "name", ["latin-99", "base64", "rot13", "", "undefined", "a\x00b", "idna", "unicode_escape"]
)
def test_names_that_are_no_encoding(name: str) -> None:
    with pytest.raises(UsageError, match="no such encoding"):
        checked_encoding(name)
    assert checked_encoding("Latin-1") == "iso8859-1"


# --- the head of a file -------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("extension", CONTENTS)
def test_columns_are_known_from_the_head(tmp_path: Path, extension: str, packing: str) -> None:
    path = written(tmp_path, f"t{extension}{packing}", PACKERS[packing](CONTENTS[extension]))
    assert columns_of(path) == ["id", "name"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", b"\xef\xbb\xbfa;b\r\n1;2\r\n", ["a", "b"]),
        ("t.csv", b'"a,b",c\n', ["a,b", "c"]),
        ("t.jsonl", b'{"a": 1}\n\n{"b": 2}\nbroken', ["a", "b"]),
        ("t.json", b"{'a': 1}\n", ["a"]),
        ("t.csv", b"", []),
        ("t.csv", b"\xff\x00,b", ["\ufffd\x00", "b"]),
        ("t.csv.gz", b"no gzip", []),
        ("t.csv.zst", b"no zstd", []),
        ("t.parquet", b"no parquet", []),
        ("t.txt", b"a,b\n", ["a", "b"]),
        ("t.dat", b"a::b\n1::2\n", ["a", "b"]),
        ("t.csv", b"sep=;\na;b,c\n", ["a", "b,c"]),
        ("t.md", b"a,b\n", []),
    ],
)
def test_heads_of_odd_and_broken_files(
    tmp_path: Path, name: str, content: bytes, expected: list[str]
) -> None:
    assert columns_of(written(tmp_path, name, content)) == expected


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CammsrError, match="no such file"):
        read_table(tmp_path / "gone.csv")


def test_zstd_files_of_several_frames(tmp_path: Path) -> None:
    content = zstandard.compress(b"a,b\n") + zstandard.compress(b"1,2\n")
    assert read_table(written(tmp_path, "t.csv.zst", content)).rows() == [("1", "2")]


FIELD = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\x00", exclude_categories=("Cs",)),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(FIELD.filter(bool), FIELD), min_size=1, max_size=6),
    kind=st.sampled_from([(".csv", ","), (".tsv", "\t")]),
)
def test_what_csv_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], kind: tuple[str, str]
) -> None:
    extension, separator = kind
    path = written(tmp_path_factory.mktemp("t"), f"t{extension}", delimited(separator, list(rows)))
    table = open_table(path)
    assert table.frame.rows() == [(told(a), told(b) or None) for a, b in rows]
    lines = [
        1 + "\n".join(("h", *map("".join, rows[:n]))).count("\n") + 1 for n in range(len(rows))
    ]
    assert [table.place(n) for n in range(len(rows))] == [f"{path}, line {n}" for n in lines]


def told(value: object) -> object:
    """A cell as it is read: words for a missing value are none."""
    return None if isinstance(value, str) and value.strip(" ") in MISSING else value


JSON_VALUE = st.one_of(
    st.none(), st.integers(-(2**60), 2**60), st.booleans(), FIELD, st.lists(FIELD, max_size=2)
)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.fixed_dictionaries({"id": FIELD, "v": JSON_VALUE}), min_size=1, max_size=5)
)
def test_json_lines_of_any_mixture_keep_rows_and_strings(
    tmp_path_factory: pytest.TempPathFactory, values: list[dict[str, object]]
) -> None:
    content = "\n".join(json.dumps(value) for value in values).encode()
    frame = read_table(written(tmp_path_factory.mktemp("t"), "t.jsonl", content))
    assert frame["id"].to_list() == [told(value["id"]) for value in values]
    for got, value in zip(frame["v"].to_list(), values, strict=True):
        if isinstance(value["v"], str) or value["v"] is None:
            assert got == told(value["v"])
