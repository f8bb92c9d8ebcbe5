"""Each known format: a small sample as its publisher writes it, recognised and read."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT
from read_back import categories_of, sequences

from cammsr_cli.data.corpus import SourceOptions, read_corpus
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.formats import FORMAT_NAMES, open_sources
from cammsr_cli.errors import UsageError


def sample(folder: Path, **files: str | bytes) -> Path:
    """Files named with "__" for "."; ".gz" is packed."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        raw = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return folder


def json_lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def python_lines(*rows: dict[str, object]) -> str:
    return "".join(repr(row) + "\n" for row in rows)


# --- Amazon Reviews -----------------------------------------------------------------------------


def review_2014(user: str, item: str, time: int, text: str = "Good.") -> dict[str, object]:
    return {
        "reviewerID": user, "asin": item, "reviewerName": "J. \"JJ\" O'Neil", "helpful": [2, 3],
        "reviewText": text, "overall": 5.0, "summary": "MARKER", "unixReviewTime": time,
        "reviewTime": "09 13, 2009",
    }  # fmt: skip


def amazon_2014(folder: Path) -> Path:
    meta = python_lines(
        {
            "asin": "0000031852", "title": "Girls' \"Ballet\" Tutu", "price": 3.17,
            "imUrl": "http://ecx.images-amazon.com/images/I/51fAmVkTbyL._SY300_.jpg",
            "related": {"also_bought": ["B00JHONN1S"], "bought_together": ["B002BZX8Z6"]},
            "salesRank": {"Toys & Games": 211836}, "brand": "Coxlures",
            "categories": [["Sports & Outdoors", "Dance"], ["Clothing", "Girls", "Skirts"]],
            "description": "Soft &amp; light.<br />One size.",
        },
        {"asin": "B002BZX8Z6", "categories": [["Sports & Outdoors", "Balls"]], "title": "Ball"},
        {"asin": "B00JHONN1S", "categories": [["Clothing", "Boys"]], "imUrl": "http://x/a.gif"},
    )  # fmt: skip
    reviews = json_lines(
        review_2014("A2", "B002BZX8Z6", 1252900000),
        review_2014("A1", "0000031852", 1252800000),
        review_2014("A1", "B00JHONN1S", 1252700000),
    )
    return sample(folder, reviews_Toys_5__json__gz=reviews, meta_Toys__json__gz=meta)


def test_amazon_2014(tmp_path: Path) -> None:
    corpus = read_corpus(SourceOptions(amazon_2014(tmp_path / "a")))
    assert corpus.item_ids == ["0000031852", "B002BZX8Z6", "B00JHONN1S"]
    assert sequences(corpus) == {"A2": ["B002BZX8Z6"], "A1": ["B00JHONN1S", "0000031852"]}
    assert corpus.event_time.tolist() == [1252900000, 1252700000, 1252800000]
    assert corpus.fields["title"] == ['Girls\' "Ballet" Tutu', "Ball", None]
    assert corpus.fields["description"] == ["Soft & light. One size.", None, None]
    assert corpus.fields["image"] == [
        "http://ecx.images-amazon.com/images/I/51fAmVkTbyL._SY300_.jpg", None, "http://x/a.gif",
    ]  # fmt: skip
    assert set(corpus.fields) == {"title", "description", "image", "price", "brand", "reviews"}
    assert categories_of(corpus)["0000031852"] == ["Dance", "Girls"]
    assert "read as Amazon Reviews 2014 (--format amazon-2014)" in corpus.notes
    assert "columns of meta_Toys.json.gz left out: related, salesRank" in corpus.notes
    assert any("level 2 guides" in note and "1: 2, 2: 4, 3: 1" in note for note in corpus.notes)


def review_2018(user: str, item: str, time: int) -> dict[str, object]:
    return {
        "overall": 4.0, "vote": "2", "verified": True, "reviewTime": "01 1, 2018",
        "reviewerID": user, "asin": item, "style": {"Size:": " Large", f"Key {user}:": " x"},
        "reviewerName": "Abbey", "reviewText": "ok", "summary": "MARKER", "unixReviewTime": time,
        "image": ["https://images-na.ssl-images-amazon.com/images/I/MARKER.jpg"],
    }  # fmt: skip


