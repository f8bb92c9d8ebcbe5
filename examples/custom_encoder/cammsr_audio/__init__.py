"""A toy encoder: how much of each colour a picture holds."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class ColourEncoder:
    """A picture's colour histogram: `bins` shades of red by green by blue.

    It needs no weights and no device, so it takes no model; it is as small as an encoder with an
    option can be. It imports nothing of cammsr: the contract is a matter of names.
    """

    api = 1
    modality = "colour"
    fields = ("image",)

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        bins: int | str = 4,  # options come as strings from the command line
    ) -> None:
        if model is not None:
            raise ValueError(f"encoder 'colour' has no models, so not {model!r} either")
        self.bins = int(bins)
        if not 2 <= self.bins <= 8:
            raise ValueError(f"option bins={self.bins} is not between 2 and 8")

    @property
    def dim(self) -> int:
        return self.bins**3

    @property
    def fingerprint(self) -> str:
        """All that changes the output: cached vectors hang on it."""
        return f"cammsr-colour {version('cammsr-colour')} bins={self.bins}"

    def load(self, item: Mapping[str, str]) -> NDArray[np.uint8]:
        """The picture as uint8 [64, 64, 3]; Pillow's OSError tells of a broken one."""
        with Image.open(item["image"]) as picture:
            return np.asarray(picture.convert("RGB").resize((64, 64)))

    def encode(self, samples: list[Any]) -> NDArray[np.float32]:
        """Square roots of the shares, float32 [len(samples), bins ** 3]: vectors of length 1."""
        shares = [self._shares(sample) for sample in samples]
        return np.sqrt(np.array(shares, dtype=np.float32)).reshape(-1, self.dim)

    def _shares(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        shade = pixels.reshape(-1, 3).astype(np.int64) * self.bins // 256
        bin_of_pixel = shade @ np.array([self.bins**2, self.bins, 1])
        return np.bincount(bin_of_pixel, minlength=self.dim) / len(shade)
