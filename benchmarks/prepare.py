"""The rate of encoding through `prepare` beside the bare loop of the same model, in one run.

    python -m benchmarks.prepare [--data FOLDER] [--work FOLDER] [--items N] [--device cpu]

FOLDER holds `ml1m/` with items.jsonl and posters/ (not part of the project; ../shared/data by
default, or CAMMSR_TEST_DATA). Clips are made with PyAV.

A bare loop is what somebody would write for one of these models alone: the texts through
sentence-transformers' own `encode`, which sorts them; the pictures through timm's own transform in
a DataLoader with as many workers as `prepare` has; of clips the same frames decoded one clip after
the other, through the same transform and model. Each decodes and encodes what it is given, and
neither has anything in a cache; both write the vectors into an array. Models are loaded before the
clock starts. The two take turns, and the median of all rounds but the first counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from cammsr_encoders.image import ImageEncoder
from cammsr_encoders.text import TextEncoder
from cammsr_encoders.video import VideoEncoder
from numpy.typing import NDArray

from benchmarks.data_sets import RAW
from benchmarks.timing import median_after_first
from cammsr_cli.encoding.encode import encode_items
from cammsr_cli.encoding.engine import processors
from cammsr_cli.encoding.features import FeatureOptions

BATCH = 32
CLIP_FRAMES = 250


class Pictures:
    """Picture files through a timm transform, as a data set of torch."""

    def __init__(self, paths: list[Path], transform: Any) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def bare_text(encoder: TextEncoder, texts: list[str]) -> NDArray[np.float32]:
    """sentence-transformers as its documentation shows it."""
    found: NDArray[np.float32] = encoder._network.encode(
        texts, batch_size=BATCH, show_progress_bar=False
    )
    return found


def bare_images(encoder: ImageEncoder, paths: list[Path], workers: int) -> NDArray[np.float32]:
    """timm as its documentation shows it, with a DataLoader."""
    import torch
    from timm.data.transforms_factory import create_transform
    from torch.utils.data import DataLoader

    model = encoder._model
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    transform = create_transform(**{key: model.config[key] for key in keys})
    data: Any = Pictures(paths, transform)
    loader = DataLoader(data, batch_size=BATCH, num_workers=workers)
    with torch.inference_mode():
        found = [model._network(batch.to(model.device)).cpu().numpy() for batch in loader]
    return np.concatenate(found)


def bare_video(encoder: VideoEncoder, paths: list[Path]) -> NDArray[np.float32]:
    """PyAV with its threads, timm's transform and the model, one clip after the other."""
    import av
    import torch
    from timm.data.transforms_factory import create_transform

    model = encoder._model
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    transform = create_transform(**{key: model.config[key] for key in keys})
    wanted_frames = frames_wanted(CLIP_FRAMES, encoder.frames)
    found = []
    for path in paths:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "AUTO"
            decoded: Any = container.decode(video=0)
            frames = enumerate(decoded)
            wanted = [transform(frame.to_image()) for at, frame in frames if at in wanted_frames]
        with torch.inference_mode():
            features = model._network(torch.stack(wanted).to(model.device)).cpu()
        change = features.diff(dim=0).abs().mean(0)
        found.append(torch.cat([features.mean(0), change]).numpy())
    return np.stack(found)


def frames_wanted(frames: int, count: int) -> set[int]:
    """Which frames of a clip of so many our encoder takes: of every k-th, those nearest in time."""
    step = 1
    while frames / step > 4 * count:
        step *= 2
    kept = np.arange(0, frames, step)
    middles = (frames - 1) * (np.arange(count) + 0.5) / count
    return {int(kept[np.abs(kept - middle).argmin()]) for middle in middles}