def amazon_2018(folder: Path) -> Path:
    empty = {"also_buy": [], "also_view": ["X"], "tech1": "", "rank": [], "similar_item": ""}
    meta = json_lines(
        {
            **empty, "category": ["Beauty", "Hair", "Combs"], "asin": "6546546450",
            "description": ["<p>First.</p>", "", "Second."], "title": "Comb", "price": "$30.99",
            "imageURL": ["https://m/I/s._US40_.jpg"], "imageURLHighRes": ["https://m/I/s.jpg"],
            "main_cat": "All Beauty", "details": {}, "feature": ["MARKER"],
        },
        {
            **empty, "category": ["Beauty", "Nails"], "asin": "B001", "description": [],
            "title": "var aPageStart = (new Date()).getTime();\nvar ue_t0=1;", "price": "",
            "imageURL": ["https://m/I/t._US40_.jpg"], "imageURLHighRes": [],
            "main_cat": '<img src="https://m/x.png" alt="AMAZON FASHION"/>',
            "details": {"Size: ": "9 ounces"}, "feature": ["Shiny", "Red"],
        },
        {**empty, "category": [], "asin": "B002", "title": "Soap", "main_cat": "All Beauty"},
        {**empty, "category": ["Beauty", "Skin"], "asin": "B003", "title": "Balm"},
    )  # fmt: skip
    reviews = json_lines(
        review_2018("A1", "6546546450", 1514764800), review_2018("A1", "B001", 1514764801)
    )
    return sample(folder, All_Beauty_5__json=reviews, meta_All_Beauty__json=meta)


def test_amazon_2018(tmp_path: Path) -> None:
    corpus = read_corpus(SourceOptions(amazon_2018(tmp_path / "a")))
    assert corpus.item_ids == ["6546546450", "B001", "B002", "B003"]
    assert sequences(corpus) == {"A1": ["6546546450", "B001"]}
    assert corpus.fields["title"] == ["Comb", None, "Soap", "Balm"]
    assert corpus.fields["description"] == ["First. Second.", "Shiny Red", None, None]
    assert corpus.fields["image"] == ["https://m/I/s.jpg", "https://m/I/t._US40_.jpg", None, None]
    assert categories_of(corpus) == {
        "6546546450": ["Hair"], "B001": ["Nails"], "B002": [], "B003": ["Skin"],
    }  # fmt: skip
    assert not {"also_buy", "also_view", "similar_item", "rank"} & set(corpus.fields)
    assert corpus.fields["details"][1] == "Size: 9 ounces"
    assert "1 title left out, being page source" in corpus.notes
    assert "image of 1 item taken from column 'imageURL'" in corpus.notes
    assert "1 item whose category ends above it without one" in " ".join(corpus.notes)


