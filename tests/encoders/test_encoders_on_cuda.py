"""Encoders on a GPU, which is only pretended: see pretended_cuda.py."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cammsr_encoders import image_model
from cammsr_encoders.image import ImageEncoder
from cammsr_encoders.protocol import Encoder
from cammsr_encoders.text import TextEncoder
from cammsr_encoders.video import VideoEncoder
from PIL import Image
from pretended_cuda import Asked, OnCuda, pretended_cuda
from torch import nn

from cammsr_cli.encoding.engine import Encoding

BATCHES, EACH = 5, 3


def _samples(kind: type[Encoder], folder: Path) -> list[list[Any]]:
    """Some batches of samples, as `load` gives them."""
    if kind is TextEncoder:
        words = "red blue warm cold shoe hat lamp chair book pen cup bag".split()  # noqa: SIM905
        return [[" ".join(words[: at + n + 1]) for n in range(EACH)] for at in range(BATCHES)]
    random = np.random.default_rng(0)
    images = []
    for at in range(BATCHES * EACH):
        path = folder / f"{at}.png"
        Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
        images.append(ImageEncoder(size=64).load({"image": str(path)}))
    if kind is VideoEncoder:
        images = [np.stack([one, one[:, ::-1]]) for one in images]
    return [images[at * EACH :][:EACH] for at in range(BATCHES)]


def _encoder(kind: type[Any], device: str, precision: str = "float32") -> Any:
    size = {} if kind is TextEncoder else {"size": 64}
    return kind(device=device, precision=precision, **size)


@pytest.fixture(autouse=True)
def _small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of timm's: what is looked at is how a network is fed."""

    def load(*_: object) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 4, stride=4),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    monkeypatch.setattr(image_model, "_load_network", load)


KINDS = pytest.mark.parametrize("kind", [TextEncoder, ImageEncoder, VideoEncoder])


@KINDS
@pytest.mark.parametrize(("precision", "close"), [("float32", 1e-4), ("bfloat16", 0.06)])
def test_vectors_of_a_gpu_are_those_of_a_cpu(
    tmp_path: Path, kind: type[Any], precision: str, close: float
) -> None:
    batch = _samples(kind, tmp_path)[3]
    ours = _encoder(kind, "cpu").encode(batch)
    with pretended_cuda():
        encoder = _encoder(kind, "cuda", precision)
        theirs = encoder.encode(batch)
        dtypes = {weight.dtype for weight in _network(encoder).parameters()}
    assert dtypes == {torch.float32 if precision == "float32" else torch.bfloat16}
    assert theirs.dtype == np.float32
    assert np.linalg.norm(theirs - ours, axis=1).max() < close * np.linalg.norm(ours, axis=1).min()
    assert precision == "float32" or (theirs != ours).any()


def _network(encoder: Any) -> Any:
    return encoder._network if isinstance(encoder, TextEncoder) else encoder._model._network


@KINDS
def test_the_host_waits_for_nothing_but_results_and_those_one_batch_late(
    tmp_path: Path, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the GPU has the next batch before the host turns to the last."""
    batches = _samples(kind, tmp_path)
    with pretended_cuda() as asked:
        encoder = _encoder(kind, "cuda")
        encoder.encode(batches[0])  # loads the model
        ours = [encoder.encode(batch) for batch in batches]
        dim = encoder.dim  # asks the model
        monkeypatch.setattr(kind, "load", lambda _, sample: sample["x"])
        given: list[int] = []

        def chunks() -> Iterator[list[Any]]:
            for at, batch in enumerate(batches):
                given.append(at)
                yield [{"x": one} for one in batch]

        asked.clear()
        found, ahead = [], []
        for encoded in Encoding("one", dim).stream(encoder, chunks()):
            ahead.append(len(given) - len(found))
            found.append(encoded.vectors)
        waits = _by_reason(asked)
    assert ahead == [2, 2, 2, 2, 1]
    assert waits.pop("an event") == BATCHES
    assert sum(waits.values()) <= MASKS_READ[kind] * BATCHES, waits
    for one, other in zip(found, ours, strict=True):
        np.testing.assert_array_equal(one, other)


MASKS_READ = {TextEncoder: 1, ImageEncoder: 0, VideoEncoder: 0}
"""Transformers asks of each batch of texts whether any is padded; the thread of tokens waits."""


def _by_reason(asked: Asked) -> Counter[str]:
    found: Counter[str] = Counter()
    for why, times in asked.waits.items():
        found[why.partition(": ")[2]] += times
    return found


@KINDS
def test_on_a_cpu_nothing_is_left_under_way(kind: type[Any]) -> None:
    encoder = _encoder(kind, "cpu")
    assert encoder.start_encoding is None
    assert encoder.fingerprint == _encoder(kind, "cuda").fingerprint


@KINDS
def test_an_encoder_is_sent_to_decoders_without_what_lies_on_a_gpu(
    tmp_path: Path, kind: type[Any]
) -> None:
    with pretended_cuda():
        encoder = _encoder(kind, "cuda")
        encoder.start_encoding(_samples(kind, tmp_path)[0])()
        sent = pickle.loads(pickle.dumps(encoder))
    held = vars(sent) | vars(getattr(sent, "_model", sent))
    assert not [name for name in held if name in ("_network", "_statistics", "_beside")]
    assert not any(isinstance(value, OnCuda) for value in held.values())
