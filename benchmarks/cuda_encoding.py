"""Of the run on a machine with a GPU: pictures and texts to vectors; see cuda.py."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from cammsr_encoders.image import ImageEncoder
from cammsr_encoders.protocol import WeightsUnavailable
from cammsr_encoders.text import TextEncoder
from PIL import Image

from benchmarks.cuda_kit import Kit, Report
from cammsr_cli.encoding.decode import Sample
from cammsr_cli.encoding.engine import Encoding, processors

PRECISION = {"cuda": "bfloat16", "cpu": "float32"}


def encoding(kit: Kit) -> Report:
    """Items a second from files to vectors, beside the bare model's and the bare decoders'."""
    found: Report = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, measured in (("images", _images), ("texts", _texts)):
            try:
                found[name] = measured(kit, Path(folder))
            except WeightsUnavailable as error:
                found[name] = {"left out": str(error)}
    return found


def _images(kit: Kit, folder: Path) -> Report:
    """Photographs of a usual size."""
    random = np.random.default_rng(0)
    items = []
    for at in range(kit.sizes(256, 4)):
        coarse = Image.fromarray(random.integers(0, 256, (30, 20, 3), np.uint8))
        path = folder / f"{at}.jpg"
        coarse.resize((400, 600), Image.Resampling.BICUBIC).save(path)
        items.append({"image": str(path)})
    encoder = ImageEncoder(device=str(kit.device), precision=PRECISION[kit.device.type])
    return _rates(kit, encoder, items, kit.sizes(256, 2), kit.sizes(16, 2))


def _texts(kit: Kit, folder: Path) -> Report:
    """Texts of a few words up to some hundred."""
    random = np.random.default_rng(0)
    words = np.array("red blue warm cold a shoe hat lamp chair book of the pen cup with".split())  # noqa: SIM905
    items = [
        {"title": " ".join(random.choice(words, random.integers(5, 200)))}
        for _ in range(kit.sizes(1024, 8))
    ]
    device, precision = str(kit.device), PRECISION[kit.device.type]
    carried = kit.data.parent / "minilm"
    model = str(_with_weights(carried, folder)) if carried.is_dir() else None
    encoder = TextEncoder(model, device=device, precision=precision)
    return _rates(kit, encoder, items, kit.sizes(256, 4), kit.sizes(16, 2))


def _with_weights(model: Path, folder: Path) -> Path:
    """A copy of a text model, with weights drawn by chance if it has none: as fast as any."""
    from transformers import AutoConfig, AutoModel

    copied = Path(shutil.copytree(model, folder / "model"))
    if not list(copied.rglob("*.safetensors")):
        models: Any = AutoModel  # typed or not, depending on the version
        models.from_config(AutoConfig.from_pretrained(copied)).save_pretrained(copied)
    return copied


def _rates(kit: Kit, encoder: Any, items: list[dict[str, str]], batch: int, batches: int) -> Report:
    """Items a second: all the way, decoded alone, and encoded alone from the memory."""
    workers = min(processors() - 1, 15)
    run = Encoding("kit", encoder.dim, workers)
    samples = [encoder.load(item) for item in items[:batch]]
    encoder.encode(samples)  # what is made once is made

    def chunks() -> Iterator[list[Sample]]:
        for at in range(batches):
            yield [items[(at * batch + n) % len(items)] for n in range(batch)]

    def decoded() -> None:
        with closing(run.decoder(encoder)) as decoder:
            for chunk in chunks():
                decoder.give(chunk)
            for _ in range(batches):
                decoder.take(batch)

    def encoded() -> None:
        start = encoder.start_encoding or (lambda given: lambda: encoder.encode(given))
        begun = [start(samples) for _ in range(2)]
        for _ in range(batches - 2):
            begun.pop(0)()
            begun.append(start(samples))
        for fetch in begun:
            fetch()

    whole = _rate(lambda: list(run.stream(encoder, chunks())), batch * batches)
    alone = _rate(encoded, batch * batches)
    found = {"batch": batch, "workers": workers, "items/s": whole, "model alone items/s": alone}
    if "image" in encoder.fields:
        found["decoding alone items/s"] = _rate(decoded, batch * batches)
    first = min(alone, found.get("decoding alone items/s", alone))
    return {**found, "share of what bounds it": whole / first}


def _rate(run: Callable[[], object], items: int) -> float:
    began = time.perf_counter()
    run()
    return items / (time.perf_counter() - began)
