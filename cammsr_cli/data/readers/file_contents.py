"""The content of raw files: bytes are decompressed, and text is converted to UTF-8."""

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
"""Words that programs write for a missing value."""

_LONGEST_LINE = 2**26  # bytes that are read to find a table's columns
_LINES_TO_LEARN_FROM = 20
_PIECE = 2**24  # bytes
_NO_FILES = ("idna", "punycode", "unicode-escape", "raw-unicode-escape")  # not for files
_WESTERN, _LATIN_1 = "cp1252", "iso8859-1"
# Characters that occur in western European text besides letters. At most three such characters or
# letters occur in a row: text in other alphabets has long runs of these bytes.
_WESTERN_MARKS = "€‚„…†‡‰‹‘’“”•–—™›¡¢£§©ª«®°²³´·¹º»¼½¾¿×÷\xa0"
_NOT_WESTERN = re.compile(rf"[^\x00-\x7fÀ-ÏÑ-Üßà-ïñ-üÿŒœŠšŽžŸ{_WESTERN_MARKS}]|[^\x00-\x7f]{{4}}")
_WORD = re.compile(r"[^\s,;|\"]*[^\x00-\x7f][^\s,;|\"]*")


@dataclass(frozen=True)
class Reading:
    r"""How raw files are read.

    Attributes:
        encoding: The encoding of text; None detects it: UTF-8, UTF-16 by its byte order mark, or a
            western European encoding.
        encodings: File name to the encoding of that file; it overrides `encoding`.
        columns: File name to the columns of a file without a header.
        tables: Name of a workbook or a database to the table to read.
        queries: Name of a database to an SQL query whose result is read instead of a table.
        missing: Words that stand for a missing value, such as "NULL" and "\N".
    """

    encoding: str | None = None
    encodings: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    queries: Mapping[str, str] = field(default_factory=dict)
    missing: frozenset[str] = MISSING

    def encoding_of(self, path: Path) -> str | None:
        """The encoding that was given for a file; None if none was given."""
        return self.encodings.get(path.name, self.encoding)


def checked_encoding(name: str) -> str:
    """Look up the codec of an encoding's name.

    Raises:
        UsageError: There is no such text encoding.
    """
    try:
        codec = codecs.lookup(name)
        "".encode(name)  # raises for codecs that are not for text, such as "base64"
        if codec.name in _NO_FILES:
            raise LookupError
    except (LookupError, ValueError):
        raise UsageError(
            f"--encoding {name}: no such encoding",
            "Usual ones are utf-8, latin-1, cp1252, utf-16, gb18030 and shift_jis.",
        ) from None
    return codec.name


def read_content(path: Path) -> bytes:
    """Read a file's content, decompressed if its name ends in `.gz` or `.zst`.

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
    """Read the first lines of a file that are not blank, without reading the rest of the file.

    Raises:
        OSError: The file cannot be read; errors of the decompression mean the same.
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
    """Decode text.

    As in browsers, latin-1 is read as cp1252. They differ only in control characters that do not
    occur in text, where cp1252 has quotes, dashes and the euro sign.

    Raises:
        CammsrError: A byte sequence is not valid in `encoding`; the message gives the file, the
            line and the byte.
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
    """Read a whole text file, without its byte order mark.

    Raises:
        CammsrError: The file cannot be read, or a byte is not valid in `encoding`.
    """
    content, _, _ = as_utf8(path, read_content(path), encoding)
    return decode(path, content)


def as_utf8(path: Path, content: bytes, encoding: str | None) -> tuple[bytes, str, tuple[str, ...]]:
    """Convert text to UTF-8 without a byte order mark; also return its encoding and notes.

    Args:
        path: The file, for messages.
        content: Its bytes.
        encoding: Their encoding; None detects it. A file that begins with the byte order mark of
            UTF-8 is always read as UTF-8.

    Raises:
        CammsrError: A byte sequence is not valid in the encoding, or the encoding cannot be
            detected.
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
            return decode(path, content).encode(), UTF8, ()  # raises, and names the bad byte
        line, word = _first_word(text)
        note = (
            f"{path.name} is not UTF-8: read as {_WESTERN}, as in {word!r} on line {line} "
            f"(else: --encoding {path.name}=NAME)"
        )
        return text.encode(), _WESTERN, (note,)
    text = decode(path, content, encoding).removeprefix("\ufeff")
    return text.encode("utf-8", "replace"), encoding, ()  # some codecs yield surrogates


def _is_utf8(content: bytes) -> bool:
    """Whether all bytes are valid UTF-8; they are decoded in chunks, as the text is not needed."""
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
    """Decode text as cp1252, the usual western European encoding; None if it may be another one.

    Damaged UTF-8 is not read as cp1252: most of its letters are valid UTF-8.
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
    """The line of the first letter that is not ASCII, and the word that contains it."""
    found = _WORD.search(text)
    if found is None:  # the character is not in a word
        return 1, ""
    return text.count("\n", 0, found.start()) + 1, found[0]


def _decompress_zstd(raw: bytes) -> bytes:
    """Decompress all frames of a zstd file; `zstandard` does not report a truncated frame.

    Raises:
        EOFError: The last frame is truncated.
    """
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
