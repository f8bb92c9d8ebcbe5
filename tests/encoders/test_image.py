from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import cammsr_encoders.image as image_module
import numpy as np
import pytest
import torch
from cammsr_encoders import BadSample
from cammsr_encoders.image import ImageEncoder, read_image
from cammsr_encoders.image_model import ImageModel
from PIL import Image


def _png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def _jpeg(path: Path, size: tuple[int, int] = (64, 48)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello, this is text", "not a picture"),
        (b"", "empty"),
        (_png_header(30_000, 30_000), "megapixels"),
        (_png_header(9_000, 9_000), "megapixels"),
        (_png_header(64, 64), "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
    ids=["text", "nothing", "bomb", "large", "hollow", "program"],
)
def test_hostile_files_are_bad_samples(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(BadSample, match=reason) as told:
        read_image(tmp_path / "x.jpg", 256)
    assert "\n" not in str(told.value)
    assert str(tmp_path) not in str(told.value)


def test_a_truncated_jpeg_is_a_bad_sample(tmp_path: Path) -> None:
    whole = _jpeg(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadSample, match="truncated"):
        read_image(tmp_path / "x.jpg", 256)


@pytest.mark.parametrize(
    ("mode", "colour", "shown"),
    [
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("LA", (0, 0), (255, 255, 255)),
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("I;16", 65535 // 2, (127, 127, 127)),
        ("I", 70000, None),
        ("F", 0.5, None),
    ],
)
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str, colour: object, shown: object) -> None:
    path = tmp_path / "x.tif"
    Image.new(mode, (8, 6), colour).save(path)  # type: ignore[arg-type]
    picture = read_image(path, 256)
    assert picture.mode == "RGB"
    assert picture.size == (8, 6)
    if shown is not None:
        assert picture.getpixel((3, 3)) == shown


def test_16_bit_png_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    shades = np.asarray(read_image(tmp_path / "x.png", 256))[..., 0].ravel()
    assert np.array_equal(shades, np.arange(256))


def test_palette_transparency_and_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (10, 10), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "x.gif", 256).getpixel((5, 5)) == (255, 0, 0)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_image(tmp_path / "p.png", 256).getpixel((0, 0)) == (255, 255, 255)


def test_exif_turns_the_picture_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), "red")
    picture.paste("blue", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    picture.save(tmp_path / "x.png", exif=exif)
    upright = read_image(tmp_path / "x.png", 256)
    assert upright.size == (10, 20)
    assert upright.getpixel((5, 2)) == (0, 0, 255)


def test_large_jpegs_are_decoded_small_but_large_enough(tmp_path: Path) -> None:
    _jpeg(tmp_path / "x.jpg", (1600, 1200))
    assert read_image(tmp_path / "x.jpg", 257).size == (400, 300)


def test_a_long_strip_does_not_grow_to_gigabytes(tmp_path: Path) -> None:
    Image.new("L", (60_000, 1)).save(tmp_path / "strip.png")
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    encoder = ImageEncoder()
    for name in ("strip.png", "dot.png"):
        assert encoder.load({"image": str(tmp_path / name)}).shape == (3, 224, 224)


def test_size_is_what_the_model_sees(tmp_path: Path) -> None:
    _jpeg(tmp_path / "x.jpg")
    encoder = ImageEncoder(size="96")
    sample = encoder.load({"image": str(tmp_path / "x.jpg")})
    assert sample.shape == (3, 96, 96)
    assert encoder.encode([sample]).shape == (1, 1280)


def test_the_offline_weights_are_prepared_for_as_timm_says() -> None:
    config = ImageEncoder()._model.config
    assert config["input_size"] == (3, 224, 224)
    assert config["interpolation"] == "bicubic"
    assert config["crop_pct"] == 0.875
    assert tuple(config["mean"]) == tuple(config["std"]) == (0.5, 0.5, 0.5)


def test_channels_last_as_on_cuda_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 255, (3, 3, 64, 64), dtype=np.uint8)
    usual = ImageModel(size=64).features(images)
    monkeypatch.setattr(ImageModel, "_memory_format", torch.channels_last)
    model = ImageModel(size=64)
    np.testing.assert_allclose(model.features(images), usual, atol=1e-4)
    first = next(one for one in model._network.parameters() if one.ndim == 4 and one.shape[1] > 1)
    assert first.is_contiguous(memory_format=torch.channels_last)


_HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_pictures_that_need_another_package_say_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "_formats", lambda: ("PNG",))
    for content, reason in ((_HEIC, "pillow-heif"), (b"\0\0\0\x18ftypavif" + bytes(8), "11.3")):
        (tmp_path / "x.jpg").write_bytes(content)
        with pytest.raises(BadSample, match=reason):
            read_image(tmp_path / "x.jpg", 64)


def test_heic_is_read_where_pillow_heif_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package stands in for itself: it tells Pillow of one more format, as the real one."""
    code = """
from PIL import Image, ImageFile


class Opened(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self):
        self._size, self._mode, self.tile = (3, 2), "RGB", []

    def load(self):
        self.im = Image.new("RGB", (3, 2), (1, 2, 3)).im
        return Image.Image.load(self)


def register_heif_opener():
    Image.register_open("HEIF", Opened, lambda head: head[4:12] == b"ftypheic")
"""
    (tmp_path / "pillow_heif.py").write_text(code)
    (tmp_path / "x.heic").write_bytes(_HEIC)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    image_module._formats.cache_clear()
    try:
        picture = read_image(tmp_path / "x.heic", 64)
    finally:
        image_module._formats.cache_clear()
        sys.modules.pop("pillow_heif", None)
    assert (picture.size, picture.getpixel((0, 0))) == ((3, 2), (1, 2, 3))