def amazon_2023(folder: Path) -> Path:
    review = {"rating": 5.0, "title": "MARKER", "text": "ok<br /><br />fine", "asin": "MARKER"}
    reviews = json_lines(
        {**review, "images": [{"small_image_url": "MARKER"}], "parent_asin": "B07", "user_id": "AG",
         "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True},
        {**review, "images": [], "parent_asin": "B08", "user_id": "AG",
         "timestamp": 1588687728922, "helpful_vote": 1, "verified_purchase": False},
    )  # fmt: skip
    meta = json_lines(
        {
            "main_category": "All Beauty", "title": "Howard &amp; Co", "average_rating": 4.8,
            "rating_number": 10, "features": ["Soft"], "description": [], "price": None,
            "images": [
                {"thumb": "https://t", "large": "https://l", "variant": "MAIN", "hi_res": None},
                {"thumb": "https://t2", "large": "https://l2", "variant": "PT01", "hi_res": "h"},
            ],
            "videos": [{"title": "V", "url": "https://www.amazon.com/vdp/0c", "user_id": "/s"}],
            "store": "Howard", "categories": [], "parent_asin": "B07", "bought_together": None,
            "details": {"Package Dimensions": "7 x 5", "UPC": "617390882781"},
        },
        {
            "main_category": "Premium", "title": "Yes", "features": [], "description": ["A", "B"],
            "price": 9.99, "images": [], "videos": [], "store": None, "parent_asin": "B08",
            "categories": ["Beauty", "Hair"], "details": {"Colour": "red"}, "average_rating": 4,
        },
    )  # fmt: skip
    return sample(folder, All_Beauty__jsonl=reviews, meta_All_Beauty__jsonl=meta)


def test_amazon_2023(tmp_path: Path) -> None:
    corpus = read_corpus(SourceOptions(amazon_2023(tmp_path / "a")))
    assert corpus.item_ids == ["B07", "B08"]
    assert sequences(corpus) == {"AG": ["B08", "B07"]}
    assert corpus.event_time.tolist() == [1588687728, 1588687728]
    assert corpus.fields["title"] == ["Howard & Co", "Yes"]
    assert corpus.fields["description"] == ["Soft", "A B"]
    assert corpus.fields["image"] == ["https://l", None]
    assert corpus.fields["video"] == ["https://www.amazon.com/vdp/0c", None]
    assert corpus.fields["details"] == [
        "Package Dimensions: 7 x 5, UPC: 617390882781",
        "Colour: red",
    ]
    assert "MARKER" not in repr({name: list(one) for name, one in corpus.fields.items()})
    assert categories_of(read_corpus(SourceOptions(tmp_path / "a", category_level=1))) == {
        "B07": ["All Beauty"], "B08": ["Beauty"],
    }  # fmt: skip


@pytest.mark.parametrize("make", [amazon_2014, amazon_2018, amazon_2023])
def test_a_pair_of_amazon_files_is_what_their_folder_is(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    folder = make(tmp_path / "a")
    meta, reviews = sorted(folder.iterdir(), key=lambda path: path.name.startswith("meta"))[::-1]
    pair = read_corpus(SourceOptions(reviews, meta))
    whole = read_corpus(SourceOptions(folder))
    assert (pair.item_ids, pair.fields, pair.notes) == (whole.item_ids, whole.fields, whole.notes)
    assert pair.category_names == whole.category_names
    assert not [note for note in whole.notes if "to choose" in note]  # it is known what is what


def test_several_amazon_files_of_one_kind_are_refused(tmp_path: Path) -> None:
    folder = amazon_2023(tmp_path / "a")
    (folder / "Toys.jsonl").write_bytes((folder / "All_Beauty.jsonl").read_bytes())
    with pytest.raises(UsageError, match=r"several files of reviews: All_Beauty\.jsonl, Toys"):
        read_corpus(SourceOptions(folder))


# --- RecBole ------------------------------------------------------------------------------------


def recbole(folder: Path) -> Path:
    return sample(
        folder,
        **{
            "ml-100k__inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
            "196\t007\t3\t881250949\n196\t7\t3.5\t881250940\n22\t7\t1\t878887116\n",
            "ml-100k__item": "item_id:token\tmovie_title:token_seq\trelease_year:token\t"
            "class:token_seq\tembedding:float_seq\n"
            "007\tToy \"Story\" (1995)\t1995\tChildren's Women's Comedy\t0.1 0.2\n"
            "7\t\t\t\t\n8\tHeat\t1995\tCrime\t\n",
            "ml-100k__user": "user_id:token\tage:token\n196\t24\n",
        },
    )


def test_recbole(tmp_path: Path) -> None:
    corpus = read_corpus(SourceOptions(recbole(tmp_path / "r"), min_rating=2))
    assert corpus.item_ids == ["007", "7", "8"]
    assert sequences(corpus) == {"196": ["7", "007"]}
    assert corpus.fields["title"] == ['Toy "Story" (1995)', None, "Heat"]
    assert corpus.fields["release_year"] == ["1995", None, "1995"]
    assert categories_of(corpus) == {
        "007": ["Children's", "Women's", "Comedy"], "7": [], "8": ["Crime"],
    }  # fmt: skip
    assert "read as RecBole's atomic files (--format recbole)" in corpus.notes


def test_recbole_files_as_a_pair_and_with_amazons_categories(tmp_path: Path) -> None:
    folder = sample(
        tmp_path / "r",
        b__inter="user_id:token\titem_id:token\ttimestamp:float\nA1\tB1\t1370000000\n",
        b__item="item_id:token\ttitle:token\tcategories:token_seq\tprice:float\n"
        "B1\tAmélie\t'Beauty', 'Women's Care', \"Men's\"\t9.5\nB2\tCafé\tFood, Coffee\t\n".encode(
            "latin-1"
        ).decode("latin-1"),
    )
    corpus = read_corpus(SourceOptions(folder / "b.inter", folder / "b.item"))
    assert corpus.fields["title"] == ["Amélie", "Café"]
    assert categories_of(corpus) == {
        "B1": ["Beauty", "Women's Care", "Men's"], "B2": ["Food", "Coffee"],
    }  # fmt: skip


def test_several_inter_files_are_refused(tmp_path: Path) -> None:
    folder = recbole(tmp_path / "r")
    (folder / "other.inter").write_bytes((folder / "ml-100k.inter").read_bytes())
    with pytest.raises(UsageError, match=r"several \.inter files: ml-100k\.inter, other\.inter"):
        read_corpus(SourceOptions(folder))


# --- MicroLens ----------------------------------------------------------------------------------

PAIRS = "user,item,timestamp\n1,10,1662984066309\n1,30,1662984066310\n2,20,1662984066308\n"


def microlens(folder: Path, titles: str) -> Path:
    name = "MicroLens-100k"
    sample(
        folder,
        **{
            f"{name}_pairs__csv": PAIRS,
            f"{name}_pairs__tsv": "1\t10 30\n2\t20\n",
            f"{name}_title_en__csv": titles,
            f"{name}_likes_and_views__txt": "10\t5\t900\n",
        },
    )
    sample(folder / f"{name}_covers", **{"10__jpg": b"x", "30__PNG": b"x", "99__jpg": b"x"})
    sample(folder / f"{name}_videos", **{"20__mp4": b"x", "10__mp4": b"x", "note__txt": b"x"})
    return folder


@pytest.mark.parametrize(
    "titles",
    [
        "item,title\n10,\"One, two \"\"three\"\"\"\n20,Café 😀\n",
        '\ufeff10,One, two "three"\n20,Café 😀\n',
        '10,"One, two ""three"""\r\n20,Café 😀\r\n',
    ],
)  # fmt: skip
def test_microlens(tmp_path: Path, titles: str) -> None:
    corpus = read_corpus(SourceOptions(microlens(tmp_path / "m", titles)))
    assert corpus.item_ids == ["10", "20", "30"]
    assert sequences(corpus) == {"1": ["10", "30"], "2": ["20"]}
    assert corpus.event_time.tolist() == [1662984066, 1662984066, 1662984066]
    assert corpus.fields == {
        "title": ['One, two "three"', "Café 😀", None],
        "image": ["MicroLens-100k_covers/10.jpg", None, "MicroLens-100k_covers/30.PNG"],
        "video": ["MicroLens-100k_videos/10.mp4", "MicroLens-100k_videos/20.mp4", None],
    }
    assert "1 file of images of no known item" in corpus.notes
    assert "read as a MicroLens folder (--format microlens)" in corpus.notes


def test_microlens_without_titles(tmp_path: Path) -> None:
    folder = sample(tmp_path / "m", interactions__csv=PAIRS)
    sample(folder / "covers", **{"10__jpg": b"x"})
    corpus = read_corpus(SourceOptions(folder))
    assert corpus.item_ids == ["10", "30", "20"]
    assert corpus.fields == {"image": ["covers/10.jpg", None, None]}
    assert list(corpus.sources) == ["interactions.csv"]


def test_a_shop_that_names_its_media_is_no_microlens_folder(tmp_path: Path) -> None:
    items = "item,title,video\n10,Ten,videos/a.mp4\n"
    folder = sample(tmp_path / "m", interactions__csv=PAIRS, items__csv=items)
    sample(folder / "videos", **{"a__mp4": b"x"})
    corpus = read_corpus(SourceOptions(folder))
    assert corpus.fields["video"] == ["videos/a.mp4", None, None]
    assert not any("MicroLens" in note for note in corpus.notes)


def test_media_that_later_items_name_and_items_without_titles_are_kept(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"item": str(n), "plot": f"P{n}"} for n in range(30)]
    folder = sample(tmp_path / "m", interactions__csv=PAIRS, items__jsonl=json_lines(*rows))
    sample(folder / "images", **{"10__jpg": b"x"})
    corpus = read_corpus(SourceOptions(folder))
    assert corpus.fields["description"][:2] == ["P0", "P1"]
    assert corpus.fields["image"][10] == "images/10.jpg"
    rows[29]["image"] = "elsewhere/29.jpg"
    sample(folder, items__jsonl=json_lines(*rows))
    corpus = read_corpus(SourceOptions(folder))
    assert corpus.fields["image"][29] == "elsewhere/29.jpg"
    assert corpus.fields["image"][10] is None


# --- plain --------------------------------------------------------------------------------------


def test_plain_tables_of_any_name_are_told_by_their_columns(tmp_path: Path) -> None:
    folder = sample(
        tmp_path / "p",
        orders__csv="customer_id;sku;created_at\n007;a;2020-01-01\n007;b;2020-01-02\n",
        shelf__jsonl=json_lines({"sku": "a", "name": "A", "genre": "Home > Garden", "price": 1}),
        vectors__csv="sku,brightness\na,0.5\n",
    )
    corpus = read_corpus(SourceOptions(folder))
    assert sequences(corpus) == {"007": ["a", "b"]}
    assert corpus.fields == {"title": ["A", None], "price": ["1", None]}
    assert list(corpus.sources) == ["orders.csv", "shelf.jsonl"]


def test_levels_of_plain_categories(tmp_path: Path) -> None:
    rows = [
        {"item": str(n), "category": f"Home > Room {n % 4} > {'xyz'[n % 3]}"} for n in range(12)
    ]
    folder = sample(tmp_path / "p", items__jsonl=json_lines(*rows), interactions__csv=PAIRS)
    chosen = read_corpus(SourceOptions(folder))
    assert chosen.category_names == ["Room 0", "Room 1", "Room 2", "Room 3"]
    assert read_corpus(SourceOptions(folder, category_level=1)).category_names == ["Home"]
    assert len(read_corpus(SourceOptions(folder, category_level=3)).category_names) == 12
    assert len(read_corpus(SourceOptions(folder, category_level="all")).category_names) == 17
    with pytest.raises(UsageError, match="--category-level 4: the deepest category path has 3"):
        read_corpus(SourceOptions(folder, category_level=4))


def test_a_level_reads_sets_as_paths(tmp_path: Path) -> None:
    items = "item,genres\n10,Home|Garden\n20,Home|Kitchen\n30,Sports\n"
    folder = sample(tmp_path / "p", items__csv=items, interactions__csv=PAIRS)
    assert categories_of(read_corpus(SourceOptions(folder)))["10"] == ["Home", "Garden"]
    leveled = read_corpus(SourceOptions(folder, category_level=1))
    assert categories_of(leveled) == {"10": ["Home"], "20": ["Home"], "30": ["Sports"]}


# --- naming the format --------------------------------------------------------------------------

MAKERS: dict[str, Callable[[Path], Path]] = {
    "amazon-2014": amazon_2014,
    "amazon-2018": amazon_2018,
    "amazon-2023": amazon_2023,
    "movielens": lambda folder: sample(
        folder, ratings__dat="1::2::5::10\n", movies__dat="2::Heat (1995)::Crime\n"
    ),
    "recbole": recbole,
    "microlens": lambda folder: microlens(folder, "item,title\n10,T\n"),
    "mind": lambda folder: sample(
        folder,
        behaviors__tsv="1\tU1\t11/15/2019 8:55:22 AM\tN1\tN2-1 N3-0\n",
        news__tsv="N2\tnews\tus\tT\tA\turl\t[]\t[]\n",
    ),
    "plain": lambda folder: sample(folder, interactions__csv=PAIRS),
}


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_named_format_is_the_recognised_one_and_no_other(tmp_path: Path, name: str) -> None:
    folder = MAKERS[name](tmp_path / "f")
    recognised, named = open_sources(folder), open_sources(folder, format_name=name)
    assert recognised.notes == named.notes
    assert recognised.interactions.frame.equals(named.interactions.frame)
    # Amazon's, RecBole's and MicroLens's tables are tables, so "plain" reads them too.
    for other in set(FORMAT_NAMES) - {name, "plain"}:
        with pytest.raises(UsageError) as caught:
            open_sources(folder, format_name=other)
        assert caught.value.hint


@pytest.mark.parametrize("name", sorted(set(FORMAT_NAMES) - {"plain"}))
def test_a_file_that_is_not_of_the_named_format(tmp_path: Path, name: str) -> None:
    path = sample(tmp_path / "f", interactions__csv=PAIRS) / "interactions.csv"
    with pytest.raises(UsageError, match=f"--format {name}: "):
        open_sources(path, format_name=name)


def test_plain_takes_nothing_for_granted(tmp_path: Path) -> None:
    folder = amazon_2018(tmp_path / "a")
    items = folder / "meta_All_Beauty.json"
    options = SourceOptions(folder / "All_Beauty_5.json", items, format="plain")
    corpus = read_corpus(options)
    assert categories_of(corpus)["6546546450"] == ["Beauty", "Hair", "Combs"]
    assert "also_view" in corpus.fields


# --- encodings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_every_format_in_another_encoding(tmp_path: Path, name: str) -> None:
    folder = MAKERS[name](tmp_path / "f")
    expected = read_corpus(SourceOptions(folder))
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".gz":
            path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))
        elif path.is_file():
            text = gzip.decompress(path.read_bytes()).decode()
            path.write_bytes(gzip.compress(text.encode("utf-16")))
    corpus = read_corpus(SourceOptions(folder, reading=Reading("utf-16")))
    assert (corpus.item_ids, corpus.fields) == (expected.item_ids, expected.fields)
    assert sequences(corpus) == sequences(expected)


