"""Files as shops and publishers leave them: missing words, ids, folders, and names of columns."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cammsr_cli.data.corpus import Corpus, SourceOptions, read_corpus
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.encoding.vectors import read_vectors
from cammsr_cli.errors import CammsrError, UsageError

LOG = "user,item,timestamp\nu,1,1\nu,2,2\nu,3,3\n"


def shop(folder: Path, **files: str | bytes) -> Path:
    """Files named with "__" for "."."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(raw)
    return folder


def titles(corpus: Corpus) -> dict[str, str | None]:
    return dict(zip(corpus.item_ids, corpus.fields["title"], strict=True))


# --- words for a missing value ------------------------------------------------------------------

MISSING_LOG = "user,item,timestamp\n1,a,1\nNULL,a,2\n\\N,b,3\nnan,a,4\n2, None ,5\n2,N/A,6\n2,b,7\n"
MISSING_ITEMS = "item,title,category,image\na,nan,NULL,NA\nb,Real,Toys,\n"


def test_words_for_a_missing_value_are_no_ids_titles_or_categories(tmp_path: Path) -> None:
    folder = shop(tmp_path / "s", interactions__csv=MISSING_LOG, items__csv=MISSING_ITEMS)
    corpus = read_corpus(SourceOptions(folder))
    assert (corpus.user_ids, corpus.item_ids) == (["1", "2"], ["a", "b"])
    assert titles(corpus) == {"a": None, "b": "Real"}
    assert corpus.category_names == ["Toys"]
    assert list(corpus.fields["image"]) == [None, None]
    assert "5 rows without a user or an item id dropped" in corpus.notes
    [log, items] = [note for note in corpus.notes if "read as missing" in note]
    assert log.startswith("5 cells of interactions.csv read as missing, written ")
    assert "in user, item (--missing says which words are)" in log
    assert items.startswith("3 cells of items.csv read as missing")


def test_a_shop_whose_items_are_called_none_and_na(tmp_path: Path) -> None:
    log = "user,item,timestamp\n1,NA,1\n1,None,2\n-,NA,3\n"
    folder = shop(tmp_path / "s", interactions__csv=log)
    corpus = read_corpus(SourceOptions(folder, reading=Reading(missing=frozenset({"-"}))))
    assert corpus.item_ids == ["NA", "None"]
    assert corpus.user_ids == ["1"]
    corpus = read_corpus(SourceOptions(folder, reading=Reading(missing=frozenset())))
    assert corpus.user_ids == ["1", "-"]


@pytest.mark.parametrize("extension", ["jsonl", "parquet"])
def test_missing_words_in_typed_files(tmp_path: Path, extension: str) -> None:
    rows = [{"user": "u", "item": one, "timestamp": n} for n, one in enumerate(["a", "NULL", "b"])]
    path = tmp_path / f"interactions.{extension}"
    if extension == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pl.DataFrame(rows).write_parquet(path)
    assert read_corpus(SourceOptions(path)).item_ids == ["a", "b"]


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [["10.0", "", "20.0"], ["10.00", "", "20"], ["10", "", "20.0"]])
def test_whole_numbers_with_a_fraction_of_zero(tmp_path: Path, written: list[str]) -> None:
    log = "user,item,timestamp\n" + "".join(f"u,{one},{n}\n" for n, one in enumerate(written))
    folder = shop(tmp_path / "s", interactions__csv=log, items__csv="item,title\n10,A\n20,B\n")
    corpus = read_corpus(SourceOptions(folder))
    assert corpus.item_ids == ["10", "20"]
    assert any("ids of interactions.csv such as " in note for note in corpus.notes)


def test_ids_that_only_look_like_numbers_are_kept(tmp_path: Path) -> None:
    log = "user,item,timestamp\nu,1.0,1\nu,1.1,2\nu,007,3\nu,x,4\n"
    corpus = read_corpus(SourceOptions(shop(tmp_path / "s", interactions__csv=log)))
    assert corpus.item_ids == ["1.0", "1.1", "007", "x"]


