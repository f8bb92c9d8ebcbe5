"""Thumbnails of items' images and of video frames, embedded in a page.

The files are untrusted. Only files in the media folder or among the downloads are read
(`media.paths`), and they are decoded in worker processes, with a time limit for each file.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from cammsr_encoders.image import read_image
from cammsr_encoders.video import frame_at, showing, timed_frames
from PIL import Image

from cammsr_cli.encoding.decode import Decoder, Failure
from cammsr_cli.media.source import MediaSource

BUDGET = 3_400_000
"""Maximum number of characters of all pictures of a page together."""

_SCALES = (1.0, 0.75, 0.5, 0.35)
_QUALITY = 74
_WORKERS, _SECONDS = 2, 30.0
_LOOKED_AT = 5  # frames examined for one near the middle of a video that is not blank

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Wanted:
    """A requested picture.

    Attributes:
        field: "image" or "video".
        written: Its path or URL, as written in the items file.
        side: Pixels of its longer side.
        seconds: Time of the frame in a video; None for a frame near the middle.
    """

    field: str
    written: str
    side: int
    seconds: float | None = None


@dataclass(frozen=True)
class Thumbnail:
    """A picture in a page.

    Attributes:
        number: Its index among the pictures of the page.
        width: Width in pixels.
        height: Height in pixels.
        seconds: Time of the frame from the start of the video; None for an image.
    """

    number: int
    width: int
    height: int
    seconds: float | None


@dataclass
class Album:
    """The pictures of a page.

    Attributes:
        addresses: Each picture as a data URL, by its number.
        missing: Number of pictures that could not be shown, by reason.
    """

    addresses: list[str] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)
    _found: dict[Wanted, Thumbnail] = field(default_factory=dict)

    def get(self, wanted: Wanted | None) -> Thumbnail | None:
        """Return the thumbnail of a requested picture; None if there is none."""
        return None if wanted is None else self._found.get(wanted)

    @classmethod
    def of(
        cls, wanted: Sequence[Wanted], source: MediaSource, progress: Progress | None = None
    ) -> Album:
        """Create each picture once; reduce the size of all if they do not fit into the page."""
        album = cls()
        samples: dict[Wanted, dict[str, str]] = {}
        for one in dict.fromkeys(wanted):
            found = source.find(one.written)
            if isinstance(found, str):
                album.missing[found] += 1
            else:
                samples[one] = _sample(one, found)
        made: dict[Wanted, _Made] = {}
        decoder = Decoder(Shrinker(), min(_WORKERS, len(samples)), _SECONDS)
        try:
            decoder.give(samples.values())
            for done, one in enumerate(samples, 1):
                (thumbnail,) = decoder.take(1)
                if isinstance(thumbnail, Failure):
                    album.missing[thumbnail.reason] += 1
                else:
                    made[one] = thumbnail
                if progress is not None:
                    progress(done, len(samples), done - len(made))
        finally:
            decoder.close()
        album._fill(made)
        return album

    def _fill(self, made: Mapping[Wanted, _Made]) -> None:
        room = BUDGET
        for one, picture in _fitting(made).items():
            address = f"data:image/webp;base64,{b64encode(picture.webp).decode()}"
            room -= len(address)
            if room < 0:
                self.missing["the page would be too large"] += 1
                continue
            self._found[one] = Thumbnail(
                len(self.addresses), picture.width, picture.height, picture.seconds
            )
            self.addresses.append(address)


@dataclass(frozen=True)
class _Made:
    webp: bytes
    width: int
    height: int
    seconds: float | None


class Shrinker:
    """Creates thumbnails; worker processes call its `load`."""

    def load(self, item: Mapping[str, str]) -> _Made:
        """Create the thumbnail of a sample: image or video, side, and optionally seconds.

        Raises:
            BadSample: The file is not an image or video, or is broken.
        """
        side, seconds = int(item["side"]), None
        if "image" in item:
            picture = read_image(Path(item["image"]), side)
        elif "seconds" in item:
            seconds = float(item["seconds"])
            picture = Image.fromarray(frame_at(Path(item["video"]), seconds, np.asarray))
        else:
            frames = showing(timed_frames(Path(item["video"]), _LOOKED_AT, np.asarray))
            seconds, pixels = frames[len(frames) // 2]
            picture = Image.fromarray(pixels)
        return _shrunk(picture, side, seconds)


def _sample(one: Wanted, path: Path) -> dict[str, str]:
    sample = {one.field: str(path), "side": str(one.side)}
    return sample if one.seconds is None else {**sample, "seconds": repr(one.seconds)}


def _shrunk(picture: Image.Image, side: int, seconds: float | None) -> _Made:
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=_QUALITY, method=4)
    return _Made(stream.getvalue(), *picture.size, seconds)


def _fitting(made: Mapping[Wanted, _Made]) -> Mapping[Wanted, _Made]:
    """Return the pictures, all scaled down by one factor if they do not fit otherwise."""
    fitting = made
    for scale in _SCALES:
        if scale < 1:
            fitting = {one: _scaled(picture, scale) for one, picture in made.items()}
        if sum(len(picture.webp) for picture in fitting.values()) * 4 / 3 < BUDGET * 0.98:
            break
    return fitting


def _scaled(made: _Made, scale: float) -> _Made:
    side = max(1, round(max(made.width, made.height) * scale))
    return _shrunk(Image.open(BytesIO(made.webp)), side, made.seconds)
