"""Determines the type of a file by its first bytes, regardless of its name or Content-Type."""

from __future__ import annotations

import re

HEAD_BYTES = 512
"""Number of first bytes that are examined."""

_KINDS = {"image": "picture", "video": "clip"}
# Extension to first bytes; "." matches any byte. Image formats of Pillow, which `image` uses.
_PICTURES: dict[str, bytes] = {
    "jpg": rb"\xff\xd8\xff",
    "png": rb"\x89PNG\r\n\x1a\n",
    "gif": rb"GIF8[79]a",
    "webp": rb"RIFF....WEBP",
    "bmp": rb"BM....\x00\x00\x00\x00",
    "tif": rb"II\*\x00|MM\x00\*",
    "avif": rb"....ftyp(?:avif|avis|mif1)",
    "heic": rb"....ftyp(?:heic|heix|hevc|msf1)",
    "jp2": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
    "ico": rb"\x00\x00\x01\x00",
    "qoi": rb"qoif",
    "ppm": rb"P[1-6]\s",
}
# Self-contained container formats of PyAV, which `video` uses.
_CLIPS: dict[str, bytes] = {
    "mp4": rb"....(?:ftyp(?!avif|avis|mif1|heic|heix|hevc|msf1)|moov|mdat|free|skip|wide|pnot)",
    "mkv": rb"\x1a\x45\xdf\xa3",
    "avi": rb"RIFF....AVI ",
    "flv": rb"FLV\x01",
    "wmv": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    "ogv": rb"OggS",
    "ts": rb"\x47.{187}\x47",
    "m2ts": rb"....\x47.{191}\x47",
    "mpg": rb"\x00\x00\x01[\xba\xb3]",
    "h264": rb"\x00\x00\x00?\x01[\x67\x27\x40\x42\x09]",
    "gif": rb"GIF8[79]a",
    "png": rb"\x89PNG\r\n\x1a\n",
    "ivf": rb"DKIF",
    "nut": rb"nut/multimedia",
    "rm": rb"\.RMF",
    "mxf": rb"\x06\x0e\x2b\x34",
    "y4m": rb"YUV4MPEG2 ",
}
_KNOWN = {"image": _PICTURES, "video": _CLIPS}
_PAGE = re.compile(rb"\s*<(?:!doctype html|html|head|body|script|title)", re.IGNORECASE)
_OTHERS: dict[str, bytes] = {
    "an SVG drawing": rb"(?i:\s*(?:<\?xml[^>]*>|<!--.*?-->|<!doctype svg[^>]*>|\s)*<svg)",
    "XML": rb"\s*<\?xml",
    "a playlist": rb"#EXTM3U|\[playlist\]|ffconcat",
    "JSON": rb"\s*[{\[]",
    "a PDF": rb"%PDF",
    "a compressed file": rb"\x1f\x8b|PK\x03\x04|\x28\xb5\x2f\xfd",
}


def media_extension(field: str, head: bytes) -> str:
    """Return the usual extension of a media file, determined by its first bytes.

    Args:
        field: The item field that names it: "image", "video". For other fields only empty files
            and web pages are refused.
        head: Its first `HEAD_BYTES` bytes, or all bytes if it has fewer.

    Raises:
        ValueError: With the reason as one line, if it is another kind of file.
    """
    wanted = _KINDS.get(field, "media file")
    if not head:
        raise ValueError("an empty file")
    if _PAGE.match(head):
        raise ValueError(f"a web page (HTML), not a {wanted}")
    if field not in _KNOWN:
        return "bin"
    found = _match(_KNOWN[field], head)
    if found is not None:
        return found
    other = _match(_OTHERS, head)
    if other is None:
        is_other = next((kind for one, kind in _KINDS.items() if _match(_KNOWN[one], head)), None)
        other = f"a {is_other}" if is_other else None
    raise ValueError(f"{other}, not a {wanted}" if other else f"not a {wanted} of a known format")


def _match(table: dict[str, bytes], head: bytes) -> str | None:
    return next(
        (name for name, pattern in table.items() if re.match(pattern, head, re.DOTALL)), None
    )
