"""One contract that every encoder must pass; the real models, from the offline extra."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from cammsr_encoders import API, BadSample, Encoder, UnknownOption
from cammsr_encoders.image import ImageEncoder
from cammsr_encoders.text import TextEncoder
from cammsr_encoders.video import VideoEncoder
from PIL import Image


def _text(folder: Path) -> list[dict[str, str]]:
    return [
        {"title": "Heat", "description": "A thief and a detective."},
        {"title": "Alien", "reviews": "In space no one can hear you scream. " * 40},
        {"description": "日本の映画 🎬"},
    ]


def _images(folder: Path) -> list[dict[str, str]]:
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 255, (60, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name} é.png")
    return [{"image": str(folder / f"{name} é.png")} for name in "abc"]


def _videos(folder: Path) -> list[dict[str, str]]:
    rng = np.random.default_rng(0)
    for count in (1, 3, 4):
        with av.open(str(folder / f"{count}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(count):
                pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(stream.encode())
    return [{"video": str(folder / f"{count}.mp4")} for count in (1, 3, 4)]


@dataclass(frozen=True)
class Case:
    kind: type
    items: Callable[[Path], list[dict[str, str]]]
    bad: Mapping[str, str]
    dim: int
    options: Mapping[str, str]


CASES = {
    "text": Case(TextEncoder, _text, {"title": "  "}, 384, {"max_tokens": "32"}),
    "image": Case(ImageEncoder, _images, {"image": __file__}, 1280, {"size": "128"}),
    "video": Case(VideoEncoder, _videos, {"video": __file__}, 2560, {"frames": "3"}),
}
_MADE: dict[str, Encoder] = {}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def encoder(case: Case) -> Encoder:
    made: Encoder = _MADE.setdefault(case.kind.modality, case.kind())
    return made


def test_it_says_what_it_is(case: Case, encoder: Encoder) -> None:
    assert isinstance(encoder, Encoder)
    assert encoder.api == API
    assert encoder.modality
    assert isinstance(encoder.fields, tuple)
    assert encoder.dim == case.dim


def test_vectors_are_ordered_finite_distinct_and_the_same_each_time(
    case: Case, encoder: Encoder, tmp_path: Path
) -> None:
    samples = [encoder.load(item) for item in case.items(tmp_path)]
    vectors = encoder.encode(samples)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, case.dim)
    assert np.isfinite(vectors).all()
    assert np.array_equal(vectors, encoder.encode(samples))
    np.testing.assert_allclose(encoder.encode(samples[::-1])[::-1], vectors, atol=1e-4)
    assert len(np.unique(vectors, axis=0)) == 3
    assert encoder.encode([]).shape == (0, case.dim)


def test_a_bad_sample_is_refused_by_load_alone(case: Case, encoder: Encoder) -> None:
    with pytest.raises(BadSample):
        encoder.load(case.bad)


def test_it_travels_to_worker_processes_without_its_model(
    case: Case, encoder: Encoder, tmp_path: Path
) -> None:
    assert encoder.dim
    sent = pickle.dumps(encoder)
    assert len(sent) < 10_000
    item = case.items(tmp_path)[0]
    ours, theirs = encoder.load(item), pickle.loads(sent).load(item)
    assert np.array_equal(ours, theirs)


def test_each_option_changes_the_fingerprint(case: Case, encoder: Encoder) -> None:
    others = [case.kind(precision="bfloat16"), case.kind(**case.options)]
    prints = {encoder.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 3
    assert case.kind().fingerprint == encoder.fingerprint
    assert "sha256:" in encoder.fingerprint


def test_unknown_options_are_refused_with_the_list(case: Case) -> None:
    with pytest.raises(UnknownOption, match=f"has no option 'colour'.*{next(iter(case.options))}"):
        case.kind(colour="red")
    with pytest.raises(ValueError, match="precision"):
        case.kind(precision="float8")
    with pytest.raises(ValueError, match="whole number"):
        case.kind(**dict.fromkeys(case.options, "many"))


def test_bfloat16_is_close_to_float32(case: Case, encoder: Encoder, tmp_path: Path) -> None:
    samples = [encoder.load(item) for item in case.items(tmp_path)]
    exact, rough = encoder.encode(samples), case.kind(precision="bfloat16").encode(samples)
    assert rough.dtype == np.float32
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.98


def test_building_and_fingerprints_are_cheap() -> None:
    code = """
import sys
from cammsr_encoders.text import TextEncoder
from cammsr_encoders.image import ImageEncoder
from cammsr_encoders.video import VideoEncoder
for kind in TextEncoder, ImageEncoder, VideoEncoder:
    kind().fingerprint
assert TextEncoder().dim == 384
print([name for name in ("torch", "transformers", "timm", "av") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