def test_the_command_takes_format_encoding_and_level(tmp_path: Path, cammsr: Callable) -> None:
    rows = "".join(f"{n},Café {n},Home|Room {n % 3}\n" for n in range(6))
    folder = sample(
        tmp_path / "p",
        items__csv=f"item,title,category\n{rows}".encode("latin-1"),
        interactions__csv="user,item,timestamp\n1,1,1\n1,2,2\n",
    )
    out = tmp_path / "out.h5"
    arguments = ["prepare", folder, "--out", out]
    answer = cammsr(*arguments, "--dry-run")
    assert answer.code == 0
    assert "items.csv is not UTF-8: read as cp1252, as in 'Café' on line 2" in answer.err
    answer = cammsr(*arguments, "--encoding", "items.csv=utf-8")
    assert answer.code == 1
    assert "items.csv, line 2: not UTF-8 text (byte 0xe9" in answer.err
    assert "--encoding latin-1" in answer.err
    arguments += ["--encoding", "latin-1", "--format", "plain", "--json", "--dry-run"]
    assert json.loads(cammsr(*arguments).out)["categories"] == 4
    report = json.loads(cammsr(*arguments, "--category-level", "2").out)
    assert report["categories"] == 3
    assert any("level 2 guides the model" in note for note in report["notes"])
    for level in ("0", "x", "-1", "²"):
        answer = cammsr(*arguments, "--category-level", level)
        assert answer.code == 2
        assert "write a level from 1, or all" in answer.err
    answer = cammsr(*arguments, "--encoding", "items.csv=latin-99")
    assert answer.code == 2
    assert "no such encoding" in answer.err


