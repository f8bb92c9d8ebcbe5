"""Cells as people write them: lists in strings, objects, HTML, media."""

import time

import pytest

from cammsr_cli.data.readers.cells import cleaned, first_media, text_of


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("posters/1.jpg", "posters/1.jpg"),
        (" a&amp;b.jpg ", "a&amp;b.jpg"),
        ("", None),
        (None, None),
        ([], None),
        ([None, "", "a.jpg", "b.jpg"], "a.jpg"),
        ('["a.jpg", "b.jpg"]', "a.jpg"),
        ("[1].jpg", "[1].jpg"),
        ([{"thumb": "t", "large": "l", "hi_res": None}, {"large": "m"}], "l"),
        ({"hi_res": [None], "large": ["l", "m"]}, "l"),
        ([{"title": "no address"}], None),
    ],
)
def test_media(cell: object, expected: str | None) -> None:
    assert first_media(cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (" Tom &amp; Jerry\x00 ", "Tom & Jerry"),
        ("", None),
        ("  ", None),
        (None, None),
        ([], None),
        (["a", None, "b"], "a, b"),
        ({"Brand": "X", "Sizes": [1, 2], "None": None}, "Brand: X, Sizes: 1, 2"),
        (9.5, "9.5"),
        (True, "True"),
        (float("nan"), None),
        ("[Verified] fine", "[Verified] fine"),
    ],
)
def test_texts(cell: object, expected: str | None) -> None:
    assert text_of(cell) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('{"url": "https://a/b.mp4", "title": "T"}', "https://a/b.mp4"),
        ({"title": ["T"], "url": ["https://a/1.mp4", "https://a/2.mp4"]}, "https://a/1.mp4"),
        ([{"small_image_url": "s", "large_image_url": "l"}], "l"),
        ("['', 'https://a/1.jpg']", "https://a/1.jpg"),
        ("a\x00.jpg", "a.jpg"),
        ('["\\ud83d.jpg"]', "?.jpg"),
    ],
)
def test_addresses_in_lists_and_objects(cell: object, expected: str) -> None:
    assert first_media(cell) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>One.</p><p>Two.</p>", "One. Two."),
        ("One<br />two<BR>three", "One two three"),
        ("a <b>bold</b>, <a href='http://x/?a=1&amp;b=2'>linked</a> word", "a bold, linked word"),
        ("&lt;p&gt;Tom &amp;amp; Jerry&lt;/p&gt;", "Tom & Jerry"),
        ("a < b and c > d, I <3 you, <unknown>", "a < b and c > d, I <3 you, <unknown>"),
        ("shown<script>var a = '<p>';</script> here", "shown here"),
        ("İİ<STYLE type=x>p {}</Style >after", "İİ after"),
        ("left <!-- a > b --> right", "left right"),
        ("never <!-- closed", "never <!-- closed"),
        ("<script>never closed", "<script>never closed"),
        ("two  spaces stay", "two  spaces stay"),
        ("\ud800", "?"),
    ],
)
def test_html(text: str, expected: str) -> None:
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    "piece", ["<p ", "<script>", "<!--", "<a href=x>", "&amp;", "<style", "[", '{"a":', "</p"]
)
def test_hostile_text_takes_no_longer_than_other_text(piece: str) -> None:
    began = time.perf_counter()
    text_of(piece * (300_000 // len(piece)))
    assert time.perf_counter() - began < 5  # a tenth of a second; minutes if it were quadratic


def test_lists_that_nest_too_deep_are_text() -> None:
    for depth, read in ((40, "x"), (200, "[" * 200 + '"x"' + "]" * 200)):
        assert text_of("[" * depth + '"x"' + "]" * depth) == read
    assert text_of("[" * 100_000 + "]" * 100_000) == "[" * 100_000 + "]" * 100_000


def test_keys_of_objects_are_cleaned_too() -> None:
    assert text_of({"a\x00b &amp; c": "x"}) == "ab & c: x"
