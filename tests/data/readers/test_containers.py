"""Workbooks and databases: the table that is meant, read as a CSV file of it would be."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import xlsxwriter

from cammsr_cli.data.corpus import Corpus, SourceOptions, read_corpus
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.tables import open_table
from cammsr_cli.errors import CammsrError, UsageError

ORDERS = [
    ("customer", "sku", "date"),
    ("007", 1001, datetime(2024, 3, 20, 10, 5, 1)),
    ("007", 12345678901, datetime(2024, 3, 21)),
    ("ü", "A-1", datetime(2024, 3, 22)),
    ("007", "A-1", datetime(2024, 3, 23, 12)),
]
PRODUCTS = [("sku", "name"), (1001, 'Cup, 5" wide'), ("A-1", "Line one\nline two"), (7, "Ünused")]
NOTES = [("remark",), ("of no use",)]
Sheets = dict[str, list[tuple[Any, ...]]]
SHOP: Sheets = {"Orders": ORDERS, "Products": PRODUCTS, "Notes": NOTES}


def workbook(path: Path, sheets: Sheets) -> Path:
    with xlsxwriter.Workbook(path, {"default_date_format": "dd/mm/yyyy hh:mm"}) as book:
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
    return path


def open_document(path: Path, sheets: Sheets) -> Path:
    """As little of the format as holds texts."""
    import zipfile
    from xml.sax.saxutils import escape

    def cell(value: Any) -> str:
        text = str(value)
        return (
            f'<table:table-cell office:value-type="string"><text:p>{escape(text)}</text:p>'
            "</table:table-cell>"
        )

    tables = "".join(
        f'<table:table table:name="{name}">'
        + "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)
        + "</table:table>"
        for name, rows in sheets.items()
    )
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "table", "text")
    )
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mimetype", kind)
        file.writestr(
            "META-INF/manifest.xml",
            '<manifest:manifest xmlns:manifest="'
            'urn:oasis:names:tc:opendocument:xmlns:manifest:1.0">'
            f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{kind}"/>'
            "</manifest:manifest>",
        )
        file.writestr(
            "content.xml",
            f"<office:document-content {spaces}><office:body><office:spreadsheet>{tables}"
            "</office:spreadsheet></office:body></office:document-content>",
        )
    return path


def sqlite_file(path: Path, sheets: Sheets) -> Path:
    connection = sqlite3.connect(path)
    for name, (columns, *rows) in sheets.items():
        connection.execute(f'CREATE TABLE "{name}" ({", ".join(columns)})')
        marks = ", ".join("?" * len(columns))
        told = [[str(v) if isinstance(v, datetime) else v for v in row] for row in rows]
        connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', told)
    connection.commit()
    connection.close()
    return path


def duckdb_file(path: Path, sheets: Sheets) -> Path:
    with duckdb.connect(str(path)) as connection:
        for name, (columns, *rows) in sheets.items():
            types = ", ".join(
                f"{column} {'TIMESTAMP' if column == 'date' else 'VARCHAR'}" for column in columns
            )
            connection.execute(f'CREATE TABLE "{name}" ({types})')
            marks = ", ".join("?" * len(columns))
            connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', rows)
    return path


WRITERS = {
    "shop.xlsx": workbook,
    "shop.ods": open_document,
    "shop.sqlite": sqlite_file,
    "shop.db": sqlite_file,
    "shop.duckdb": duckdb_file,
}
every = pytest.mark.parametrize("name", WRITERS)


def shop(folder: Path, name: str, sheets: Sheets = SHOP) -> Path:
    return WRITERS[name](folder / name, sheets)


def require_shop(corpus: Corpus) -> None:
    assert corpus.user_ids == ["007", "ü"]
    assert set(corpus.item_ids) == {"1001", "A-1", "7", "12345678901"}
    events = [corpus.item_ids[item] for item in corpus.event_item]
    assert events == ["1001", "12345678901", "A-1", "A-1"]
    assert corpus.event_time.tolist() == [1710929101, 1710979200, 1711195200, 1711065600]
    titles = dict(zip(corpus.item_ids, corpus.fields["title"], strict=True))
    assert titles["1001"] == 'Cup, 5" wide'
    assert titles["A-1"] is not None
    assert titles["A-1"].split() == ["Line", "one", "line", "two"]


@every
def test_tables_are_found_by_their_columns(tmp_path: Path, name: str) -> None:
    corpus = read_corpus(SourceOptions(shop(tmp_path, name)))
    require_shop(corpus)
    assert list(corpus.sources) == [name]
    assert dict(corpus.decisions)["interactions"].startswith("Orders: user = customer")
    assert any(note.startswith("Notes not read: no column known") for note in corpus.notes)


@every
def test_a_table_is_named_by_option_or_by_path(tmp_path: Path, name: str) -> None:
    path = shop(tmp_path, name, SHOP | {"Older": ORDERS[:2]})
    with pytest.raises(UsageError, match="several tables of users and items: ") as caught:
        read_corpus(SourceOptions(path))
    assert str(caught.value.hint).startswith("Name one: --table ")
    require_shop(read_corpus(SourceOptions(path, reading=Reading(tables={name: "Orders"}))))
    require_shop(read_corpus(SourceOptions(path / "Orders", path / "Products")))
    require_shop(read_corpus(SourceOptions(path / "Orders", path)))
    with pytest.raises(CammsrError, match=f"{name} has no table 'Order', did you mean 'Orders'"):
        read_corpus(SourceOptions(path / "Order"))
    with pytest.raises(CammsrError, match="has no table 'X'"):
        read_corpus(SourceOptions(path, reading=Reading(tables={name: "X"})))


@every
def test_what_no_table_is_meant_by_names_those_there_are(tmp_path: Path, name: str) -> None:
    path = shop(tmp_path, name, {"Notes": NOTES, "Products": PRODUCTS})
    with pytest.raises(UsageError, match=r"no table with columns known as the user and the item"):
        read_corpus(SourceOptions(path))
    log = tmp_path / "log.csv"
    log.write_text("user,item,time\nu,1001,1\n")
    assert read_corpus(SourceOptions(log, path)).item_ids == ["1001", "A-1", "7"]
    with pytest.raises(CammsrError, match="holds 2 tables: Notes, Products"):
        open_table(path)


@every
def test_a_file_in_a_folder_is_read_as_any_other(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    shop(folder, name)
    require_shop(read_corpus(SourceOptions(folder)))
    (folder / name).unlink()
    shop(folder, name, {"Sheet1": ORDERS}).rename(folder / f"interactions{Path(name).suffix}")
    (folder / "items.csv").write_text(
        'sku,name\n1001,"Cup, 5"" wide"\nA-1,"Line one\nline two"\n7,\n'
    )
    require_shop(read_corpus(SourceOptions(folder)))


@pytest.mark.parametrize("name", ["shop.sqlite", "shop.duckdb"])
def test_queries_read_and_change_nothing(
    tmp_path: Path, name: str, cammsr: Callable[..., Any]
) -> None:
    path, out = shop(tmp_path, name), tmp_path / "a.h5"
    sql = 'SELECT customer AS "user", sku AS item, date FROM "Orders" WHERE customer = \'007\';'
    told = cammsr("prepare", path, "--query", sql, "--out", out)
    assert told.code == 0, told.err
    assert DataSet(out).user_ids == ["007"]
    assert len(DataSet(out).event_item) == 3
    before = path.read_bytes()
    secret = tmp_path / "secret.csv"
    secret.write_text("user,item,date\nu,i,2024-01-01\n")
    for bad in (
        'DELETE FROM "Orders"',
        "CREATE TABLE x (y)",
        f"ATTACH '{tmp_path / 'new.db'}' AS other",
        f"SELECT * FROM read_csv('{secret}')",
        f"COPY (SELECT 1) TO '{tmp_path / 'copy.csv'}'",
        "SELECT * FROM nothing",
        "SELEC",
        "",
    ):
        told = cammsr("prepare", path, "--query", bad, "--out", out, "--force")
        assert told.code == 1, bad
        assert f"{path} cannot be read: " in told.err, bad
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.h5", "secret.csv", name]
    told = cammsr("prepare", secret, "--query", sql, "--out", out, "--force")
    assert (told.code, "is no database" in told.err) == (2, True)


def test_cells_of_several_types_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (id, n, x, raw, bad, empty)")
    rows = [(7, 1, 0.5, b"a", b"\xff", None), ("A7", 2, 3, "b", None, None)]
    connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    table = open_table(path)
    assert table.frame.schema == {
        "id": pl.String, "n": pl.Int64, "x": pl.Float64, "raw": pl.String, "empty": pl.String,
    }  # fmt: skip
    assert table.frame.rows() == [("7", 1, 0.5, "a", None), ("A7", 2, 3.0, "b", None)]
    assert table.notes == ("column 'bad' of t holds bytes, not text: left out",)
    assert table.place(1) == f"{path}/t, row 2"


@every
def test_what_is_none_of_it_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"user,item,time\nu,i,1\n" * 10)
    with pytest.raises(CammsrError, match=r"cannot be read|neither an SQLite nor a DuckDB"):
        read_corpus(SourceOptions(path))


@pytest.mark.parametrize(("name", "package"), [("shop.xlsx", "sheets"), ("shop.duckdb", "duckdb")])
def test_what_is_lacking_to_read_it_is_named(
    tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shop(tmp_path, name)
    for module in ("fastexcel", "duckdb"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr("cammsr_cli.data.readers.sheets.find_spec", lambda _: None)
    monkeypatch.setattr("cammsr_cli.data.readers.databases.find_spec", lambda _: None)
    with pytest.raises(CammsrError) as caught:
        read_corpus(SourceOptions(path))
    assert caught.value.hint == f"Install it: pip install 'cammsr[{package}]'"
    (tmp_path / "interactions.csv").write_text("user,item,time\nu,i,1\n")
    [note] = [n for n in read_corpus(SourceOptions(tmp_path)).notes if name in n]
    assert f"pip install 'cammsr[{package}]'" in note


def test_titles_above_the_header_are_not_read(tmp_path: Path) -> None:
    rows = [
        ("Orders of March",),
        (),
        ("user", "item", "date", "item"),
        *[("u", 1, "2024-03-01", 5)],
    ]
    path = workbook(tmp_path / "a.xlsx", {"Export": rows, "Empty": []})
    table = open_table(path / "Export")
    assert table.frame.columns == ["user", "item", "date", "item_duplicated_0"]
    assert table.frame.rows() == [("u", "1", "2024-03-01", "5")]
    told = "what stands above the header of Export is not read: Orders of March"
    assert table.notes == (told,)
    assert told in read_corpus(SourceOptions(path)).notes
    with pytest.raises(CammsrError, match="Empty names no columns"):
        open_table(path / "Empty")


def test_rows_without_a_cell_are_left_out_and_counted(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "a.xlsx", {"S": [("user", "item"), ("u", 1), (None, None), ("v", 2)]}
    )
    table = open_table(path)
    assert table.frame.rows() == [("u", "1"), ("v", "2")]
    assert table.notes == ("1 row of S without any value left out",)
