"""What raw files hold: bytes decompressed, and text in UTF-8 whatever it was written in."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from cammsr_cli.errors import CammsrError, UsageError

COMPRESSIONS = (".gz", ".zst")
UTF8 = "utf-8"
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
MISSING = frozenset(
    ("NULL", "Null", "null", r"\N", "nan", "NaN", "NAN", "None", "NA", "N/A", "n/a", "<NA>", "#N/A")
)
"""Words that programs write where there is no value."""

_LONGEST_LINE = 2**26  # bytes that are read to learn a table's columns
_LINES_TO_LEARN_FROM = 20
_PIECE = 2**24  # bytes
_NO_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape")  # codecs of other things
_WESTERN, _LATIN_1 = "cp1252", "iso8859-1"
# Marks that stand among letters of western Europe; of both at most three in a row, as text in other
# alphabets has long runs of such bytes.
_WESTERN_MARKS = "€‚„…†‡‰‹‘’“”•–—™›¡¢£§©ª«®°²³´·¹º»¼½¾¿×÷\xa0"
_NOT_WESTERN = re.compile(rf"[^\x00-\x7fÀ-ÏÑ-Üßà-ïñ-üÿŒœŠšŽžŸ{_WESTERN_MARKS}]|[^\x00-\x7f]{{4}}")
_WORD = re.compile(r"[^\s,;|\"]*[^\x00-\x7f][^\s,;|\"]*")


@dataclass(frozen=True)
class Reading:
    r"""How raw files are read.

    Attributes:
        encoding: What text is written in; None finds it out: UTF-8, UTF-16 by its byte order mark,
            or a western European one.
        encodings: By a file's name what it is written in, instead.
        columns: By a file's name its columns, where it has no header.
        tables: By the name of a workbook or a database which of its tables is meant.
        queries: By a database's name an SQL query that is read in place of a table.
        missing: Words that stand for a missing value, such as "NULL" and "\N".
    """

    encoding: str | None = None
    encodings: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    queries: Mapping[str, str] = field(default_factory=dict)
    missing: frozenset[str] = MISSING

    def encoding_of(self, path: Path) -> str | None:
        """What a file is said to be written in; None if nothing is said."""
        return self.encodings.get(path.name, self.encoding)


def checked_encoding(name: str) -> str:
    """The codec that an encoding's name stands for.

    Raises:
        UsageError: There is no such encoding of text.
    """
    try:
        codec = codecs.lookup(name)
        "".encode(name)  # refused by codecs that are not for text, such as "base64"
        if codec.name in _NO_FILES:
            raise LookupError
    except (LookupError, ValueError):
        raise UsageError(
            f"--encoding {name}: no such encoding",
            "Usual ones are utf-8, latin-1, cp1252, utf-16, gb18030 and shift_jis.",
        ) from None
    return codec.name


def read_content(path: Path) -> bytes:
    """A file's content, decompressed if its name ends in `.gz` or `.zst`.

    Raises:
        CammsrError: The file is missing, cannot be read, or its compressed stream is broken.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CammsrError(f"{path}: no such file", "Check the path.") from None
    except OSError as error:
        raise CammsrError(f"{path} cannot be read: {error.strerror}", "Check the path.") from None
    suffix = path.suffix.lower()
    try:
        if suffix == ".gz":
            return gzip.decompress(raw)
        if suffix == ".zst":
            return _decompress_zstd(raw)
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise CammsrError(
            f"{path}: the compressed file is cut short or damaged ({error})",
            "Download or copy it again.",
        ) from None
    return raw


def first_lines(path: Path, encoding: str | None) -> list[str]:
    """The first lines that hold anything, read without the rest of the file.

    Raises:
        OSError: The file cannot be read; other errors of its compression mean the same.
    """
    suffix = path.suffix.lower()
    with path.open("rb") as raw:
        stream = raw
        if suffix == ".gz":
            stream = io.BufferedReader(gzip.GzipFile(fileobj=raw))
        elif suffix == ".zst":
            stream = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))
        head = stream.peek(len(UTF8_BOM))
        if head.startswith(UTF8_BOM):
            encoding = "utf-8-sig"
        elif encoding is None and head.startswith(UTF16_BOMS):
            encoding = "utf-16"
        text = io.TextIOWrapper(stream, encoding or UTF8, errors="replace")
        lines = [text.readline(_LONGEST_LINE) for _ in range(_LINES_TO_LEARN_FROM)]
    lines[0] = lines[0].removeprefix("\ufeff")
    return [line for line in lines if line.strip()]


