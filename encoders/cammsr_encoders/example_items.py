"""Small items to try an encoder on, made on the spot: texts, pictures, clips with sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cammsr_encoders.protocol import MEDIA_FIELDS

_TEXTS = (
    "Heat",
    "The lighthouse keeper, 1893 – a novel of the sea. " + "Waves break on the rocks below. " * 60,
    "日本の映画 🎬 with English subtitles",
    "Ein Gemälde: Öl auf Leinwand, 40 × 60 cm, signed and dated on the back",
)
# What an items file may hold: half an emoji, no letter at all, a text of 20,000 words.
_ODD_TEXTS = ("broken \ud83d", "\0", "!?", "word " * 20_000)
_FRAMES = (1, 6, 10, 15)  # at ten a second; a clip of one frame is a clip too
_SIDES = ((48, 64), (64, 48), (96, 96), (33, 57))
_SOUND_RATE = 16_000


def example_items(encoder: Any, folder: Path) -> list[dict[str, str]]:
    """Items that an encoder should be able to encode: its own `example_items`, or ours.

    Args:
        encoder: The encoder; if it has a method `example_items(folder)`, that is asked.
        folder: An empty folder to write files into.

    Returns:
        Four items of ours with all of its fields, or as many as the encoder offers.
    """
    own = getattr(encoder, "example_items", None)
    if own is not None:
        return [dict(item) for item in own(folder)]
    return [
        {name: _value(name, number, folder) for name in encoder.fields}
        for number in range(len(_TEXTS))
    ]


def bad_items(items: Sequence[Mapping[str, str]], folder: Path) -> list[dict[str, str]]:
    """Items with a medium that cannot be used: text, nothing, half of a file, no file.

    Args:
        items: Good items, of whose files half is taken.
        folder: A folder to write files into.
    """
    media = {name: Path(item[name]) for item in items for name in MEDIA_FIELDS if name in item}
    bad = []
    for name, whole in media.items():
        content = {"text": b"404 Not Found\n", "nothing": b"", "half": _half(whole)}
        for what, inside in content.items():
            path = folder / f"{what}{whole.suffix}"
            path.write_bytes(inside)
            bad.append({name: str(path)})
        bad.append({name: str(folder / f"gone{whole.suffix}")})
    return bad


def odd_items(fields: Sequence[str]) -> list[dict[str, str]]:
    """Items with a text that few expect, one for each such text and each field of text."""
    return [{name: text} for name in fields if name not in MEDIA_FIELDS for text in _ODD_TEXTS]


def _half(path: Path) -> bytes:
    content = path.read_bytes()
    return content[: len(content) // 2]


def _value(name: str, number: int, folder: Path) -> str:
    if name == "image":
        return _picture(folder / f"picture {number} é.{('png', 'jpg')[number % 2]}", number)
    if name == "video":
        return _clip(folder / f"clip {number} é.mp4", number)
    return f"{_TEXTS[number]} ({name})"


def _pixels(number: int, moment: int = 0) -> NDArray[np.uint8]:
    """A picture of waves, uint8 [height, width, 3]; another one for each number and moment."""
    height, width = (side // 2 * 2 for side in _SIDES[number])
    y, x = np.mgrid[0:height, 0:width] / 16
    phases = np.array([0, 2, 4]) + number + moment / 2
    waves = np.sin((x * (1 + number) + y * (4 - number))[..., None] + phases)
    pixels: NDArray[np.uint8] = np.round(127.5 + 127.5 * waves).astype(np.uint8)
    return pixels


def _picture(path: Path, number: int) -> str:
    from PIL import Image

    Image.fromarray(_pixels(number)).save(path)
    return str(path)


def _clip(path: Path, number: int) -> str:
    """A clip of waves that move, with a tone that grows louder."""
    import av

    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mpeg4", rate=10)
        sound: Any = container.add_stream("aac", rate=_SOUND_RATE, layout="mono")
        video.height, video.width = _pixels(number).shape[:2]
        video.pix_fmt = "yuv420p"
        for moment in range(_FRAMES[number]):
            frame = av.VideoFrame.from_ndarray(_pixels(number, moment))
            container.mux(video.encode(frame))
        container.mux(video.encode())
        time = np.arange(_FRAMES[number] * _SOUND_RATE // 10) / _SOUND_RATE
        tone = time / time[-1] * np.sin(2 * np.pi * 220 * (1 + number) * time) / 2
        heard = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], "fltp", "mono")
        heard.sample_rate = _SOUND_RATE
        container.mux(sound.encode(heard))
        container.mux(sound.encode())
    return str(path)
