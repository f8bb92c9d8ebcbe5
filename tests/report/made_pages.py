"""A shop with pictures, clips and hostile titles, and a model of it with random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from toy_data import CATEGORIES, toy_corpus, toy_vectors

from cammsr_cli.config import Config, ModelConfig
from cammsr_cli.data.corpus import Corpus
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.dataset_write import write_dataset
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.spec import build_model, describe, training_items
from cammsr_cli.training.sizing import fitted

USERS, ITEMS = 80, 40

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }} ${7 * 7} </title></style><marquee>",
    "كتاب عن الطبخ \u202eevil",
    "Pâté 🍜👩‍🍳",
    "\x1b[31mred\x1b[0m\x07",
    "line\u2028separator",
)

DESCRIPTION = 'It is "good" & <b2>cheap</b2>. Wash it by hand.'


def make_shop(folder: Path) -> Path:
    """`folder`/toy.h5, media/ and run/."""
    generator = np.random.default_rng(0)
    corpus = toy_corpus(generator, USERS, ITEMS, again=False)
    media = folder / "media"
    media.mkdir()
    for item in range(ITEMS):
        colour = tuple(int(one) for one in generator.integers(60, 220, 3))
        Image.new("RGB", (64, 48), colour).save(media / f"{item}.png")
    for item in range(0, ITEMS, 3):
        _write_clip(media / f"{item}.mp4", item)
    titles = [HOSTILE[at % 8] if at < 24 else f"Thing {at}" for at in range(ITEMS)]
    corpus.fields.update(
        title=titles,
        description=[DESCRIPTION] * ITEMS,
        image=[f"{at}.png" if at % 5 else "" for at in range(ITEMS)],
        video=[f"{at}.mp4" if not at % 3 else "" for at in range(ITEMS)],
    )
    corpus.category_names[:2] = ["<i>Books</i>", "Toys & 'more'"]
    _write(folder, corpus, generator)
    return folder


def make_large(folder: Path, items: int, pictures: int = 400) -> Path:
    """The same for a large catalogue, with pictures that are hard to compress."""
    generator = np.random.default_rng(0)
    corpus = toy_corpus(generator, 300, items, again=False)
    media = folder / "media"
    media.mkdir(parents=True)
    for at in range(pictures):
        coarse = generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(
            media / f"{at}.jpg"
        )
    corpus.fields.update(
        title=[f"Thing {at} with a title of some length" for at in range(items)],
        description=[DESCRIPTION] * items,
        image=[f"{at % pictures}.jpg" for at in range(items)],
        video=[""] * items,
    )
    _write(folder, corpus, generator)
    return folder


def make_plain(folder: Path) -> Path:
    """A shop of ids alone: no texts, no media, no categories, and no record of the training."""
    corpus = toy_corpus(np.random.default_rng(0), USERS, ITEMS, again=False)
    corpus = replace(
        corpus,
        fields={},
        category_names=[],
        category_indptr=np.zeros(ITEMS + 1, np.int64),
        category_index=np.zeros(0, np.int32),
    )
    write_dataset(folder / "toy.h5", corpus, {})
    _write_run(folder, ModelConfig(width=16, layers=1, length=8)).metrics.unlink()
    return folder


def _write(folder: Path, corpus: Corpus, generator: np.random.Generator) -> None:
    category = np.arange(len(corpus.item_ids)) % CATEGORIES
    vectors = {
        name: toy_vectors(generator, name, category, 6, (field,))
        for name, field in (("image", "image"), ("text", "description"), ("video", "video"))
    }
    write_dataset(folder / "toy.h5", corpus, vectors)
    _write_run(folder, ModelConfig(width=16, layers=1, length=8, experts=2, neighbours=0))


def _write_run(folder: Path, model: ModelConfig) -> RunFolder:
    settings = Config(model=model)
    data = DataSet(folder / "toy.h5")
    config, _ = fitted(settings, data, torch.device("cpu"))
    run = RunFolder(folder / "run")
    spec = describe(data, config.model, "cammsr")
    run.begin(config, spec, [data.item_ids[item] for item in training_items(data)])
    torch.manual_seed(0)
    run.finish(build_model(spec, config.model).state_dict())
    lines = [
        json.dumps({"epoch": at, "losses": {"recommendation": 3 / at}, "ndcg": 0.1 * at})
        for at in (1, 2, 3)
    ]
    run.metrics.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def _write_clip(path: Path, seed: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for at in range(10):
            pixels = np.full((48, 64, 3), (seed * 20 + at * 12) % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
