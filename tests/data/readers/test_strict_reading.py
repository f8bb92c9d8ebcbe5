"""What is read is what a strict reader reads: no row merged, lost or moved without a count.

`pytest tests/data/readers/test_strict_reading.py --random-files 100000` tries so many of each kind.
"""

import csv
import io
import json
import random
import re
from pathlib import Path

import pytest

from cammsr_cli.data.readers.delimited import Delimited, read_delimited
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.tables import columns_of, open_table
from cammsr_cli.errors import CammsrError

Rows = list[list[str]]


def strict_rows(text: str, separator: str, **dialect: str) -> Rows | None:
    """The records that Python's strict reader reads, None if it refuses or they are ragged."""
    text = re.sub(r"\r(?!\n)", " " if "\n" in text else "\n", text)
    reader = csv.reader(
        io.StringIO(text, newline="\n"), delimiter=separator, strict=True, **dialect
    )
    try:
        rows = [row for row in reader if not is_blank(row)]
    except csv.Error:
        return None
    return None if any(len(row) != len(rows[0]) for row in rows) else rows


def is_blank(row: list[str]) -> bool:
    """Whether no field has a value; a line of spaces is one such field."""
    return not any(row) or (len(row) == 1 and not row[0].strip())


def read_rows(text: str, separator: str) -> tuple[Rows | None, Delimited | None]:
    try:
        read = read_delimited(Path("t.csv"), text.encode(), separator)
    except CammsrError as refused:
        if not re.search(r"line \d+", refused.message):
            raise
        return None, None
    rows = [[cell or "" for cell in row] for row in read.frame.rows()]
    return [read.frame.columns, *rows], read


def random_text(chance: random.Random, separator: str) -> str:
    pieces = ['"', '""', '\\"', '"a"', "\n", "\r\n", "\n", "a", "b c", "é", "\\", " ", "7", "'"]
    pieces += [separator] * 3
    header = separator.join("hkl"[: chance.choice((2, 2, 3))])
    body = "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 18)))
    return header + chance.choice(("\n", "\n", "\r\n")) + body


def plain(rows: Rows) -> Rows:
    """A return within quotes may become a space, as records of both readers do."""
    return [[field.replace("\r", " ") for field in row] for row in rows]


@pytest.mark.parametrize("separator", [",", ";"])
def test_random_csv(separator: str, random_files: int) -> None:
    chance = random.Random(1)
    outcomes = {"read": 0, "refused": 0, "escaped": 0}
    for _ in range(random_files):
        text = random_text(chance, separator)
        wanted = strict_rows(text, separator)
        rows, read = read_rows(text, separator)
        if rows is None or read is None:
            assert wanted is None, text
            outcomes["refused"] += 1
        elif wanted is not None:
            assert plain(rows) == plain(wanted), text
            outcomes["read"] += 1
        else:
            assert read.dialect.quotes == "escaped", text
            outcomes["escaped"] += 1
    assert all(outcomes.values()), outcomes


def test_random_tsv(random_files: int) -> None:
    chance = random.Random(2)
    outcomes = {"lines": 0, "records": 0, "escaped": 0, "refused": 0}
    for _ in range(random_files):
        text = random_text(chance, "\t")
        rows, read = read_rows(text, "\t")
        lines = [line for line in text.replace("\r\n", "\n").split("\n") if line.strip("\t")]
        alike = len({line.count("\t") for line in lines}) == 1
        if rows is None or read is None:
            assert not alike, text
            outcomes["refused"] += 1
        elif alike:  # each line is a row, whatever its quotes
            wanted = [[without_quotes(field) for field in line.split("\t")] for line in lines]
            assert [row for row in rows if any(row)] == [row for row in wanted if any(row)], text
            outcomes["lines"] += 1
        elif read.dialect.quotes == "doubled":
            assert plain(rows) == plain(strict_rows(text, "\t") or []), text
            outcomes["records"] += 1
        elif read.dialect.quotes == "none":  # alike but for lines without a value
            wanted = [[without_quotes(field) for field in line.split("\t")] for line in lines]
            assert rows == [row for row in wanted if not is_blank(row)], text
        else:
            outcomes["escaped"] += 1
    assert all(outcomes.values()), outcomes