def make_clips(folder: Path, count: int) -> list[Path]:
    """Clips of a moving pattern in 640 x 360, 10 seconds each, at 25 frames a second."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:360, :640]
    paths = []
    for clip in range(count):
        path = folder / f"{clip}.mp4"
        paths.append(path)
        if path.is_file():
            continue
        partial = folder / "partial.mp4"
        with av.open(str(partial), "w") as container:
            stream: Any = container.add_stream("libx264", rate=Fraction(25))
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            for frame in range(CLIP_FRAMES):
                pixels = np.stack(
                    [(x + frame * (clip + 1)) % 256, (y + clip * 40) % 256, (x + y + frame) % 256],
                    axis=-1,
                ).astype(np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        partial.replace(path)
    return paths


def compare(
    name: str,
    encoder: Any,
    records: list[dict[str, str]],
    root: Path,
    bare: Callable[[], NDArray[np.float32]],
    rounds: int,
    workers: int,
) -> None:
    """Measure both in turn; print their rates."""
    ids = [str(row) for row in range(len(records))]
    distinct = 0
    rates: dict[str, list[float]] = {"prepare": [], "bare": []}
    worst = 0.0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            options = FeatureOptions(
                BATCH, workers, "float32", cache_dir=Path(cache), scratch_dir=Path(cache)
            )
            began = time.perf_counter()
            features = encode_items(encoder, records, ids, root, options)
            rates["prepare"].append(len(records) / (time.perf_counter() - began))
        distinct = features.encoded
        began = time.perf_counter()
        vectors = bare()
        rates["bare"].append(len(records) / (time.perf_counter() - began))
        ours = features.values[0 : len(records)]
        cosine = (ours * vectors).sum(1) / np.linalg.norm(ours, axis=1)
        worst = max(worst, float((1 - cosine / np.linalg.norm(vectors, axis=1)).max()))
    ours_rate, bare_rate = (median_after_first(rates[one]) for one in ("prepare", "bare"))
    print(
        f"| {name} | {len(records):,} ({distinct:,} distinct) | {ours_rate:.1f} | {bare_rate:.1f} "
        f"| {ours_rate / bare_rate:.2f} | {worst:.1g} |",
        flush=True,
    )


def main() -> None:
    """Measure text, pictures and clips."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=RAW)
    parser.add_argument(
        "--work", type=Path, help="keeps the clips; a temporary folder if not given"
    )
    parser.add_argument("--items", type=int, default=512, help="texts and pictures")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["text", "image", "video"])
    parser.add_argument("--device", default="cpu", help="where both encode, such as cuda")
    options = parser.parse_args()
    root = options.data / "ml1m"
    if not root.is_dir():
        sys.exit(f"no {root}: give the folder that holds ml1m with --data")
    workers = max(0, min(8, processors() - 1))
    rows = [json.loads(line) for line in (root / "items.jsonl").open()]
    print(
        f"{os.cpu_count()} cores, {options.device}, batches of {BATCH}, "
        f"{workers} decoding process(es)\n"
    )
    print("| | items | prepare, items/s | bare loop | ratio | largest 1 − cosine |")
    print("|---|---:|---:|---:|---:|---:|")
    if options.only in (None, "text"):
        text = TextEncoder(device=options.device)
        texts = [
            {key: row[key] for key in ("title", "description") if row.get(key)} for row in rows
        ]
        texts = texts[: options.items]
        joined = [text.load(one) for one in texts]
        compare("text", text, texts, root, lambda: bare_text(text, joined), options.rounds, workers)
    if options.only in (None, "image"):
        image = ImageEncoder(device=options.device)
        named = [{"image": row["image"]} for row in rows if row.get("image")][: options.items]
        paths = [root / one["image"] for one in named]
        _ = image.dim
        compare(
            "image", image, named, root,
            lambda: bare_images(image, paths, workers), options.rounds, workers,
        )  # fmt: skip
    if options.only in (None, "video"):
        video = VideoEncoder(device=options.device)
        folder = options.work or Path(tempfile.mkdtemp())
        clips = make_clips(folder / "clips", options.clips)
        _ = video.dim
        shown = [{"video": f"clips/{path.name}"} for path in clips]
        compare(
            "video", video, shown, folder,
            lambda: bare_video(video, clips), options.rounds, workers,
        )  # fmt: skip


if __name__ == "__main__":
    main()
