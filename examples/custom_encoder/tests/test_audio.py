"""Run with `pytest examples/custom_encoder` once the plugin is installed."""

from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from cammsr_colour import ColourEncoder
from PIL import Image


def test_it_is_found_by_its_entry_point() -> None:
    (point,) = entry_points(group="cammsr.encoders", name="colour")
    assert point.load() is ColourEncoder


def test_a_picture_of_one_colour_fills_one_bin(tmp_path: Path) -> None:
    Image.new("RGB", (10, 20), (255, 0, 0)).save(tmp_path / "red.png")
    encoder = ColourEncoder(bins="2")
    (vector,) = encoder.encode([encoder.load({"image": str(tmp_path / "red.png")})])
    assert vector.tolist() == [0, 0, 0, 0, 1, 0, 0, 0]  # red's bit is the first of three
    assert vector.dtype == np.float32


def test_options_change_the_fingerprint_and_impossible_ones_are_refused() -> None:
    assert ColourEncoder().fingerprint != ColourEncoder(bins=3).fingerprint
    with pytest.raises(ValueError, match="bins"):
        ColourEncoder(bins=99)