MOVIELENS_25M = {
    "ratings__csv": "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n1,306,3.5,1147868817\n",
    "movies__csv": 'movieId,title,genres\n296,"Pulp, Fiction (1994)",Comedy|Crime\n306,Red,Drama\n',
}


def test_the_examples_of_the_guide_for_each_format(
    tmp_path: Path, cammsr: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    amazon_2023(tmp_path / "beauty")
    (tmp_path / "dataset").mkdir()
    recbole(tmp_path / "dataset" / "ml-100k")
    microlens(tmp_path / "MicroLens-100k", "10,T\n")
    MAKERS["mind"](tmp_path / "MINDsmall_train")
    sample(tmp_path / "shop", interactions__csv=PAIRS)
    sample(tmp_path / "ml-25m", **MOVIELENS_25M)
    text = (PROJECT / "docs" / "guides" / "your-files.md").read_text(encoding="utf-8")
    table = text.partition("| format |")[2].partition("\n\n")[0]
    shown = re.findall(r"^\| (`.*?) \| .*? \| `(.*?)`", table, flags=re.MULTILINE)
    names = [name for named, _ in shown for name in re.findall("`(.*?)`", named)]
    assert sorted(names) == sorted(FORMAT_NAMES)
    for named, folder in shown:
        answer = cammsr("prepare", folder, "--dry-run", "--json")
        assert answer.code == 0, (folder, answer.err)
        read_as = [f"--format {name})" in answer.out for name in re.findall("`(.*?)`", named)]
        assert any(read_as) or named == "`plain`", answer.out
