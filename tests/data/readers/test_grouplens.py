"""MovieLens folders in the three layouts GroupLens ships."""

from pathlib import Path

import pytest

from cammsr_cli.data.corpus import Corpus, SourceOptions, read_corpus
from cammsr_cli.data.readers.file_contents import Reading
from cammsr_cli.data.readers.grouplens import GENRES, find_grouplens
from cammsr_cli.errors import CammsrError, UsageError


def folder_of(folder: Path, **files: str | bytes) -> Path:
    """Files named with "_" for "."."""
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("_", ".")).write_bytes(raw)
    return folder


def genres_of(corpus: Corpus, item: str) -> list[str]:
    position = corpus.item_ids.index(item)
    start, end = corpus.category_indptr[position : position + 2]
    return [corpus.category_names[index] for index in corpus.category_index[start:end]]


RATINGS_CSV = "userId,movieId,rating,timestamp\n1,2,3.5,10\n1,1,4.0,5\n1,3,1.0,7\n2,2,5.0,1\n"
MOVIES_CSV = (
    'movieId,title,genres\n1,"Amélie, the (2001)",Comedy|Romance\n'
    "2,Heat (1995),(no genres listed)\n3,Up (2009),Animation\n4,Unseen (2000),Drama\n"
)
# User 1 takes 1, 3, 2 in time order: 3 is validation, 2 is test.
TAGS_CSV = (
    "userId,movieId,tag,timestamp\n1,1,sweet,1\n1,2,MARKER tense,1\n1,3,MARKER sad,1\n"
    "9,2,tense,1\n2,2,kept,1\n"
)


def test_latest(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ratings_csv=RATINGS_CSV, movies_csv=MOVIES_CSV, tags_csv=TAGS_CSV)
    corpus = read_corpus(SourceOptions(folder))
    assert corpus.item_ids == ["1", "2", "3", "4"]
    assert corpus.fields["title"][0] == "Amélie, the (2001)"
    assert [genres_of(corpus, item) for item in "123"] == [["Comedy", "Romance"], [], ["Animation"]]
    assert [corpus.item_ids[item] for item in corpus.event_item] == ["1", "3", "2", "2"]
    assert corpus.event_part.tolist() == [0, 1, 2, 0]
    assert corpus.fields["tags"] == ["sweet", "tense, kept", None, None]
    assert corpus.fields["reviews"] == corpus.fields["tags"]
    assert list(corpus.sources) == ["ratings.csv", "movies.csv", "tags.csv"]


def test_tags_are_left_out_with_the_reviews(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ratings_csv=RATINGS_CSV, movies_csv=MOVIES_CSV, tags_csv=TAGS_CSV)
    assert set(read_corpus(SourceOptions(folder, review_text=False)).fields) == {"title"}


def test_an_items_file_takes_the_place_of_movies(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ratings_csv=RATINGS_CSV, movies_csv=MOVIES_CSV)
    items = tmp_path / "mine.jsonl"
    items.write_text('{"id": 2, "plot": "A heist."}\n')
    corpus = read_corpus(SourceOptions(folder, items=items))
    assert corpus.item_ids == ["2", "1", "3"]
    assert corpus.fields == {"description": ["A heist.", None, None]}
    assert list(corpus.sources) == ["ratings.csv", "mine.jsonl"]


