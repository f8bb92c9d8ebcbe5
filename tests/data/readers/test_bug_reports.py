"""Small inputs after public bug reports of people who prepare such data, and what is right.

Each is what a shop or a data set once gave to another tool, written anew. What is told by media,
vectors or a training is tested there: clips that are mirrored, pictures of any kind, vectors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from cammsr_cli.data.corpus import Corpus, SourceOptions, read_corpus
from cammsr_cli.data.event_conditions import Condition
from cammsr_cli.errors import CammsrError

Content = str | bytes | pl.DataFrame


@dataclass(frozen=True)
class Report:
    """An input, and what is right.

    Attributes:
        files: Their names and what they hold.
        users: Each user's items, oldest first.
        titles: Item to title, of all that have one.
        told: What is told, as regular expressions.
        categories: Names of all categories.
        source: What is given, within the folder.
        items: The items file, where it is given.
        options: Of `SourceOptions`.
    """

    files: Mapping[str, Content]
    users: Mapping[str, list[str]]
    titles: Mapping[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    source: str = "."
    items: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def write(folder: Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pl.DataFrame):
            content.write_parquet(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def read(folder: Path, report: Report) -> Corpus:
    write(folder, report.files)
    items = None if report.items is None else folder / report.items
    return read_corpus(SourceOptions(folder / report.source, items, **report.options))


def log(*rows: str, header: str = "user,item,timestamp") -> str:
    return "\n".join((header, *rows, ""))


def in_order(*items: str, user: str = "u", step: int = 1) -> str:
    return log(*(f"{user},{item},{10**9 + at * step}" for at, item in enumerate(items)))


def lines(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


ABCD = ["a", "b", "c", "d"]
DAYS = {"u": ["1", "2", "3"]}
REPORTS = {
    "01 quotes escaped by a backslash": Report(
        {
            "interactions.csv": 'user,item,timestamp,review\nu,a,1,"only 5\\" wide"\nu,b,2,"ok"\n'
            'u,c,3,"4\\" deep"\nu,d,4,"fine"\n'
        },
        {"u": ABCD},
        told=(r'quotes of interactions.csv are written \\"',),
    ),
    "02 Book-Crossing's escaped quotes, semicolons and western letters": Report(
        {
            "ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n"11";"001";"5"\n"11";"002";"3"\n',
            "books.csv": '"ISBN";"Book-Title"\n"001";"The \\"Big\\" Café"\n"002";"6\\""\n'.encode(
                "cp1252"
            ),
        },
        {"11": ["001", "002"]},
        {"001": 'The "Big" Café', "002": '6"'},
        source="ratings.csv",
        items="books.csv",
        options={"order": "file"},
    ),
    "03 inch marks in a TSV": Report(
        {
            "d.inter": "user_id:token\titem_id:token\ttimestamp:float\nu\t1\t1\nu\t2\t2\nu\t3\t3\n",
            "d.item": 'item_id:token\ttitle:token\n1\t"Long live\n2\tSaw 7"\n3\tPlain\n',
        },
        {"u": ["1", "2", "3"]},
        {"1": '"Long live', "2": 'Saw 7"', "3": "Plain"},
    ),
    "03b quotes within the fields of a TSV": Report(
        {
            "interactions.tsv": "user\titem\ttimestamp\nu\t1\t1\nu\t2\t2\n",
            "items.tsv": 'item\ttitle\n1\t"Great" Cats\n2\tsays "hi"\n',
        },
        {"u": ["1", "2"]},
        {"1": '"Great" Cats', "2": 'says "hi"'},
    ),
    "04 ids that lost their zeros in one of two files": Report(
        {
            "transactions.csv": "t_dat,customer_id,article_id\n2018-09-20,c,0108\n",
            "articles.csv": "article_id,prod_name\n108,Top\n",
        },
        {"c": ["0108"]},
        {"108": "Top"},
        told=(r"1 of them are listed without leading zeros, as '0108', which is '108' there",),
        source="transactions.csv",
        items="articles.csv",
    ),
    "05 ids as floats": Report(
        {
            "interactions.csv": log("1,10.0,1", "1,20.0,2", ",30.0,3"),
            "items.csv": "item,title\n10,A\n20,B\n30,C\n",
        },
        {"1": ["10", "20"]},
        {"10": "A", "20": "B", "30": "C"},
        told=("such as 10.0 .* are read as 10", "1 row without a user or an item id dropped"),
    ),
    "06 words for nothing": Report(
        {
            "interactions.csv": log(r"\N,a,1", "NULL,b,2", "u,a,3", "u,nan,4", "u,b,5"),
            "items.csv": "item,title,category\na,NULL,NaN\nb,Real,Toys\n",
        },
        {"u": ["a", "b"]},
        {"b": "Real"},
        told=("3 rows without a user or an item id dropped",),
        categories=("Toys",),
    ),
    "07 times YYYYMMDDHHMMSS": Report(
        {"log.csv": log("u,b,20140407235959", "u,c,20150101000000", "u,a,20131231235959")},
        {"u": ["a", "b", "c"]},
        told=("YYYYMMDDHHMMSS, 2013-12-31 23:59:59 to 2015-01-01 00:00:00",),
        source="log.csv",
    ),
    "07b times YYYYMMDDHHMM": Report(
        {"log.csv": log("u,b,201404072359", "u,c,201501010000", "u,a,201312312359")},
        {"u": ["a", "b", "c"]},
        told=("YYYYMMDDHHMM, 2013-12-31 23:59:00 to",),
        source="log.csv",
    ),
    "07c times YYYYMM": Report(
        {"log.csv": log("u,b,201404", "u,c,201501", "u,a,201312")},
        {"u": ["a", "b", "c"]},
        told=("YYYYMM, days without a clock, 2013-12-01 to 2015-01-01",),
        source="log.csv",
    ),
    "07d days as numbers of JSON": Report(
        {
            "log.jsonl": lines(
                {"user": 1, "item": 2, "date": 20140408},
                {"user": 1, "item": 1, "date": 20131231},
            )
        },
        {"1": ["1", "2"]},
        told=("YYYYMMDD, days without a clock, 2013-12-31 to 2014-04-08",),
        source="log.jsonl",
    ),
    "08 days of a spreadsheet": Report(
        {"log.csv": log("u,a,43831", "u,b,43831.5", "u,c,44196")},
        {"u": ["a", "b", "c"]},
        told=("as Excel counts them, 2020-01-01 00:00:00 to 2020-12-31 00:00:00",),
        source="log.csv",
    ),
    "09 a minimal date among milliseconds": Report(
        {"log.csv": log("u,b,1588687728000", "u,a,-62135596800000", "u,c,1588687729000")},
        {"u": ["a", "b", "c"]},
        told=(r"1 event earlier than 1980, such as timestamp -62135596800000 \(.*line 3\)",),
        source="log.csv",
    ),
    "10 KuaiRand's days beside milliseconds": Report(
        {
            "log.csv": "user_id,video_id,date,time_ms\n1,10,20220408,1649400204002\n"
            "1,11,20220408,1649396604002\n"
        },
        {"1": ["11", "10"]},
        told=("timestamp read from column 'time_ms'",),
        source="log.csv",
    ),
    "11 Diginetica's sessions, whose users are NA": Report(
        {
            "train-item-views.csv": "sessionId;userId;itemId;timeframe;eventdate\n"
            "1;NA;81766;526309;2016-05-09\n1;NA;31331;1031018;2016-05-09\n"
            "1;NA;32118;243569;2016-05-09\n2;NA;9654;75848;2016-05-09\n"
        },
        {"1": ["32118", "81766", "31331"], "2": ["9654"]},
        told=("6 cells|4 cells", "read as Diginetica"),
        source="train-item-views.csv",
    ),
    "12 MicroLens titles over several lines": Report(
        {
            "ML_pairs.csv": "user,item,timestamp\n1,10,1600000001000\n1,11,1600000002000\n",
            "ML_titles.csv": '10,"A calm lake\nat dawn, part one"\n11,Clip\n',
            "ML_covers/10.jpg": b"x",
            "ML_covers/11.jpg": b"x",
        },
        {"1": ["10", "11"]},
        {"10": "A calm lake\nat dawn, part one", "11": "Clip"},
    ),
    "13 what a Mac leaves behind": Report(
        {
            "interactions.csv": in_order("a", "b"),
            "items.csv": "item,title\na,A\n",
            "._interactions.csv": b"\x00\x05\x16\x07user,item",
            "._items.csv": b"\x00\x05\x16\x07",
            "__MACOSX/x.csv": "user,item,timestamp\n",
            ".DS_Store": b"\x00",
        },
        {"u": ["a", "b"]},
        {"a": "A"},
    ),
    "14 Yelp's categories": Report(
        {
            "review.json": lines(
                {"user_id": "u", "business_id": "b1", "date": "2018-07-01 22:09:11", "text": "x"},
                {"user_id": "u", "business_id": "b2", "date": "2018-07-02 22:09:11", "text": "x"},
            ),
            "business.json": lines(
                {"business_id": "b1", "name": "N", "categories": "Bars, Mexican"},
                {"business_id": "b2", "name": "M", "categories": "Mexican, Bars"},
            ),
        },
        {"u": ["b1", "b2"]},
        {"b1": "N", "b2": "M"},
        told=(r"several categories a cell, separated by ','",),
        categories=("Bars", "Mexican"),
        source="review.json",
        items="business.json",
    ),
    "15 RetailRocket's properties": Report(
        {
            "events.csv": "timestamp,visitorid,event,itemid,transactionid\n"
            "1433221999827,2,transaction,31,4000\n1433221955914,2,view,25,\n",
            "item_properties.csv": "timestamp,itemid,property,value\n"
            "1435460400000,25,categoryid,1338\n"
            "1439089200000,25,categoryid,1500\n1431226800000,31,790,n15360.000\n",
        },
        {"2": ["25", "31"]},
        told=("a row a property of an item; read categoryid", "transaction 1, view 1"),
        categories=("1500",),
        source="events.csv",
        items="item_properties.csv",
    ),
    "17 odd ids": Report(
        {
            "interactions.csv": log(
                '"ann, ""the"" 1st","a,b",1', "=1+1,007,2", "=1+1,7,3", "u\u2028v,7.0,4", "é,𝔘,5"
            )
        },
        {'ann, "the" 1st': ["a,b"], "=1+1": ["007", "7"], "u\u2028v": ["7.0"], "é": ["𝔘"]},
    ),
    "18 all at one time, twice": Report(
        {"interactions.csv": log("u,a,5", "u,b,5", "u,a,5", "u,c,5")},
        {"u": ["a", "b", "c"]},
        told=("1 duplicate event", "100% of events share theirs"),
    ),
    "22a decimals as ids": Report(
        {
            "interactions.parquet": pl.DataFrame(
                {"user": [1, 1], "item": [Decimal("10.00"), Decimal("11.00")], "time": [1, 2]}
            ),
            "items.csv": "item,title\n10,A\n11,B\n",
        },
        {"1": ["10", "11"]},
        {"10": "A", "11": "B"},
        told=("such as 10.00 .* are read as 10",),
    ),
    "22b categories, enums and times with a zone": Report(
        {
            "interactions.parquet": pl.DataFrame(
                {
                    "user": pl.Series(["a", "a"], dtype=pl.Categorical),
                    "item": ["y", "x"],
                    "time": [
                        datetime(2020, 1, 1, 1, tzinfo=ZoneInfo("America/New_York")),
                        datetime(2020, 1, 1, 0, tzinfo=ZoneInfo("America/New_York")),
                    ],
                }
            )
        },
        {"a": ["x", "y"]},
        told=("2020-01-01 05:00:00 to 2020-01-01 06:00:00",),
    ),
    "22c days as numbers of Parquet": Report(
        {
            "interactions.parquet": pl.DataFrame(
                {"user": [1, 1], "item": [2, 1], "date": [20200131, 20200101]}
            )
        },
        {"1": ["1", "2"]},
        told=("2020-01-01 to 2020-01-31",),
    ),
    "23b a spreadsheet's text in UTF-16": Report(
        {"interactions.csv": "user\titem\ttimestamp\nü\t1\t2021-01-01\n".encode("utf-16")},
        {"ü": ["1"]},
    ),
    "23c a spreadsheet's first line": Report(
        {"interactions.csv": "sep=;\r\nuser;item;timestamp\r\na;1;2021-01-01\r\n"},
        {"a": ["1"]},
    ),
    "23d German dates": Report(
        {"interactions.csv": "user,item,date\na,2,03.02.2021\na,1,01.03.2020\n"},
        {"a": ["1", "2"]},
        told=("day first, days without a clock, 2020-03-01 to 2021-02-03",),
    ),
    "24 accents of two spellings": Report(
        {"interactions.csv": in_order("cafe\u0301"), "items.csv": "item,title\ncaf\u00e9,A\n"},
        {"u": ["cafe\u0301"]},
        {"caf\u00e9": "A"},
        told=("listed with accents written alike",),
    ),
    "26a quotes of Windows in MovieLens": Report(
        {
            "ratings.dat": "1::1::5::978300101\n1::2::4::978300102\n",
            "movies.dat": b"1::Mis\xe9rables :: Les (1995)::Drama\n2::X\x92s::Comedy\n",
            "users.dat": "1::F::1::10::48067\n",
        },
        {"1": ["1", "2"]},
        {"1": "Misérables :: Les (1995)", "2": "X’s"},
        categories=("Drama", "Comedy"),
    ),
    "27 a row whose cells are shifted": Report(
        {
            "ratings.csv": "userId,movieId,rating,timestamp\n1,862,4,978300962\n"
            "1,8844,4,978308944\n",
            "movies_metadata.csv": 'adult,id,title,overview\nFalse,862,Toy,"Led by ""Woody"""\n'
            'False,8844,Jum,x\n" - Written by X",1997-08-20,1,\nFalse,11862,Fat,x\n'
            "False,15602,Gru,x\nFalse,31357,Wai,x\n",
        },
        {"1": ["862", "8844"]},
        {"862": "Toy", "8844": "Jum", "11862": "Fat", "15602": "Gru", "31357": "Wai"},
        told=(r"1 row of .* left out, whose id is a date .* such as 1997-08-20 \(.*, line 4\)",),
    ),
    "28 Goodreads' dates": Report(
        {
            "inter.json": lines(
                {"user_id": "8", "book_id": "2", "date_added": "Sun Jul 30 07:44:10 -0700 2017"},
                {"user_id": "8", "book_id": "1", "date_added": "Mon Mar 22 23:42:04 -0700 2010"},
            )
        },
        {"8": ["1", "2"]},
        told=("2010-03-23 06:42:04 to 2017-07-30 14:44:10",),
        source="inter.json",
    ),
    "29 Last.fm's plays without a header": Report(
        {
            "plays.tsv": "user_000001\t2009-05-04T23:08:57Z\ta\tDeep Dish\ttr2\tX\n"
            'user_000001\t2009-05-04T13:54:10Z\tb\t"坂本龍一\ttr1\t12" Mix\n'
        },
        {"user_000001": ["tr1", "tr2"]},
        told=("plays.tsv has no header: its columns are taken for user_id, timestamp",),
        source="plays.tsv",
    ),
    "30 RecBole's sessions in the file's order": Report(
        {"d.inter": "session_id:token\titem_id_list:token_seq\titem_id:token\n1\t10 11\t13\n"},
        {"1": ["13"]},
        told=("column item_id_list of d.inter not read: sequences of a row are no events",),
        options={"order": "file"},
    ),
    "31 two tables of items": Report(
        {
            "interactions.csv": in_order("1", "2"),
            "catalog_2023.csv": "item,title\n1,A\n",
            "catalog_2024.csv": "item,title\n2,B\n",
        },
        {"u": ["1", "2"]},
        {"1": "A", "2": "B"},
        told=("items read from catalog_2023.csv, catalog_2024.csv, joined by their ids",),
    ),
    "31b H&M as downloaded": Report(
        {
            "transactions_train.csv": "t_dat,customer_id,article_id\n2018-09-20,a,0108\n",
            "articles.csv": "article_id,prod_name,product_group_name\n0108,Top,Upper body\n",
            "customers.csv": "customer_id,FN,postal_code\na,1,x\n",
        },
        {"a": ["0108"]},
        {"0108": "Top"},
        told=("customers.csv not read: no column known as the item",),
        categories=("Upper body",),
    ),
    "32 a folder as Spark writes it": Report(
        {
            "ratings.parquet/part-00000.parquet": pl.DataFrame(
                {"user": ["u"], "item": ["1"], "timestamp": [1]}
            ),
            "ratings.parquet/part-00001.parquet": pl.DataFrame(
                {"user": ["u"], "item": ["2"], "timestamp": [2]}
            ),
            "ratings.parquet/_SUCCESS": "",
            "items.csv": "item,title\n1,A\n2,B\n",
        },
        {"u": ["1", "2"]},
        {"1": "A", "2": "B"},
        told=("ratings.parquet read from 2 parts",),
    ),
    "34 what was rated too low": Report(
        {"interactions.csv": log("u,a,1,5", "u,b,2,1", "v,b,3,5", header=log()[:-1] + ",rating")},
        {"u": ["a"], "v": ["b"]},
        told=("1 event below rating 4 dropped",),
        options={"min_rating": 4},
    ),
    "36 commas after each line": Report(
        {
            "log.json": '{"user": "u", "item": 1, "time": 1},\n'
            '{"user": "u", "item": 2, "time": 2},\n'
        },
        {"u": ["1", "2"]},
        source="log.json",
    ),
    "36b a list of objects": Report(
        {"log.json": '[{"user": "u", "item": 1, "time": 1},\n{"user": "u", "item": 2, "time": 2}]'},
        {"u": ["1", "2"]},
        source="log.json",
    ),
    "38b milliseconds among seconds": Report(
        {"log.csv": log("u,a,1600000000", "u,c,1600000200", "u,b,1600000100000", "u,d,1600000300")},
        {"u": ABCD},
        told=("several units, each read in its own .3 of seconds, 1 of milliseconds",),
        source="log.csv",
    ),
    "50 British dates": Report(
        {"log.csv": log("u,b,20/03/2024 14:00", "u,a,03/02/2024 15:00")},
        {"u": ["a", "b"]},
        told=("day first, 2024-02-03 15:00:00 to 2024-03-20 14:00:00",),
        source="log.csv",
    ),
    "50 American dates": Report(
        {"log.csv": log("u,b,3/20/2024 2:00 PM", "u,a,3/20/2024 12:30 AM")},
        {"u": ["a", "b"]},
        told=("month first, 2024-03-20 00:30:00 to 2024-03-20 14:00:00",),
        source="log.csv",
    ),
    "51 YooChoose's clicks without a header": Report(
        {
            "yoochoose-clicks.dat": "1,2014-04-02T10:51:09.277Z,502,0\n"
            "1,2014-04-01T10:51:09.277Z,501,0\n"
        },
        {"1": ["501", "502"]},
        told=("has no header: its columns are taken for session_id, timestamp, item_id",),
        source="yoochoose-clicks.dat",
    ),
    "52 a folder of part files": Report(
        {
            "interactions/part-00000.csv": in_order("a"),
            "interactions/part-00001.csv": log("u,b,1000000009"),
        },
        {"u": ["a", "b"]},
        told=("interactions read from 2 parts",),
    ),
    "53 one kind of event": Report(
        {
            "2019-Oct.csv": log(
                "2019-10-01 00:00:01 UTC,purchase,1,9",
                "2019-10-01 00:00:00 UTC,view,2,9",
                header="event_time,event_type,product_id,user_id",
            )
        },
        {"9": ["1"]},
        told=("1 row left out by --where event=purchase",),
        source="2019-Oct.csv",
        options={"where": (Condition.parse("event=purchase"),)},
    ),
    "54 order within a second": Report(
        {"log.csv": log("u,b,1433277770400", "u,a,1433277770100", "u,c,1433277770900")},
        {"u": ["a", "b", "c"]},
        told=("0% of events share theirs",),
        source="log.csv",
    ),
    "55 Steam's names": Report(
        {
            "steam_reviews.json": lines(
                {"username": "n", "product_id": "72", "date": "2017-12-10", "text": "ok"}
            )
        },
        {"n": ["72"]},
        source="steam_reviews.json",
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_what_is_right(tmp_path: Path, name: str) -> None:
    report = REPORTS[name]
    corpus = read(tmp_path, report)
    bounds = zip(corpus.event_indptr[:-1], corpus.event_indptr[1:], strict=True)
    events = [[corpus.item_ids[item] for item in corpus.event_item[a:b]] for a, b in bounds]
    assert dict(zip(corpus.user_ids, events, strict=True)) == report.users
    titles = corpus.fields.get("title", [None] * len(corpus.item_ids))
    found = {one: title for one, title in zip(corpus.item_ids, titles, strict=True) if title}
    assert found == report.titles
    assert tuple(corpus.category_names) == report.categories
    notes = "\n".join(corpus.notes)
    for told in report.told:
        assert re.search(told, notes), notes


REFUSED = {
    "01c quotes within quotes": (
        {"interactions.csv": 'user,item,timestamp,t\nu,a,1,"bad "quote here"\nu,b,2,"an "x"\n'},
        r"interactions.csv, line 2: a quoted field is broken",
    ),
    "22e times without a day": (
        {
            "interactions.parquet": pl.DataFrame(
                {"user": ["u"], "item": ["a"], "time": [time(5, 30)]}
            )
        },
        r"interactions.parquet, row 1: time is datetime.time\(5, 30\), not a timestamp",
    ),
    "30 RecBole's sessions, which have no times": (
        {"d.inter": "session_id:token\titem_id_list:token_seq\titem_id:token\n1\t10 11\t13\n"},
        r"no column recognised as timestamp",
    ),
    "35 what mongoexport makes of ids": (
        {
            "interactions.json": lines(
                {"user_id": {"$numberLong": "7"}, "item_id": {"$oid": "aa"}, "timestamp": 1}
            )
        },
        r"interactions.json, line 1: user_id is a list or an object, not an id",
    ),
    "50 dates that may be read in two ways": (
        {"interactions.csv": log("u,a,3/4/2024", "u,b,5/6/2024")},
        r"is 2024-04-03 \(day-first\) or 2024-03-04 \(month-first\)",
    ),
    "51 clicks without a header or a name": (
        {
            "interactions.csv": "1,2014-04-01T10:51:09.277Z,501,0\n"
            "1,2014-04-02T10:51:09.277Z,502,0\n"
        },
        r"seems to have no header",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_one_reading_is_refused(tmp_path: Path, name: str) -> None:
    files, message = REFUSED[name]
    with pytest.raises(CammsrError, match=message):
        read(tmp_path, Report(files, {}))