def test_decimals_of_parquet(tmp_path: Path) -> None:
    ids = pl.Series(["10.00", "11.00", None]).cast(pl.Decimal(10, 2))
    frame = pl.DataFrame({"user": ids, "item": ids, "timestamp": [1, 2, 3]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert read_corpus(SourceOptions(tmp_path / "log.parquet")).item_ids == ["10", "11"]


@pytest.mark.parametrize("value", [{"$oid": "5f"}, ["a"], [], {}])
@pytest.mark.parametrize("mixed", [True, False])
def test_objects_and_lists_are_no_ids(tmp_path: Path, value: object, mixed: bool) -> None:
    first = [{"user": "u", "item": "x", "timestamp": 1}] if mixed else []
    rows = [*first, {"user": "u", "item": value, "timestamp": 2}]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CammsrError, match="item is a list or an object, not an id") as caught:
        read_corpus(SourceOptions(path))
    assert f"log.jsonl, line {1 + mixed}:" in caught.value.message


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ("1,A\n02,B\n003,C\n", "listed without leading zeros, as '01', which is '1' there"),
        ("x,A\n", "which is all of them: check that both files use the same item ids"),
    ],
)
def test_why_items_are_not_listed(tmp_path: Path, listed: str, told: str) -> None:
    log = "user,item,timestamp\nu,01,1\nu,002,2\nu,0003,3\n"
    folder = shop(tmp_path / "s", interactions__csv=log, items__csv=f"item,title\n{listed}")
    [note] = [note for note in read_corpus(SourceOptions(folder)).notes if "not listed in" in note]
    assert told in note


# --- folders ------------------------------------------------------------------------------------


def test_hidden_and_system_files_are_no_tables(tmp_path: Path) -> None:
    junk = b"\x00\x05\x16\x07 user,item,timestamp"
    folder = shop(
        tmp_path / "s",
        interactions__csv=LOG,
        items__csv="item,title\n1,A\n",
        _SUCCESS=b"",
        desktop__ini="[x]",
        Thumbs__db=junk,
    )
    for name in ("._interactions.csv", "._items.csv", ".DS_Store", "_interactions.csv"):
        (folder / name).write_bytes(junk)
    shop(folder / "__MACOSX", interactions__csv=junk)
    corpus = read_corpus(SourceOptions(folder))
    assert corpus.item_ids == ["1", "2", "3"]
    assert not [note for note in corpus.notes if "not read" in note]


def test_tables_that_are_not_read_are_named_with_the_reason(tmp_path: Path) -> None:
    folder = shop(
        tmp_path / "s",
        interactions__csv=LOG,
        items__csv="item,title\n1,A\n",
        customers__csv="customer_id,age\nu,9\n",
        colours__csv="item,colour\n1,red\n",
        more__csv="user,item,rating\nu,1,5\n",
        plays__dat="u\t1400000000\tx\nv\t1400000001\ty\n",
        stock__xlsx=b"PK",
        README__txt="This is a shop, and no table.\n",
        vectors__csv="item,x\n1,0.5\n",
    )
    corpus = read_corpus(SourceOptions(folder, read_otherwise=[folder / "vectors.csv"]))
    told = dict(note.split(" not read: ") for note in corpus.notes if " not read: " in note)
    assert told.keys() == {"customers.csv", "colours.csv", "more.csv", "plays.dat", "stock.xlsx"}
    assert told["customers.csv"] == "no column known as the item (customer_id, age)"
    assert "no column known as title" in told["colours.csv"]
    assert told["more.csv"] == "another table of users and items"
    assert "--columns FILE=NAME" in told["plays.dat"]


def test_several_files_of_items_are_joined_by_their_ids(tmp_path: Path) -> None:
    folder = shop(
        tmp_path / "s",
        interactions__csv=LOG,
        catalog_2023__csv="item,title\n1,A\n2,B\n2,again\n",
        catalog_2024__csv="sku,title,image\n2,other,2.jpg\n3,C,\n,D,\n",
        media__jsonl='{"id": 1, "image": "1.jpg"}\n',
    )
    corpus = read_corpus(SourceOptions(folder))
    assert titles(corpus) == {"1": "A", "2": "B", "3": "C"}
    assert list(corpus.fields["image"]) == ["1.jpg", "2.jpg", None]
    assert {"catalog_2023.csv", "catalog_2024.csv", "media.jsonl"} <= corpus.sources.keys()
    assert "1 row of catalog_2024.csv without an item id dropped" in corpus.notes
    assert "1 row of catalog_2023.csv repeating an item id dropped, the first kept" in corpus.notes
    assert any("joined by their ids (2 rows of items that an earlier" in n for n in corpus.notes)


def test_an_items_file_whose_id_is_called_id(tmp_path: Path) -> None:
    folder = shop(tmp_path / "s", ratings__csv=LOG, films__csv="id,overview,title\n1,O,A\n2,P,B\n")
    assert titles(read_corpus(SourceOptions(folder))) == {"1": "A", "2": "B", "3": None}


def test_several_logs_are_told(tmp_path: Path) -> None:
    folder = shop(tmp_path / "s", october__csv=LOG, november__csv=LOG)
    with pytest.raises(UsageError, match=r"several tables of users and items: november.csv, oct"):
        read_corpus(SourceOptions(folder))