@pytest.mark.parametrize("encoding", ["iso-8859-1", "utf-8"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_1m_and_10m(tmp_path: Path, encoding: str, ending: str) -> None:
    movies = "1::Amélie: a life (2001)::Comedy|Romance\n2::Heat (1995)::Crime\n"
    folder = folder_of(
        tmp_path,
        ratings_dat="1::2::3.5::10\n1::1::4::5\n2::1::5::7\n".replace("\n", ending),
        movies_dat=movies.replace("\n", ending).encode(encoding),
        tags_dat="2::1::sweet :: or sour::3\n1::2::MARKER::3\n".replace("\n", ending),
    )
    corpus = read_corpus(SourceOptions(folder, min_rating=3.5))
    assert corpus.user_ids == ["1", "2"]
    assert corpus.fields["title"] == ["Amélie: a life (2001)", "Heat (1995)"]
    assert [genres_of(corpus, item) for item in "12"] == [["Comedy", "Romance"], ["Crime"]]
    assert corpus.event_item.tolist() == [0, 1, 0]
    assert corpus.event_time.tolist() == [5, 10, 7]
    assert corpus.fields["tags"] == ["sweet :: or sour", None]
    assert corpus.item_rows == [0, 1]


def u_item(item: str, title: str, *genres: str, names: tuple[str, ...] = GENRES) -> str:
    flags = "|".join("01"[name in genres] for name in names)
    return f"{item}|{title}|01-Jan-1995||http://example.com/|{flags}\n"


U_DATA = "196\t242\t3\t20\n196\t1\t5\t10\n22\t1\t1\t5\n"


def test_100k(tmp_path: Path) -> None:
    items = u_item("1", "Amélie (2001)", "Comedy", "Romance") + u_item("242", "What", "unknown")
    folder = folder_of(tmp_path, u_data=U_DATA, u_item=items.encode("iso-8859-1"))
    corpus = read_corpus(SourceOptions(folder))
    assert corpus.fields == {"title": ["Amélie (2001)", "What"]}
    assert [genres_of(corpus, item) for item in ("1", "242")] == [["Comedy", "Romance"], []]
    assert corpus.user_ids == ["196", "22"]
    assert corpus.event_item.tolist() == [0, 1, 0]
    assert len(GENRES) == 19


def test_quotes_of_windows_are_no_control_characters(tmp_path: Path) -> None:
    items = u_item("1", "Schindler\x92s \x93List\x94", "Drama").encode("iso-8859-1")
    for encoding in (None, "iso8859-1"):
        (tmp_path / str(encoding)).mkdir()
        folder = folder_of(tmp_path / str(encoding), u_data="1\t1\t5\t1\n", u_item=items)
        corpus = read_corpus(SourceOptions(folder, reading=Reading(encoding)))
        assert corpus.fields == {"title": ["Schindler’s “List”"]}


def test_100k_with_its_own_genre_names(tmp_path: Path) -> None:
    names = ("unknown", "Noir", "Western")
    folder = folder_of(
        tmp_path,
        u_data="1\t1\t5\t1\n",
        u_item=u_item("1", "T", "Western", names=names),
        u_genre="unknown|0\nNoir|1\nWestern|2\n\n",
    )
    assert genres_of(read_corpus(SourceOptions(folder)), "1") == ["Western"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"u_data": "1\t1\t5\n", "u_item": u_item("1", "T")}, "u.data, line 1: not of the form"),
        ({"u_data": U_DATA, "u_item": "1|T|Drama\n"}, "u.item, line 1: not of the form"),
        (
            {"u_data": "1\t1\t5\t1\n\n1\t2\t5\t1\n", "u_item": u_item("1", "T")},
            "u.data, line 2: not of the form",
        ),
        (
            {"u_data": "1\t1\t5\t1\n1\t2\t5\t1\t7\n", "u_item": u_item("1", "T")},
            "u.data, line 2: not of the form",
        ),
        (
            {"u_data": b"1\t1\t5\t1\n1\t\xea\xe8\xed\xee\t5\t1\n", "u_item": u_item("1", "T")},
            "u.data, line 2: not UTF-8",
        ),
        (
            {"u_data": "1\t1\t5\t1\n1\t2\t5\t\t", "u_item": u_item("1", "T")},
            "u.data, line 2: not of the form",
        ),
        (
            {"u_data": "1\t1\t5\t\n1\t2\t5\t1\n", "u_item": u_item("1", "T")},
            "u.data, line 1: timestamp is empty",
        ),
        ({"u_data": "", "u_item": u_item("1", "T")}, "u.data is empty"),
        (
            {"ratings_dat": "1::1::5::1\n1::2::5\n", "movies_dat": "1::T::Drama\n"},
            "ratings.dat, line 2: not of the form 'user::item::rating::timestamp'",
        ),
        (
            {"ratings_dat": "1::1::5::1\n", "movies_dat": "1::T::Drama\n2::T\n"},
            "movies.dat, line 2: not of the form 'MovieID::Title::Genres'",
        ),
        (
            {
                "ratings_dat": "1::1::5::1\n",
                "movies_dat": "1::T::Drama\n",
                "tags_dat": "1::1::3\n",
            },
            "tags.dat, line 1: not of the form",
        ),
        ({"ratings_dat": "1::1::5::x\n", "movies_dat": "1::T::D\n"}, "ratings.dat, line 1: timest"),
        ({"ratings_dat": "1::1::5::1\n", "movies_dat": "\n"}, "movies.dat is empty"),
        (
            {"ratings_csv": RATINGS_CSV, "movies_csv": MOVIES_CSV, "tags_csv": "userId,tag\n1,x\n"},
            "tags.csv: no column movieId",
        ),
    ],
)
def test_a_broken_file_is_told_with_its_line(
    tmp_path: Path, files: dict[str, str | bytes], message: str
) -> None:
    with pytest.raises(CammsrError) as caught:
        read_corpus(SourceOptions(folder_of(tmp_path, **files)))
    assert message in caught.value.message


def test_other_folders_are_none_of_these(tmp_path: Path) -> None:
    assert find_grouplens(folder_of(tmp_path, ratings_csv=RATINGS_CSV)) is None
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError) as caught:
        read_corpus(SourceOptions(empty))
    for name in ("ratings.csv + movies.csv", "u.data + u.item", "interactions.*", ".parquet"):
        assert name in caught.value.message
