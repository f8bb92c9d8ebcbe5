from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cammsr_cli.encoding.vectors import read_vectors
from cammsr_cli.errors import CammsrError, UsageError

IDS = ["10", "20", "30"]
ROWS = [0, 1, None]
NO_NUMBERS = "without numbers such as 0.5 left out of the vectors: name"
BESIDE = "beside the list left out of the vectors: k, b"


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text", "left_out"),
    [
        ("v.csv", "movieId,name,x,y\n20,b,3,4\n10,a,1,2\n99,z,5,6\n", NO_NUMBERS),
        ("v.tsv", "x\ty\titem_id\n3\t4\t20\n1\t2\t10\n5\t6\t99\n", ""),
        ("v.csv", "item;x;y\n20;3;4\n10;1;2\n99;5;6\n", ""),
        ("v.tab", "item,x,y\n20,3,4\n10,1,2\n99,5,6\n", ""),
        ("v.csv", 'asin,vector\n20,"[3, 4]"\n10,"[1, 2]"\n99,"[5, 6]"\n', ""),
        ("v.csv", 'asin;k;vector;b\n20;1;"[3, 4]";\n10;1;"[1, 2]";\n99;1;"[5, 6]";\n', BESIDE),
    ],
)
def test_tables_are_matched_by_item(tmp_path: Path, name: str, text: str, left_out: str) -> None:
    features = read_vectors(_write(tmp_path / name, text), IDS, ROWS, "audio", dtype="float32")
    assert features.values.tolist() == [[1, 2], [3, 4], [0, 0]]
    assert features.values.dtype == np.float32
    assert features.present.tolist() == [True, True, False]
    assert features.notes == [
        *([f"columns of {name} {left_out}"] * bool(left_out)),
        f"1 ids of {name} are not in the catalogue",
        f"1 items have no vector in {name}",
    ]
    assert "sha256:" in features.fingerprint


@pytest.mark.parametrize("name", ["", " ", "Unnamed: 0", "__index_level_0__"])
def test_the_index_that_pandas_writes_is_no_part_of_a_vector(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / "v.csv", f"{name},item,x,y\n0,10,1,2\n1,20,3,4\n2,30,5,6\n")
    features = read_vectors(path, IDS, ROWS, "audio")
    assert features.values.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert features.notes == ["the index that pandas wrote into v.csv left out of the vectors"]


def test_booleans_are_numbers(tmp_path: Path) -> None:
    text = "item,x,y,z\n10,True,1,true\n20,false,2,other\n30,,3,false\n"
    features = read_vectors(_write(tmp_path / "v.csv", text), IDS, ROWS, "audio")
    assert features.values.tolist() == [[1, 1], [0, 2], [0, 0]]
    assert features.present.tolist() == [True, True, False]
    assert features.notes == [
        "columns of v.csv without numbers such as 0.5 left out of the vectors: z"
    ]
    table = {"item": [10, 20, 30], "x": [True, False, True], "day": ["a", "b", "c"]}
    pl.DataFrame(table).with_columns(pl.col("day").cast(pl.Categorical)).write_parquet(
        tmp_path / "v.parquet"
    )
    features = read_vectors(tmp_path / "v.parquet", IDS, ROWS, "audio")
    assert features.values.tolist() == [[1], [0], [1]]
    assert features.notes == [
        "columns of v.parquet without numbers such as 0.5 left out of the vectors: day"
    ]


@pytest.mark.parametrize("as_list", [True, False])
def test_parquet(tmp_path: Path, as_list: bool) -> None:
    table = {"item": [10, 30], "v": [[1.0, 2.0], [5.0, 6.0]]}
    if not as_list:
        table = {"item": [10, 30], "a": [1.0, 5.0], "b": [2.0, 6.0]}
    pl.DataFrame(table).write_parquet(tmp_path / "v.parquet")
    features = read_vectors(tmp_path / "v.parquet", IDS, ROWS, "audio")
    assert features.values.tolist() == [[1, 2], [0, 0], [5, 6]]
    assert features.values.dtype == np.float16


def test_npy_follows_the_items_file(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[1, 2], [np.nan, 4]]))
    features = read_vectors(tmp_path / "v.npy", IDS, ROWS, "audio")
    assert features.present.tolist() == [True, False, False]
    (problem,) = features.problems
    assert (problem.item_id, problem.reason) == ("20", "the vector is not finite")
    with pytest.raises(CammsrError, match="has 2 rows and the items file has 3"):
        read_vectors(tmp_path / "v.npy", IDS, [0, 1, 2], "audio")
    with pytest.raises(CammsrError, match="has 2 rows and the items file has 5"):
        read_vectors(tmp_path / "v.npy", IDS, ROWS, "audio", row_count=5)


def test_a_pickle_in_an_npy_is_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CammsrError, match="no readable"):
        read_vectors(tmp_path / "v.npy", IDS, ROWS, "audio")


def test_values_too_large_for_float16_are_told(tmp_path: Path) -> None:
    path = _write(tmp_path / "v.csv", "id,x\n10,1e6\n20,1\n")
    features = read_vectors(path, IDS, ROWS, "audio")
    assert [problem.item_id for problem in features.problems] == ["10"]
    assert "float32" in features.problems[0].reason
    assert not read_vectors(path, IDS, ROWS, "audio", dtype="float32").problems


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("id,x,y\n10,1,2\n20,oops,3\n", CammsrError, "line 3: 'oops' in column 'x'"),
        ("id,x\n10,1\n10,2\n", CammsrError, "line 3: item '10' was there before: "),
        ("id,x\n1,1\n2,2\n", CammsrError, "names no item of the catalogue"),
        ("who,x\n10,1\n", UsageError, "no column names the item"),
        ("id,name\n10,a\n", UsageError, "no numeric column"),
        ('id,v\n10,"[1, 2]"\n20,"[1]"\n', CammsrError, "line 3: a vector of 1 numbers"),
        ('id,v\n10,"[1, 2]"\n20,"[1, b]"\n', CammsrError, "line 3: column 'v'"),
    ],
)
def test_faults_are_told_with_their_place(
    tmp_path: Path, text: str, error: type[CammsrError], told: str
) -> None:
    with pytest.raises(error, match=r"v\.csv") as raised:
        read_vectors(_write(tmp_path / "v.csv", text), IDS, ROWS, "audio")
    assert told in raised.value.message


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no format"):
        read_vectors(_write(tmp_path / "v.pkl", ""), IDS, ROWS, "audio")
