"""Cells of raw tables: texts with HTML, lists written as strings, media in objects."""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence

import polars as pl

# Keys for the content of an object in a list of pictures, clips or categories, best first.
_MEDIA_KEYS = ("path", "file", "hi_res", "large", "large_image_url", "url", "src", "thumb")
_NAME_KEYS = ("name", "title", "label", "value")

# Only names of HTML elements are tags: "a < b", "<3" and "<unknown>" are text.
_BLOCKS = (
    *("address", "article", "aside", "blockquote", "body", "br", "button", "center", "dd", "div"),
    *("dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h[1-6]", "head"),
    *("header", "hr", "html", "iframe", "img", "input", "li", "link", "main", "meta", "nav", "ol"),
    *("option", "p", "pre", "section", "select", "source", "table", "tbody", "td", "textarea"),
    *("tfoot", "th", "thead", "title", "tr", "ul", "video"),
)
_INLINE = (
    *("a", "abbr", "b", "big", "cite", "code", "em", "font", "i", "ins", "label", "mark", "q"),
    *("s", "small", "span", "strike", "strong", "sub", "sup", "tt", "u"),
)
_BLOCK_TAG = re.compile(rf"</?(?:{'|'.join(_BLOCKS)})(?:[\s/][^<>]*)?>", re.IGNORECASE)
_INLINE_TAG = re.compile(rf"</?(?:{'|'.join(_INLINE)})(?:[\s/][^<>]*)?>", re.IGNORECASE)
_UNSEEN = re.compile(r"<(?:(!--)|(script|style)(?:\s[^<>]*)?>)", re.IGNORECASE)
_ENDS = {
    "!--": re.compile("-->"),
    "script": re.compile(r"</script[^<>]*>", re.IGNORECASE),
    "style": re.compile(r"</style[^<>]*>", re.IGNORECASE),
}
_DEEPEST = 50  # levels of nested lists; a cell with more levels is read as text
_SPACES = re.compile(r"[ \t]{2,}")


def text_of(value: object, joint: str = ", ") -> str | None:
    """A cell as text: lists are joined, objects become "key: value", HTML is removed.

    Returns:
        The text; None if it is empty.
    """
    text = joint.join(text_parts(decoded(value)))
    return text or None


def first_media(value: object) -> str | None:
    """A path or URL as written: a list's first entry, or the largest version in an object."""
    value = decoded(value)
    if isinstance(value, Mapping):
        entries = (first_media(value.get(key)) for key in _MEDIA_KEYS)
        return next((media for media in entries if media), None)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return next((media for entry in value if (media := first_media(entry))), None)
    return None if _missing(value) else _plain(str(value)) or None


def text_parts(value: object) -> Iterator[str]:
    """Yield the texts in a cell; nested lists are flattened, empty texts are dropped."""
    if isinstance(value, Mapping):
        yield from _object_parts(value)
    elif isinstance(value, list):
        for entry in value:
            yield from text_parts(decoded(entry))
    elif not _missing(value) and (text := cleaned(str(value))):
        yield text


def decoded(value: object) -> object:
    """Decode a cell: a polars list, or a list or object written as a string (JSON or Python)."""
    if isinstance(value, pl.Series):
        return value.to_list()
    if isinstance(value, str):
        text = value.strip()
        if (text[:1], text[-1:]) in (("[", "]"), ("{", "}")):
            return _parsed(text, value)
    return value


def cleaned(text: str) -> str:
    """Remove HTML from a text: tags, comments and scripts; entities are decoded."""
    if "&" in text or "<" in text:
        text = html.unescape(_without_tags(text))
        if "<" in text or "&" in text:  # as in "&lt;p&gt;Tom &amp;amp; Jerry&lt;/p&gt;"
            text = html.unescape(_without_tags(text))
    return _plain(text)


def _plain(text: str) -> str:
    """Strip a text, without the characters that HDF5 (NUL) or UTF-8 (surrogates) cannot hold."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8").strip()


def _without_tags(text: str) -> str:
    if "<" not in text:
        return text
    bare = _INLINE_TAG.sub("", _BLOCK_TAG.sub(" ", _without_unseen(text)))
    return bare if bare == text else _SPACES.sub(" ", bare)


def _without_unseen(text: str) -> str:
    """Remove comments, scripts and style sheets; one without an end is kept."""
    parts: list[str] = []
    begin = 0
    while opening := _UNSEEN.search(text, begin):
        closing = _ENDS[(opening[1] or opening[2]).lower()].search(text, opening.end())
        if closing is None:
            break
        parts.append(text[begin : opening.start()])
        begin = closing.end()
    return " ".join([*parts, text[begin:]])


def _parsed(text: str, otherwise: str) -> object:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        try:
            parsed = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return otherwise
    return parsed if isinstance(parsed, list | dict) and not _too_deep(parsed) else otherwise


def _too_deep(value: list[object] | dict[object, object]) -> bool:
    level: list[list[object] | dict[object, object]] = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return False
    return True


def _object_parts(value: Mapping[object, object]) -> Iterator[str]:
    """Yield an object's name if it has one, otherwise each of its entries as "key: value"."""
    name = next((value[key] for key in _NAME_KEYS if value.get(key)), None)
    if name is not None:
        yield from text_parts(decoded(name))
        return
    for key, entry in value.items():
        if text := ", ".join(text_parts(decoded(entry))):
            yield f"{cleaned(str(key)).rstrip(': ')}: {text}"


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)
