"""One catalogue of pictures and clips that are broken, odd or meant ill, through `prepare`."""

from __future__ import annotations

import csv
import json
import os
import re
import struct
import subprocess
import sys
import time
import wave
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

SECONDS = 60
MEGABYTES = 800
"""A decoder may take so much more than the process does that loads the model."""

Write = Callable[[Path], object]


def _noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def _png(width: int, height: int, rows: int = 0) -> bytes:
    """A PNG that says how large it is, with so many black rows of that in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer, pixels = zlib.compressobj(), b""
    for _ in range(rows):
        pixels += packer.compress(b"\0" * (3 * width + 1))
    pixels += packer.flush()
    ends = chunk(b"IHDR", size), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(ends)


def _bytes(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def _truncated_jpeg(path: Path) -> None:
    Image.fromarray(_noise(200, 150)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-3000])


def _cmyk(path: Path) -> None:
    Image.fromarray(_noise(64, 48)).convert("CMYK").save(path, "JPEG")


def _sixteen_bit(path: Path) -> None:
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16).save(path, "PNG")


def _animated(kind: str) -> Write:
    frames = [Image.fromarray(_noise(40, 30, seed)) for seed in range(3)]
    return lambda path: frames[0].save(path, kind, save_all=True, append_images=frames[1:])


def _rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_noise(64, 48)).save(path, "JPEG", exif=exif)


def _broken_exif(path: Path) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40
    Image.fromarray(_noise(64, 48)).save(path, "JPEG", exif=exif)


def _clip(
    path: Path, frames: int, rate: int = 10, times: Sequence[int] | None = None, side: int = 32
) -> None:
    """A clip of noise; `times` in hundredths of a second, where frames are not evenly spaced."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = side
        stream.pix_fmt, stream.gop_size = "yuv420p", 12
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        picture = _noise(side, side)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number, axis=0))
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _damaged(cut: slice, filler: bytes = b"") -> Write:
    """A clip with a part of it cut out or overwritten."""

    def write(path: Path) -> None:
        _clip(path, 60, side=64)
        content = bytearray(path.read_bytes())
        first, last, _ = cut.indices(len(content))
        content[first:last] = filler * (last - first)
        path.write_bytes(content)

    return write


def _corrupt_middle(path: Path) -> None:
    _clip(path, 60, side=64)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle - 200 : middle + 200] = b"\xa5" * 400
    path.write_bytes(content)


