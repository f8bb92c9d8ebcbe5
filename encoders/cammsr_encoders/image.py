"""Images: one picture an item, read and decoded safely, through a timm model."""

from __future__ import annotations

import functools
import importlib.util
import re
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cammsr_encoders.device import Start
from cammsr_encoders.image_model import ImageModel
from cammsr_encoders.protocol import (
    API,
    BadSample,
    check_options,
    fingerprint_of,
)

MAX_PIXELS = 64_000_000
"""Pictures and frames with more pixels are refused before they are decoded."""

# Formats read by Pillow itself, and HEIF where the package pillow-heif is installed; others (EPS,
# WMF) start programs or are no pictures.
_FORMATS = (
    *("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "AVIF"),
    *("JPEG2000", "PPM", "TGA", "ICO", "PCX", "QOI", "HEIF"),
)
# Pictures by their first bytes that Pillow may lack the means for, and what it needs.
_NEEDS = (
    (rb"....ftyp(?:heic|heix|hevc|msf1)", "a HEIC picture, which needs: pip install pillow-heif"),
    (rb"....ftyp(?:avif|avis)", "an AVIF picture, which needs: pip install 'pillow>=11.3'"),
)
_DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError),
    *(OverflowError, struct.error, zlib.error),
)
# EXIF orientation -> what turns the picture upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageEncoder:
    """Encodes an item's picture.

    Args:
        model: Any timm name with published weights; tf_efficientnet_lite0 (1,280-d) if None.
        device: "cpu", "cuda", "cuda:N" or "mps".
        precision: "float32", or "bfloat16": of the weights on a GPU, by autocast elsewhere.
        size: Side of the square the model sees, in pixels; the model's own if None.
        unknown: Any further option is refused.

    Raises:
        UnknownOption: For an option it does not have.
        ValueError: For an option's impossible value.
    """

    api = API
    modality = "image"
    fields = ("image",)

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        size: int | str | None = None,
        **unknown: object,
    ) -> None:
        check_options("image", unknown, ("size",))
        self._model = ImageModel(model, device, precision, size)

    @property
    def dim(self) -> int:
        """Length of the vectors; loads the model."""
        return self._model.dim

    @property
    def weights(self) -> str:
        """Where the model's weights come from, for `cammsr encoders info`."""
        return self._model.weights.source

    @property
    def fingerprint(self) -> str:
        """Package, version, weights and options, as one line of JSON."""
        return fingerprint_of(self, "cammsr", **self._model.facts)

    def load(self, item: Mapping[str, str]) -> NDArray[np.uint8]:
        """The picture as the model sees it: uint8 [3, size, size].

        Raises:
            BadSample: If it is no picture, broken, or has more than `MAX_PIXELS`.
        """
        side = self._model.shortest_side
        return self._model.prepare(read_image(Path(item["image"]), side))

    def encode(self, samples: list[Any]) -> NDArray[np.float32]:
        """Image features.

        Args:
            samples: uint8 [3, size, size] each, from `load`.

        Returns:
            float32 [len(samples), dim].

        Raises:
            WeightsUnavailable: If the weights cannot be had.
        """
        return self._model.features(stacked(samples))

    @property
    def start_encoding(self) -> Start | None:
        """On a GPU, `encode` that gives what fetches the vectors, and does not wait for them."""
        if not self._model.on_gpu:
            return None
        return lambda samples: self._model.started(stacked(samples))


def stacked(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images of one size as one array [n, 3, size, size]; n may be 0."""
    return np.stack(images) if len(images) else np.zeros((0, 3, 1, 1), np.uint8)


def read_image(path: Path, shortest_side: int) -> Image.Image:
    """A picture file as an upright RGB picture: first frame, transparency over white.

    Args:
        path: The file.
        shortest_side: Pixels wanted; a much larger JPEG is decoded at a half, quarter or eighth.

    Raises:
        BadSample: If it is no picture, broken, or has more than `MAX_PIXELS`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; it is not used
        try:
            with Image.open(path, formats=_formats()) as opened:
                refuse_large(*opened.size)
                opened.draft(None, (shortest_side, shortest_side))
                return _upright(opened, _as_rgb(opened))
        except BadSample:
            raise
        except Image.DecompressionBombError as error:  # Pillow's own limit: more than twice ours
            raise BadSample(f"more than {MAX_PIXELS // 10**6} megapixels") from error
        except UnidentifiedImageError:
            raise BadSample(_unidentified(path)) from None
        except _DECODING_ERRORS as error:
            reason = str(error) or type(error).__name__
            raise BadSample(f"cannot be decoded: {reason}") from error


def refuse_large(width: int, height: int) -> None:
    """Raise BadSample if a picture has more than `MAX_PIXELS`, or none."""
    if width * height > MAX_PIXELS:
        raise BadSample(f"{width} x {height} pixels: more than {MAX_PIXELS // 10**6} megapixels")
    if width < 1 or height < 1:
        raise BadSample(f"{width} x {height} pixels")


def _unidentified(path: Path) -> str:
    """Why a file is no picture that can be read."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        return "the file is empty"
    needs = (reason for pattern, reason in _NEEDS if re.match(pattern, head, re.DOTALL))
    return next(needs, "not a picture")


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _as_rgb(picture: Image.Image) -> Image.Image:
    picture.load()
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture.copy()
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        return _eight_bits(picture).convert("RGB")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of more than 8 bits a pixel (integers to 65535, or floats) as mode L."""
    values = np.nan_to_num(np.asarray(picture).astype(np.float64))
    top = values.max()
    if picture.mode.startswith("I;16") or (picture.mode == "I" and 255 < top <= 65535):
        values = values / 257
    elif top > 255 or values.min() < 0 or 0 < top <= 1:
        values = (values - values.min()) / max(top - values.min(), 1e-12) * 255
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _upright(opened: Image.Image, picture: Image.Image) -> Image.Image:
    """Turn the picture as its EXIF data say; broken EXIF data say nothing."""
    try:
        turn = _UPRIGHT.get(opened.getexif().get(_ORIENTATION, 1))
    except _DECODING_ERRORS:
        return picture
    return picture if turn is None else picture.transpose(turn)