def without_quotes(field: str) -> str:
    """A field without quotes that enclose the whole of it."""
    enclosed = re.fullmatch(r'"((?:[^"]|"")*)"', field)
    return enclosed[1].replace('""', '"') if enclosed else field


def test_random_files_whose_writer_escapes_quotes(random_files: int) -> None:
    chance = random.Random(3)
    for _ in range(random_files):
        cells = ["a", 'b"c', '"', "d,e", "x\ny", '12" disk', "", 'end"', "\\"]
        rows = [[chance.choice(cells) for _ in range(3)] for _ in range(chance.randrange(1, 6))]
        stream = io.StringIO()
        writer = csv.writer(
            stream, quoting=csv.QUOTE_ALL, doublequote=False, escapechar="\\", lineterminator="\n"
        )
        writer.writerows([["h", "k", "l"], *rows])
        got, _ = read_rows(stream.getvalue(), ",")
        filled = [row for row in rows if any(row)]
        ambiguous = strict_rows(stream.getvalue(), ",")
        assert got == [["h", "k", "l"], *filled] or got in (None, ambiguous), stream.getvalue()


TWICE = '{"a": 1, "a": 2}'
LINES = [
    *('{"a": 1}', '{"a": "x", "b": [1, {"c": 2}]}', '{"a": null}', "{}", '{"b": 2.5}', "", "  "),
    *('{"a": {"k": 1}}', '{"a": true}', '{"a": 1},', "1", "[1]", '{"a": 1}{"a": 2}', '{"a": 01}'),
    *('{"a": 1e400}', '{"a": NaN}', TWICE, '{"a": "\\ud800"}', '{"a": "x', "\r"),
    *('{"a": 12345678901234567890123}', '{"a": 1.0}', '{"a": "é\\n"}', '{"a": 1} x'),
]


def same_value(written: object, cell: object) -> bool:
    """Whether a cell is what was written, where a column of several types is text."""
    if isinstance(written, float) and written != written:
        return cell is None or cell != cell
    if written is None or isinstance(cell, list | bool) or cell is None:
        return cell == written or (cell is None and written is None)
    if isinstance(written, str):
        return cell == written.encode("utf-8", "replace").decode()
    if isinstance(cell, str):
        return bool(json.loads(cell) == written)
    return bool(cell == written)


def test_random_json_lines(tmp_path: Path, random_files: int) -> None:
    chance = random.Random(4)
    path = tmp_path / "t.jsonl"
    outcomes = {"read": 0, "refused": 0}
    for _ in range(random_files):
        lines = ['{"a": "first", "b": 0}', *chance.choices(LINES, k=chance.randrange(1, 4))]
        path.write_text("\n".join(lines), encoding="utf-8")
        filled = [line.strip().removesuffix(",") for line in lines if line.strip()]
        try:
            wanted = [json.loads(line) for line in filled]
            sound = all(isinstance(row, dict) for row in wanted)
        except ValueError:
            sound = False
        try:
            frame = open_table(path, Reading(missing=frozenset())).frame
        except CammsrError as refused:
            if sound or not re.search(r"line \d+", refused.message):
                raise AssertionError(lines) from refused
            outcomes["refused"] += 1
            continue
        assert sound, lines
        assert frame.height == len(filled), lines
        assert set(frame.columns) == {name for row in wanted for name in row}, lines
        for row, cells in zip(wanted, frame.iter_rows(named=True), strict=True):
            for name, cell in cells.items():
                # Of a key that is there twice, JSON does not say which holds.
                either = [row.get(name), *([1] if name == "a" and TWICE in lines else [])]
                assert any(same_value(value, cell) for value in either), (lines, name, cell)
        outcomes["read"] += 1
    assert all(outcomes.values()), outcomes