def _sound_only(path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\0" * 8000)


def _sound_in_mp4(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        for _ in range(4):
            container.mux(stream.encode(silence))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Hostile:
    """One item.

    Attributes:
        media: The file's name as the items file gives it.
        reason: What is told of it, as a pattern; None if it has a vector all the same.
        write: Makes the file, given its path within the media folder; None if there is none.
    """

    media: str
    reason: str | None
    write: Write | None = None


TABLE = {
    # pictures
    "truncated JPEG": Hostile("a.jpg", "cannot be decoded: .*truncated", _truncated_jpeg),
    "zero-byte JPEG": Hostile("b.jpg", "the file is empty", _bytes(b"")),
    "PNG bomb": Hostile("c.png", "more than 64 megapixels", _bytes(_png(30_000, 30_000, 30_000))),
    "PNG of 63 megapixels": Hostile("d.png", None, _bytes(_png(9_000, 7_000, 7_000))),
    "PNG without pixels": Hostile("e.png", "cannot be decoded", _bytes(_png(64, 64))),
    "SVG named .jpg": Hostile("f.jpg", "not a picture", _bytes(b"<svg xmlns='x'></svg>")),
    "HTML named .jpg": Hostile("g.jpg", "not a picture", _bytes(b"<!doctype html><html>")),
    "EPS named .jpg": Hostile("h.jpg", "not a picture", _bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")),
    "CMYK": Hostile("i.jpg", None, _cmyk),
    "16-bit": Hostile("j.png", None, _sixteen_bit),
    "animated GIF": Hostile("k.gif", None, _animated("GIF")),
    "animated WebP": Hostile("l.webp", None, _animated("WEBP")),
    "rotated by EXIF": Hostile("m.jpg", None, _rotated),
    "broken EXIF": Hostile("n.jpg", None, _broken_exif),
    "a strip": Hostile("o.png", None, _bytes(_png(60_000, 1, 1))),
    # clips
    "zero-byte MP4": Hostile("a.mp4", "the file is empty", _bytes(b"")),
    "no video stream": Hostile("b.mp4", "no video stream", _sound_in_mp4),
    "WAV named .mp4": Hostile("c.mp4", "cannot be decoded", _sound_only),
    "picture named .mp4": Hostile("d.mp4", "cannot be decoded|no frame|corrupt", _cmyk),
    "playlist": Hostile("e.mp4", "cannot be decoded", _bytes(b"#EXTM3U\nfile:///etc/passwd\n")),
    "variable frame rate": Hostile(
        "f.mp4", None, lambda path: _clip(path, 20, times=[n * n for n in range(20)])
    ),
    "one frame": Hostile("g.mp4", None, lambda path: _clip(path, 1)),
    "an hour": Hostile("h.mp4", None, lambda path: _clip(path, 3600, rate=1)),
    "a frame an hour": Hostile(
        "i.mp4", None, lambda path: _clip(path, 3, times=[0, 180_000, 360_000])
    ),
    "corrupt middle": Hostile("j.mp4", None, _corrupt_middle),
    "cut short": Hostile("k.mp4", "cannot be decoded", _damaged(slice(-4000, None))),
    "all but the ends zero": Hostile(
        "l.mp4", "cannot be decoded|no frame|corrupt", _damaged(slice(60, -2600), b"\0")
    ),
    # paths
    "..": Hostile("../outside.jpg", "'..' leads out", lambda path: _cmyk(path)),
    "absolute": Hostile("/etc/hostname", "an absolute path"),
    "a link out": Hostile("out.jpg", "a symbolic link leads out", None),
    "FIFO": Hostile("pipe.jpg", "not a regular file", lambda path: os.mkfifo(path)),
    "a folder": Hostile("folder.jpg", "not a regular file", lambda path: path.mkdir()),
    "a device": Hostile("zero.jpg", "a symbolic link leads out", None),
    "file URL": Hostile("file:///etc/hostname", "only http and https"),
    "loopback URL": Hostile("http://127.0.0.1:9/x.jpg", "private address"),
}


@dataclass(frozen=True)
class Outcome:
    """What came of the catalogue.

    Attributes:
        reasons: Item to why it has no vector.
        seconds: How long it took.
        megabytes: Memory of the largest decoding process above that of the main one.
    """

    reasons: dict[str, str]
    seconds: float
    megabytes: float


RUN = """
import json, resource, sys
from cammsr_cli.app import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
peaks = [resource.getrusage(who).ru_maxrss for who in
         (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps((peaks[1] - peaks[0]) / 1024))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    root = tmp_path_factory.mktemp("hostile")
    folder = root / "shop"
    folder.mkdir()
    for hostile in TABLE.values():
        if hostile.write is not None:
            hostile.write(folder / hostile.media)
    (folder / "out.jpg").symlink_to(root / "outside.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    with (folder / "items.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["item", "image", "video"])
        for name, hostile in TABLE.items():
            clip = hostile.media.endswith(".mp4")
            writer.writerow([name, "", hostile.media] if clip else [name, hostile.media, ""])
    events = "".join(f'u,"{name}",{time}\n' for time, name in enumerate(TABLE))
    (folder / "interactions.csv").write_text(f"user,item,timestamp\n{events}")
    out = root / "out.h5"
    encoders = ["--encoder", "image=,size=32", "--encoder", "video=,size=32,frames=4"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUN, "prepare", folder, "--out", out, "--workers", "2", *encoders],
        env={**os.environ, "CAMMSR_CACHE_DIR": str(root / "cache")},
        capture_output=True,
        text=True,
        timeout=4 * SECONDS,
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    with Path(f"{out}.problems.csv").open(newline="", encoding="utf-8") as stream:
        reasons = {row["item"]: row["reason"] for row in csv.DictReader(stream)}
    return Outcome(reasons, seconds, json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", TABLE)
def test_each_is_encoded_or_told_of(outcome: Outcome, name: str) -> None:
    told, expected = outcome.reasons.get(name), TABLE[name].reason
    if expected is None:
        assert told is None
    else:
        assert told is not None
        assert re.search(expected, told), told
        assert "\n" not in told


def test_all_of_it_takes_bounded_time_and_memory(outcome: Outcome) -> None:
    assert outcome.seconds < SECONDS
    assert outcome.megabytes < MEGABYTES