def parts(folder: Path, extension: str = "parquet") -> Path:
    folder.mkdir(parents=True)
    for number, (user, item) in enumerate([("u", 1), ("u", 2), ("v", 1)]):
        frame = pl.DataFrame({"user": [user], "item": [item], "timestamp": [number]})
        path = folder / f"part-0000{number}-ab.{extension}"
        if extension == "parquet":
            frame.write_parquet(path)
        else:
            frame.write_csv(path)
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000-ab.crc").write_text("x")
    return folder


@pytest.mark.parametrize("extension", ["parquet", "csv"])
def test_folders_of_part_files(tmp_path: Path, extension: str) -> None:
    folder = parts(tmp_path / "s" / "interactions", extension)
    for items in ("items",):
        (tmp_path / "s" / items).mkdir()
        for n in (1, 2):
            (tmp_path / "s" / items / f"part-{n}.csv").write_text(f"item,title\n{n},T{n}\n")
    for source in (folder, tmp_path / "s"):
        corpus = read_corpus(SourceOptions(source))
        assert (corpus.user_ids, corpus.item_ids) == (["u", "v"], ["1", "2"])
        assert any("interactions read from 3 parts" in note for note in corpus.notes)
        assert f"interactions/part-00000-ab.{extension}" in corpus.sources
    assert titles(corpus) == {"1": "T1", "2": "T2"}


def test_partitions_of_hive_and_faults_in_a_part(tmp_path: Path) -> None:
    for day in ("2020-01-02", "2020-01-01"):
        folder = tmp_path / "log" / f"date={day}"
        folder.mkdir(parents=True)
        (folder / "data_0.csv").write_text("user,item\nu,1\nu,2\n")
    corpus = read_corpus(SourceOptions(tmp_path / "log"))
    assert len(corpus.event_item) == 4
    assert np.unique(corpus.event_time).tolist() == [1577836800, 1577923200]
    (folder.parent / "date=2020-01-03").mkdir()
    (folder.parent / "date=2020-01-03" / "data_0.csv").write_text("")  # as Spark leaves some
    corpus = read_corpus(SourceOptions(tmp_path / "log"))
    assert any("log read from 3 parts, 1 of them without rows" in note for note in corpus.notes)
    broken = folder.parent / "date=nonsense"
    broken.mkdir()
    (broken / "data_0.csv").write_text("user,item\n\nu,1\n")
    with pytest.raises(CammsrError, match=r"date=nonsense/data_0\.csv, line 3: date is 'nonsense'"):
        read_corpus(SourceOptions(tmp_path / "log"))
    (broken / "data_0.csv").write_text("u,1\nu,2\n")
    with pytest.raises(CammsrError, match="has other columns"):
        read_corpus(SourceOptions(tmp_path / "log"))


def test_a_file_without_a_header_says_so(tmp_path: Path) -> None:
    path = tmp_path / "clicks.csv"
    path.write_text("1,2014-04-01T10:51:09Z,214536506,0\n1,2014-04-02T10:51:09Z,214536507,0\n")
    with pytest.raises(UsageError, match="seems to have no header") as caught:
        read_corpus(SourceOptions(path))
    assert "--columns NAME,NAME,NAME,NAME" in (caught.value.hint or "")
    names = {"clicks.csv": ("user", "timestamp", "item", "category")}
    corpus = read_corpus(SourceOptions(path, reading=Reading(columns=names)))
    assert corpus.item_ids == ["214536506", "214536507"]


def test_the_command_takes_columns_missing_words_and_encodings(tmp_path: Path, cammsr) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "clicks.csv"
    path.write_bytes("-,1,1\ncaf\xe9,2,2\ncaf\xe9,NA,3\n".encode("latin-1"))
    arguments = ["prepare", path, "--dry-run", "--json", "--columns", "user,item,timestamp"]
    told = cammsr(*arguments, "--missing", "-", "--encoding", "clicks.csv=latin-1")
    report = json.loads(told.out)
    assert (report["users"], report["items"], report["events"]) == (1, 2, 2)
    for wrong in (("--columns", "a,,b"), ("--encoding", "utf-8", "--encoding", "ascii")):
        assert cammsr("prepare", path, *wrong).code == 2
    gone = cammsr("prepare", tmp_path / "gone" / "x.csv")
    assert (gone.code, "no such file or folder" in gone.err) == (2, True)
    assert "media-root" not in gone.err


