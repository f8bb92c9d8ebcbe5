from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from cammsr_cli.media.signatures import HEAD_BYTES, media_extension

PICTURES = {
    "JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif",
    "AVIF": "avif", "JPEG2000": "jp2", "ICO": "ico", "PPM": "ppm", "QOI": "qoi",
}  # fmt: skip
CLIPS = {"mp4": "mp4", "mov": "mp4", "mkv": "mkv", "webm": "mkv", "avi": "avi", "flv": "flv",
         "ts": "ts", "mpg": "mpg", "asf": "wmv"}  # fmt: skip
CODECS = {"webm": "libvpx", "flv": "flv", "mpg": "mpeg2video"}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_as_pillow_writes_them(kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, kind)
    assert media_extension("image", stream.getvalue()[:HEAD_BYTES]) == PICTURES[kind]


@pytest.mark.parametrize("kind", CLIPS)
def test_clips_as_ffmpeg_writes_them(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    codec = CODECS.get(kind, "mpeg4")
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    head = path.read_bytes()[:HEAD_BYTES]
    assert media_extension("video", head) == CLIPS[kind]
    with pytest.raises(ValueError, match="a clip, not a picture"):
        media_extension("image", head)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"\n <!DOCTYPE html><html>", r"a web page \(HTML\)"),
        (b"<HTML>", "a web page"),
        (b"<svg xmlns=''>", "an SVG drawing"),
        (b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg>", "an SVG drawing"),
        (b"<?xml version='1.0'?><Error>gone</Error>", "XML"),
        (b"#EXTM3U\n", "a playlist"),
        (b'{"gone": true}', "JSON"),
        (b"%PDF-1.7", "a PDF"),
        (b"\x1f\x8b\x08", "a compressed file"),
        (b"", "an empty file"),
        (b"\xff\xd8", "of a known format"),
        (b"hello", "of a known format"),
    ],
)
@pytest.mark.parametrize("field", ["image", "video"])
def test_what_is_neither_is_named(field: str, head: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        media_extension(field, head)


def test_of_other_fields_only_web_pages_are_refused() -> None:
    assert media_extension("sound", b"anything") == "bin"
    with pytest.raises(ValueError, match="a web page"):
        media_extension("sound", b"<!doctype HTML>")
