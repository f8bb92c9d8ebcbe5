"""The encoders that come with cammsr pass the contract that every encoder must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from cammsr_encoders import UnknownOption
from cammsr_encoders.contract import Trial
from cammsr_encoders.image import ImageEncoder
from cammsr_encoders.testing import EncoderContract
from cammsr_encoders.text import TextEncoder
from cammsr_encoders.video import VideoEncoder


class BuiltIn(EncoderContract):
    """What those that come with cammsr do beyond the contract."""

    dim: int

    def test_its_vectors_are_of_the_size_documented(self, trial: Trial) -> None:
        assert trial.encoder.dim == self.dim

    def test_its_weights_are_named_by_their_content(self, trial: Trial) -> None:
        assert "sha256:" in trial.encoder.fingerprint

    def test_wrong_options_are_refused_with_what_is_right(self) -> None:
        option = next(iter(self.changing))
        with pytest.raises(UnknownOption, match=f"has no option 'colour'.*{option}"):
            self.kind(colour="red")
        with pytest.raises(ValueError, match="precision"):
            self.kind(precision="float8")
        with pytest.raises(ValueError, match="whole number"):
            self.kind(**{option: "many"})

    def test_bfloat16_is_close_to_float32(self, trial: Trial) -> None:
        exact, rough = trial.vectors, trial.make(precision="bfloat16").encode(trial.samples)
        norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(rough, axis=1)
        assert ((exact * rough).sum(1) / norms).min() > 0.95


class TestText(BuiltIn):
    kind = TextEncoder
    dim = 384
    changing: Mapping[str, str] = {"max_tokens": "32", "prompt": "passage: "}

    @classmethod
    def bad_items(cls, items: Sequence[Mapping[str, str]], folder: Path) -> list[dict[str, str]]:
        return [{"title": "  "}, {}]


class TestImage(BuiltIn):
    kind = ImageEncoder
    dim = 1280
    changing: Mapping[str, str] = {"size": "128"}


class TestVideo(BuiltIn):
    kind = VideoEncoder
    dim = 2560
    options: Mapping[str, str] = {"size": "64"}
    changing: Mapping[str, str] = {"frames": "3", "size": "128"}