# --- the kinds, one by one ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('id,t\n1,"5\\" wide"\n2,ok\n3,"4\\" deep"\n', ["1", '5" wide', "2", "ok", "3", '4" deep']),
        ('"id";"t"\n"1";"The \\"Big\\" Trip"\n"2";"6\\""\n', ["1", 'The "Big" Trip', "2", '6"']),
        ('"id","t"\n"1","C:\\\\x \\"y\\""\n', ["1", 'C:\\x "y"']),
        ('id,t\n1,"a ""b"", c"\n2,"d\ne"\n', ["1", 'a "b", c', "2", "d\ne"]),
        ('id,t\n1,"C:\\"\n2,"D:\\"\n', ["1", "C:\\", "2", "D:\\"]),
        ('id,t\n1,5" disk\n', ["1", '5" disk']),
        ("sep=;\nid;t\n1;a,b\n", ["1", "a,b"]),
        ('"sep=|"\r\nid|t\r\n1|a,b\r\n', ["1", "a,b"]),
        ("id::t\n1::a:b\n", ["1", "a:b"]),
        ("item;title (de, en);x\n1;a, b, c;2\n", ["1", "a, b, c", "2"]),
        ("user item\n1 2\n3 4\n", ["1", "2", "3", "4"]),
    ],
)
def test_files_of_many_dialects(text: str, rows: list[str]) -> None:
    got, read = read_rows(text, ",")
    assert got is not None
    assert read is not None
    assert [cell for row in got[1:] for cell in row] == rows


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('id,t\n1,"bad "quote here"\n2,ok\n3,"another "one"\n', 2),
        ('id,t\n1,a\n2,"open\n3,b\n', 3),
        ('id,t\n1,"x"y\n2,"z"\n', 2),
        ('id\tt\tu\n1\t"open\n2\tb\tc\n', 2),
        ("id,t\n1,a\n2\n3,b\n", 3),
        ("id,t\n1,a\n2,b,\n3,b\n", 3),
        ("id,t\n1\n2,b,", 2),
        ('sep=;\nid;t\n1;"a\nb"\n2\n', 5),
    ],
)
def test_what_has_no_reading_is_refused_with_its_line(text: str, line: int) -> None:
    with pytest.raises(CammsrError, match=f"line {line}[: ]"):
        read_delimited(Path("t.csv"), text.encode(), "\t" if "\t" in text else ",")


def test_a_title_above_the_header_is_suspected() -> None:
    with pytest.raises(CammsrError, match="line 2: 3 fields, but the header has 1") as caught:
        read_delimited(Path("t.csv"), b"Orders of March\nuser,item,date\nu,i,2024-03-01\n", ",")
    assert str(caught.value.hint).startswith("If what stands above it is a title, delete that.")


@pytest.mark.parametrize("extension", [".tsv", ".item", ".txt"])
def test_stray_quotes_of_lines_do_not_pair(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"t{extension}"
    path.write_text(
        '"id"\tc\t"t"\n1\tFilm\t"Long live the\n2\tTools\tBlade 7"\n3\t"Film"\t"A ""b"""\n'
    )
    table = open_table(path)
    assert table.frame.columns == columns_of(path) == ["id", "c", "t"]
    assert table.frame.rows() == [
        ("1", "Film", '"Long live the'),
        ("2", "Tools", 'Blade 7"'),
        ("3", "Film", 'A "b"'),
    ]
    assert [table.place(row)[-6:] for row in range(3)] == ["line 2", "line 3", "line 4"]


def test_quoted_tsv_with_breaks_in_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('id\tt\n1\t"a\nb"\n2\t"c\td"\n')
    assert open_table(path).frame.rows() == [("1", "a\nb"), ("2", "c\td")]


def test_columns_of_files_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "clicks.dat"
    path.write_text("1,2014-04-01,5\n1,2014-04-02,6\n")
    reading = Reading(columns={"clicks.dat": ("user", "timestamp", "item")})
    table = open_table(path, reading)
    assert table.frame.columns == ["user", "timestamp", "item"]
    assert table.frame.rows()[0] == ("1", "2014-04-01", "5")
    assert [table.place(row)[-6:] for row in range(2)] == ["line 1", "line 2"]
    with pytest.raises(CammsrError, match="line 1: 3 fields, but --columns names 2"):
        open_table(path, Reading(columns={"clicks.dat": ("user", "item")}))