# --- titles of MicroLens ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ('1,"A lake\nat dawn, part one"\n2,B, or C\n', ["A lake\nat dawn, part one", "B, or C"]),
        ('1,"A lake\r\nat ""dawn"""\r\n2,B\r\n', ['A lake\nat "dawn"', "B"]),
        ('1,"Long live the\n2,Saw blade 7"\n', ['"Long live the', 'Saw blade 7"']),
        ('1,"open\n2,B\n', ['"open', "B"]),
    ],
)  # fmt: skip
def test_titles_over_several_lines(tmp_path: Path, listed: str, expected: list[str]) -> None:
    folder = shop(tmp_path / "m", ML_pairs__csv=LOG, ML_titles__csv=listed)
    shop(folder / "ML_covers", **{f"{n}__jpg": b"x" for n in (1, 2, 3)})
    corpus = read_corpus(SourceOptions(folder))
    assert corpus.item_ids == ["1", "2", "3"]
    assert list(corpus.fields["title"]) == [*expected, None]


# --- vectors go the same way --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("v.csv", b'item_id,t,x\n1,"12\\" record",1\n2,b,2\n3,"7\\" single",3\n'),
        ("v.csv", b"sku,x\n\n1,1\n\n2,2\n,\n3,3\n\n"),
        ("v.csv", "\ufeffISBN;x\n1.0;1\n2.0;2\n3.0;3\n".encode()),
        ("v.csv", "item;x\n1;1,0\n2;2,0\n3;3,0\n".encode("utf-16")),
        ("v.csv", "item,x,note\n1,1,café\n2,2,\n3,3,\n".encode("latin-1")),
        ("v.tsv", b'item\tt\tx\n1\t"Long\t1\n2\t7"\t2\n3\t\t3\n'),
        ("v.dat", b"item::x\n1::1\n2::2\n3::3\n"),
        ("v.json", b'[{"id": 1, "x": [1]}, {"id": 2, "x": [2]}, {"id": 3, "x": [3]}]'),
    ],
)
def test_vectors_of_any_table(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    features = read_vectors(tmp_path / name, ["1", "2", "3"], [None] * 3, "v", dtype="float32")
    assert features.values.tolist() == [[1], [2], [3]]
    assert features.present.all()


def test_lines_of_faults_in_vectors(tmp_path: Path) -> None:
    path = tmp_path / "v.csv"
    path.write_text('item,t,x\n\n1,"a\nb",1\n2,c,bad\n')
    with pytest.raises(CammsrError, match=r"v\.csv, line 5: 'bad' in column 'x'"):
        read_vectors(path, ["1", "2"], [None] * 2, "v")
    path.write_text('item,t,x\n1,"bad "quote",1\n2,c,2\n')
    with pytest.raises(CammsrError, match=r"v\.csv, line 2: a quoted field is broken"):
        read_vectors(path, ["1", "2"], [None] * 2, "v")


def test_columns_of_one_name_are_told(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,user,item,date\na,x,i,2024-03-20\n")
    corpus = read_corpus(SourceOptions(tmp_path / "log.csv"))
    assert corpus.user_ids == ["a"]
    assert "columns of log.csv that are there twice: user; the first holds" in corpus.notes


# --- guesses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "options"),
    [
        (
            "when,buyer,kind,ware,paid\n"
            + "".join(
                f"2024-03-{n % 9 + 1:02},b{n % 6},k{n % 2},w{n % 7},1.5\n" for n in range(40)
            ),
            "--map timestamp=when --map user=buyer --map item=ware",
        ),
        (
            "user,n,thing\n" + "".join(f"u{n % 6},{n % 3},t{n % 7}\n" for n in range(40)),
            "--map item=thing",
        ),
        (
            "".join(
                f"{n % 6},2014-04-0{n % 9 + 1}T10:51:09.277Z,21453650{n % 7},0\n" for n in range(40)
            ),
            "--columns user,timestamp,item,column4",
        ),
        (
            "".join(
                f"p{n % 7}\t2009-05-0{n % 9 + 1}T23:08:57Z\tart{n % 8}\tDeep Dish\ttr{n % 9}\tX\n"
                for n in range(40)
            ),
            "--columns user,timestamp,column3,column4,item,column6",
        ),
    ],
)
def test_columns_are_guessed_for_a_hint(tmp_path: Path, log: str, options: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(log)
    with pytest.raises(UsageError) as caught:
        read_corpus(SourceOptions(path))
    assert caught.value.hint is not None
    assert caught.value.hint.endswith(
        f"; by what they hold, perhaps: cammsr prepare {path} {options}"
    )


def test_nothing_is_guessed_where_nothing_comes_again(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("a,b\n1.5,x\n2.5,y\n3.5,z\n")
    with pytest.raises(UsageError) as caught:
        read_corpus(SourceOptions(tmp_path / "log.csv"))
    assert caught.value.hint is not None
    assert "perhaps" not in caught.value.hint
