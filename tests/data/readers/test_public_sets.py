"""Small samples of the usual public data sets, written as these are, are read without a --map."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from read_back import categories_of, sequences

from cammsr_cli.data.corpus import SourceOptions, read_corpus
from cammsr_cli.errors import CammsrError


@dataclass(frozen=True)
class Sample:
    """Files, and what is read of them.

    Attributes:
        files: Name to content.
        events: User to items in order.
        fields: Of the first item of the first user: field to text.
        categories: Item to categories.
        order: "file" for sets that tell no times.
        source: What is given, if not the folder.
    """

    files: dict[str, str]
    events: dict[str, list[str]]
    fields: dict[str, str] = field(default_factory=dict)
    categories: dict[str, list[str]] = field(default_factory=dict)
    order: Literal["time", "file"] = "time"
    source: str = ""


def quoted_rows(*rows: tuple[str, ...]) -> str:
    return "".join(";".join(f'"{cell}"' for cell in row) + "\n" for row in rows)


SETS = {
    "H&M": Sample(
        {
            "transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n"
            "2018-09-20,000058a1,0663713001,0.05,2\n2018-09-24,000058a1,0541518023,0.03,2\n",
            "articles.csv": "article_id,product_code,prod_name,product_type_name,"
            "product_group_name,colour_group_name,detail_desc\n"
            '0663713001,0663713,Strap top,Vest top,Upper body,Black,"Jersey, narrow"\n'
            "0541518023,0541518,Rae Push,Bra,Underwear,Pink,Lace\n",
            "customers.csv": "customer_id,FN,Active,age,postal_code\n000058a1,,,49,x\n",
            "sample_submission.csv": "customer_id,prediction\n000058a1,0706016001 0706016002\n",
        },
        {"000058a1": ["0663713001", "0541518023"]},
        {"title": "Strap top", "description": "Jersey, narrow"},
        {"0663713001": ["Upper body"]},
    ),
    "Yelp": Sample(
        {
            "yelp_academic_dataset_review.json": "".join(
                f'{{"review_id":"r{n}","user_id":"u","business_id":"{item}","stars":4.0,'
                f'"useful":0,"text":"Great","date":"2018-07-0{n} 22:09:11"}}\n'
                for n, item in ((1, "b1"), (3, "b3"), (2, "b2"))
            ),
            "yelp_academic_dataset_business.json": '{"business_id":"b1","name":"Café","city":"X",'
            '"stars":5.0,"attributes":{"WiFi":"u\'no\'"},"categories":"Restaurants, Mexican, Bars",'
            '"hours":null}\n'
            '{"business_id":"b2","name":"N","categories":"Mexican, Restaurants"}\n'
            '{"business_id":"b3","name":"O","attributes":null,"categories":"Bars, Nightlife"}\n'
            '{"business_id":"b4","name":"P","attributes":null,"categories":null}\n',
        },
        {"u": ["b1", "b2", "b3"]},
        {"title": "Café"},
        {
            "b1": ["Restaurants", "Mexican", "Bars"],
            "b2": ["Mexican", "Restaurants"],
            "b3": ["Bars", "Nightlife"],
            "b4": [],
        },
    ),
    "Goodreads": Sample(
        {
            "goodreads_interactions.json": "".join(
                f'{{"user_id": "8842281e", "book_id": "{book}", "review_id": "dfdbb7b0", '
                f'"is_read": true, "rating": 5, "review_text_incomplete": "", "date_added": '
                f'"{day}", "date_updated": "Wed Aug 30 00:00:26 -0700 2017", "read_at": "", '
                '"started_at": ""}\n'
                for book, day in (
                    ("18245960", "Sun Jul 30 07:44:10 -0700 2017"),
                    ("5577844", "Thu Jan 05 23:30:00 -0800 2017"),
                    ("23310161", "Mon Jul 31 01:44:10 +0200 2017"),
                )
            ),
            "goodreads_books.json": "".join(
                f'{{"isbn": "", "book_id": "{book}", "title": "T{n}", "description": "D", '
                '"image_url": "https://x.invalid/x.jpg", "popular_shelves": [{"count": "3", '
                '"name": "to-read"}], "authors": [{"author_id": "1", "role": ""}], '
                '"similar_books": ["2"]}\n'
                for n, book in enumerate(("5577844", "18245960", "23310161"))
            ),
        },
        {"8842281e": ["5577844", "18245960", "23310161"]},
        {"title": "T0", "description": "D", "image": "https://x.invalid/x.jpg"},
    ),
    "Steam": Sample(
        {
            "steam_reviews.json": "{u'username': u'J', u'hours': 11.7, u'product_id': u'72', "
            "u'page_order': 0, u'date': u'2017-12-17', u'text': u'it\\'s', u'early_access': False}"
            "\n{u'username': u'J', u'product_id': u'8', u'date': u'2017-12-10', u'text': u'x'}\n",
            "steam_games.json": "{u'publisher': u'K', u'genres': [u'Action', u'Indie'], "
            "u'app_name': u'Game', u'title': u'Game!', u'tags': [u'Strategy'], u'id': u'8'}\n"
            "{u'app_name': u'Other', u'id': u'72', u'price': u'Free To Play'}\n",
        },
        {"J": ["8", "72"]},
        {"title": "Game!"},
        {"8": ["Action", "Indie"]},
    ),
    "RetailRocket": Sample(
        {
            "events.csv": "timestamp,visitorid,event,itemid,transactionid\n"
            "1433224214164,257597,transaction,248676,4000\n"
            "1433221332117,257597,view,355908,\n",
            "item_properties_part1.csv": "timestamp,itemid,property,value\n"
            "1435460400000,355908,categoryid,1338\n1441508400000,355908,888,1116713 960601 n277.2\n"
            "1439089200000,355908,categoryid,1500\n1431226800000,248676,790,n15360.000\n",
            "item_properties_part2.csv": "timestamp,itemid,property,value\n"
            "1437274800000,355908,categoryid,1400\n1431831600000,248676,categoryid,212\n"
            "1431831600000,7,available,1\n",
            "category_tree.csv": "categoryid,parentid\n1500,213\n212,\n",
        },
        {"257597": ["355908", "248676"]},
        {},
        {"355908": ["1500"], "248676": ["212"], "7": []},
    ),
    "REES46": Sample(
        {
            "2019-Oct.csv": "event_time,event_type,product_id,category_id,category_code,brand,"
            "price,user_id,user_session\n"
            "2019-10-01 00:00:01 UTC,cart,3900821,2053,appliances.kitchen,aqua,33.20,54,9333\n"
            "2019-10-01 00:00:00 UTC,view,44600062,2103,,shiseido,35.79,54,72d7\n",
        },
        {"54": ["44600062", "3900821"]},
        source="2019-Oct.csv",
    ),
    "YooChoose": Sample(
        {
            "yoochoose-clicks.dat": "1,2014-04-07T10:54:09.868Z,214536500,0\n"
            "1,2014-04-07T10:51:09.277Z,214536502,0\n2,2014-04-07T13:56:37.614Z,214662742,S\n",
        },
        {"1": ["214536502", "214536500"], "2": ["214662742"]},
        source="yoochoose-clicks.dat",
    ),
    "YooChoose's purchases": Sample(
        {"yoochoose-buys.dat": "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n"},
        {"420374": ["214537888"]},
        source="yoochoose-buys.dat",
    ),
    "Diginetica": Sample(
        {
            "train-item-views.csv": "sessionId;userId;itemId;timeframe;eventdate\n"
            "1;NA;81766;526309;2016-05-09\n1;NA;31331;1031018;2016-05-09\n"
            "1;7;9654;75848;2016-05-09\n2;7;9654;22408;2016-05-10\n",
            "products.csv": "itemId;pricelog2;product.name.tokens\n81766;10;4875,776\n",
            "product-categories.csv": "itemId;categoryId\n81766;190\n9654;1096\n",
        },
        {"1": ["9654", "81766", "31331"], "2": ["9654"]},
        {},
        {"81766": ["190"], "9654": ["1096"]},
    ),
    "Book-Crossing": Sample(
        {
            "BX-Book-Ratings.csv": quoted_rows(
                ("User-ID", "ISBN", "Book-Rating"),
                ("276726", "034541", "5"),
                ("276726", "0155061224", "0"),
            ),
            "BX-Books.csv": quoted_rows(
                ("ISBN", "Book-Title", "Book-Author", "Image-URL-S", "Image-URL-M", "Image-URL-L"),
                ("034541", 'Fräulein \\"Smilla\\"', "P. Høeg", "s.jpg", "m.jpg", "l.jpg"),
                ("0155061224", "Rites; of passage", "J. R.", "s", "m", "l"),
            ),
            "BX-Users.csv": quoted_rows(("User-ID", "Location", "Age"), ("276726", "x", "NULL")),
        },
        {"276726": ["034541", "0155061224"]},
        {"title": 'Fräulein "Smilla"', "image": "l.jpg"},
        order="file",
    ),
    "Last.fm": Sample(
        {
            "user_artists.dat": "userID\tartistID\tweight\n2\t51\t13883\n2\t52\t11690\n",
            "artists.dat": "id\tname\turl\tpictureURL\n51\tDuran Duran\thttp://x\thttp://y\n",
            "user_friends.dat": "userID\tfriendID\n2\t275\n",
        },
        {"2": ["51", "52"]},
        {"title": "Duran Duran"},
        order="file",
    ),
    "Last.fm 1K, as whoever took a part of it called it": Sample(
        {
            "plays.tsv": "user_000001\t2009-05-04T23:08:57Z\ta1\tDeep Dish\tt1\tIm Famous\n"
            "user_000001\t2009-05-04T13:54:10Z\t\tUnderworld\tt2\tBoy\n",
        },
        {"user_000001": ["t2", "t1"]},
    ),
    "Last.fm 1K": Sample(
        {
            "userid-timestamp-artid-artname-traid-traname.tsv": "user_000001\t2009-05-04T23:08:57Z"
            "\tf1b1cf71\tDeep Dish\tt2\tFuck Me Im Famous\n"
            'user_000001\t2009-05-04T13:54:10Z\ta7f7df4a\t"坂本龍一\tt1\t12" Mix\n',
        },
        {"user_000001": ["t1", "t2"]},
        source="userid-timestamp-artid-artname-traid-traname.tsv",
    ),
    "KuaiRand": Sample(
        {
            "log_standard_4_08_to_4_21_pure.csv": "user_id,video_id,date,hourmin,time_ms,is_click,"
            "is_like\n0,10,20220408,1400,1649400204002,1,0\n0,11,20220408,1300,1649396604002,0,0\n",
            "user_features_pure.csv": "user_id,is_lowactive_period\n0,1\n",
            "video_features_basic_pure.csv": "video_id,author_id,video_type,upload_dt,tag\n"
            '10,5,NORMAL,2022-04-01,"1,2"\n11,5,AD,2022-04-02,"2,3"\n12,5,AD,2022-04-02,"1,3"\n',
        },
        {"0": ["11", "10"]},
        {},
        {"10": ["1", "2"], "11": ["2", "3"]},
    ),
    "Taobao": Sample(
        {
            "UserBehavior.csv": "1,2268318,2520377,pv,1511544071\n1,2333346,2520771,buy,1511544070"
            "\n",
        },
        {"1": ["2333346", "2268318"]},
    ),
    "MIND": Sample(
        {
            "behaviors.tsv": "2\tU1\t11/15/2019 8:55:22 AM\tN3 N1 N3\tN5-0 N6-1\n"
            "1\tU1\t11/11/2019 9:05:58 PM\tN3 N1\tN4-1 N5-0\n"
            "3\tU2\t11/11/2019 6:15:13 AM\t\tN4-1\n4\tU3\t11/11/2019 6:15:13 AM\tN1\tN5-0\n",
            "news.tsv": 'N3\tlifestyle\tlifestyleroyals\tThe "Brands\tShop\thttps://x.invalid\t'
            '[{"Label": "Prince Philip", "Type": "P"}]\t[]\n'
            "N1\tnews\tnewsus\tLand\t\thttps://x.invalid\t[]\t[]\n",
            "entity_embedding.vec": "Q41\t0.1\t0.2\n",
        },
        {"U1": ["N3", "N1", "N4", "N6"], "U2": ["N4"], "U3": ["N1"]},
        {"title": 'The "Brands', "description": "Shop"},
        {"N3": ["lifestyle"], "N1": ["news"]},
    ),
    "PixelRec": Sample(
        {
            "Pixel200K.csv": "item_id,user_id,timestamp\nv2,u1,1500000001\nv1,u1,1500000000\n",
            "Pixel200K_items.csv": "item_id,view_number,title,tag,description\n"
            "v1,7,T,music,D\nv2,8,U,games,E\n",
        },
        {"u1": ["v1", "v2"]},
        {"title": "T", "description": "D"},
        {"v1": ["music"]},
    ),
    "Amazon 2023": Sample(
        {
            "Beauty.jsonl": '{"rating": 5.0, "title": "x", "text": "y", "asin": "B1", '
            '"parent_asin": "B1", "user_id": "U", "timestamp": 1588687728923}\n',
            "meta_Beauty.jsonl": '{"main_category": "All Beauty", "title": "T", "parent_asin": "B1"'
            ', "average_rating": 4.8, "images": [{"large": "l.jpg"}]}\n',
        },
        {"U": ["B1"]},
        {"title": "T", "image": "l.jpg"},
    ),
    "Amazon's ratings of 2014": Sample(
        {
            "ratings_Beauty.csv": "A39HTATAQ9V7YF,0205616461,5.0,1369699200\n"
            "A39HTATAQ9V7YF,B000052YAN,3.0,1355443200\n",
        },
        {"A39HTATAQ9V7YF": ["B000052YAN", "0205616461"]},
    ),
    "Amazon's ratings of 2018": Sample(
        {
            "Magazine_Subscriptions.csv": "B00005N7P0,AH2IFH762VY5U,5.0,1005177600\n"
            "B00005N7Q1,AH2IFH762VY5U,5.0,1004832000\n",
        },
        {"AH2IFH762VY5U": ["B00005N7Q1", "B00005N7P0"]},
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_the_usual_sets_are_read_without_a_map(tmp_path: Path, name: str) -> None:
    sample = SETS[name]
    for file, content in sample.files.items():
        encoding = "latin-1" if file.startswith("BX") else "utf-8"
        (tmp_path / file).write_bytes(content.encode(encoding))
    corpus = read_corpus(SourceOptions(tmp_path / sample.source, order=sample.order))
    assert sequences(corpus) == sample.events
    first = corpus.item_ids.index(next(iter(sample.events.values()))[0])
    found = {name: texts[first] for name, texts in corpus.fields.items()}
    assert {key: found.get(key) for key in sample.fields} == sample.fields
    categories = categories_of(corpus)
    assert {item: categories[item] for item in sample.categories} == sample.categories


def notes_of(folder: Path, **options: str) -> str:
    return "\n".join(read_corpus(SourceOptions(folder, **options)).notes)  # type: ignore[arg-type]


def test_what_is_told_of_mind(tmp_path: Path) -> None:
    for file, content in SETS["MIND"].files.items():
        (tmp_path / file).write_text(content)
    told = notes_of(tmp_path)
    assert "3 clicks among 6 impressions, and 3 of the histories, which have no times" in told
    (tmp_path / "behaviors.tsv").write_text("1\tU1\tyesterday\tN1\tN2-1\n")
    with pytest.raises(CammsrError, match=r"behaviors.tsv, line 1: time is 'yesterday'"):
        read_corpus(SourceOptions(tmp_path))


def test_what_is_told_of_properties(tmp_path: Path) -> None:
    for file, content in SETS["RetailRocket"].files.items():
        (tmp_path / file).write_text(content)
    told = notes_of(tmp_path)
    assert (
        "item_properties_part1.csv, item_properties_part2.csv: a row a property of an item; read "
        "categoryid, the latest value of each item; not read 790, 888, available" in told
    )
    assert "category_tree.csv not read" in told


def test_properties_without_times_are_all_kept(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user,item,time\nu,1,1\nu,2,2\n")
    (tmp_path / "items.csv").write_text("id,title\n1,A\n")
    (tmp_path / "attributes.csv").write_text(
        "item_id,attribute,value\n1,genre,Comedy\n1,genre,Drama\n2,genre,Drama\n2,colour,red\n,x,y\n"
    )
    corpus = read_corpus(SourceOptions(tmp_path))
    assert categories_of(corpus) == {"1": ["Comedy", "Drama"], "2": ["Drama"]}
    assert list(corpus.fields["title"]) == ["A", None]
    told = "\n".join(corpus.notes)
    assert "1 row of attributes.csv without an item or a property dropped" in told


def test_a_header_where_there_is_none_usually(tmp_path: Path) -> None:
    path = tmp_path / "UserBehavior.csv"
    path.write_text("user_id,item_id,category_id,behavior_type,timestamp\n1,2,3,pv,1511544070\n")
    assert sequences(read_corpus(SourceOptions(path))) == {"1": ["2"]}
    path.write_text("1,2268318,2520377,pv,1511544071\n")
    assert "UserBehavior.csv has no header: its columns are taken for user_id, item_id, " in (
        notes_of(path)
    )