def decode(path: Path, content: bytes, encoding: str = UTF8) -> str:
    """Decode text, or say which byte on which line of which file cannot be decoded.

    What is called latin-1 is read as cp1252, as browsers do: they differ only in control characters
    that no text holds, where cp1252 has quotes, dashes and the euro.

    Raises:
        CammsrError: A byte sequence is not valid in `encoding`.
    """
    if codecs.lookup(encoding).name == _LATIN_1:
        with suppress(UnicodeDecodeError):
            return content.decode(_WESTERN)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = content[error.start : error.start + 1].hex()
        likely = "latin-1" if codecs.lookup(encoding).name == UTF8 else UTF8
        raise CammsrError(
            f"{path}, line {line}: not {encoding.upper()} text (byte 0x{wrong} at {error.start:,})",
            _encoding_hint(likely),
        ) from None
    except UnicodeError as error:
        raise CammsrError(
            f"{path}: not {encoding.upper()} text ({error})", _encoding_hint(UTF8)
        ) from None


def read_text(path: Path, encoding: str | None = None) -> str:
    """A text file whole, without a byte order mark.

    Raises:
        CammsrError: The file cannot be read, or a byte is not valid in `encoding`.
    """
    content, _, _ = as_utf8(path, read_content(path), encoding)
    return decode(path, content)


def as_utf8(path: Path, content: bytes, encoding: str | None) -> tuple[bytes, str, tuple[str, ...]]:
    """Text in UTF-8 without a byte order mark, what it was written in, and what to tell of that.

    Args:
        path: The file, for messages.
        content: Its bytes.
        encoding: What they are written in; None finds it out. A file that begins with UTF-8's byte
            order mark is UTF-8, whatever is said here.

    Raises:
        CammsrError: A byte sequence is not valid in the encoding, or it cannot be found out.
    """
    if content.startswith(UTF8_BOM):
        content, encoding = content.removeprefix(UTF8_BOM), UTF8
    if encoding is None and content.startswith(UTF16_BOMS):
        encoding = "utf-16"
    if encoding is None or codecs.lookup(encoding).name == UTF8:
        if _is_utf8(content):
            return content, UTF8, ()
        text = None if encoding else _western(content)
        if text is None:
            return decode(path, content).encode(), UTF8, ()  # which tells the byte that is not
        line, word = _first_word(text)
        note = (
            f"{path.name} is not UTF-8: read as {_WESTERN}, as in {word!r} on line {line} "
            f"(else: --encoding {path.name}=NAME)"
        )
        return text.encode(), _WESTERN, (note,)
    text = decode(path, content, encoding).removeprefix("\ufeff")
    return text.encode("utf-8", "replace"), encoding, ()  # some codecs yield surrogates


def _is_utf8(content: bytes) -> bool:
    """Whether all of it is, looked at a piece at a time, as the text itself is not needed."""
    if content.isascii():
        return True
    decoder = codecs.getincrementaldecoder(UTF8)()
    try:
        for start in range(0, len(content), _PIECE):
            decoder.decode(content[start : start + _PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _western(content: bytes) -> str | None:
    """Text in the usual encoding of western Europe, or None if it may be in another.

    Damaged UTF-8 is not taken for it: most of its letters are sound.
    """
    try:
        text = content.decode(_WESTERN)
    except UnicodeDecodeError:
        return None
    if _NOT_WESTERN.search(text):
        return None
    kept = content.decode(UTF8, "ignore")
    return text if _beyond_ascii(kept) < _beyond_ascii(text) / 4 else None


def _beyond_ascii(text: str) -> int:
    return len(re.sub(r"[\x00-\x7f]+", "", text))


def _first_word(text: str) -> tuple[int, str]:
    """The line and the word of the first letter that is not ASCII."""
    found = _WORD.search(text)
    if found is None:  # it stands between separators
        return 1, ""
    return text.count("\n", 0, found.start()) + 1, found[0]


def _decompress_zstd(raw: bytes) -> bytes:
    """All frames of a zstd file; `zstandard` itself does not complain about a cut one."""
    parts: list[bytes] = []
    while raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(raw))
        if not frame.eof:
            raise EOFError("the last frame has no end")
        raw = frame.unused_data
    return b"".join(parts)


def _encoding_hint(likely: str) -> str:
    return f"Say what it is written in, e.g. --encoding {likely}"
