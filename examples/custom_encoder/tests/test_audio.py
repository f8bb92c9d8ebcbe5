"""Run with `pytest examples/custom_encoder` once the plugin is installed."""

import time
import tracemalloc
from importlib.metadata import entry_points
from pathlib import Path

import av
import numpy as np
import pytest
from cammsr_audio import PIECES, RATE, AudioEncoder, mel_filters, read_sound
from cammsr_encoders import BadSample
from cammsr_encoders.testing import EncoderContract


class TestContract(EncoderContract):
    kind = AudioEncoder
    changing = {"bands": "20", "seconds": "1"}  # noqa: RUF012


def write_sound(path: Path, sound: np.ndarray, codec: str = "aac", rate: int = RATE) -> str:
    """A file with a sound track: float [samples] from -1 to 1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, len(sound), RATE):
            part = sound[None, start : start + RATE].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(part, "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def tone(pitch: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE) / 2


def test_it_is_found_by_its_entry_point() -> None:
    (point,) = entry_points(group="cammsr.encoders", name="audio")
    assert point.load() is AudioEncoder


@pytest.mark.parametrize("pitch", [300, 1000, 3000])
def test_a_tone_is_heard_in_its_band(tmp_path: Path, pitch: int) -> None:
    encoder = AudioEncoder()
    sample = encoder.load({"video": write_sound(tmp_path / "x.mp4", tone(pitch, 1))})
    (vector,) = encoder.encode([sample])
    response = mel_filters(64)[:, round(pitch / RATE * 512)]
    assert abs(int(vector[:64].argmax()) - int(response.argmax())) <= 1


def test_a_steady_tone_changes_less_than_one_that_comes_and_goes(tmp_path: Path) -> None:
    steady = tone(1000, 2)
    pulsing = steady * (np.arange(len(steady)) // 4000 % 2)
    encoder = AudioEncoder()
    samples = [
        encoder.load({"video": write_sound(tmp_path / f"{name}.mp4", sound)})
        for name, sound in {"steady": steady, "pulsing": pulsing}.items()
    ]
    one, other = encoder.encode(samples)[:, 64:].mean(axis=1)
    assert other > 2 * one


def test_filters_cover_each_band_once() -> None:
    for bands in (8, 64, 128):
        filters = mel_filters(bands)
        np.testing.assert_allclose(filters.sum(1), 1, rtol=1e-5)
        assert (filters >= 0).all()


def test_silence_has_a_vector(tmp_path: Path) -> None:
    encoder = AudioEncoder()
    sample = encoder.load({"video": write_sound(tmp_path / "x.mp4", np.zeros(RATE))})
    assert np.isfinite(encoder.encode([sample])).all()


def test_a_clip_without_sound_says_so(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "mute.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(BadSample, match=r"^no sound track$"):
        read_sound(tmp_path / "mute.mp4", 30)


def test_a_long_clip_is_heard_at_places_all_over_it(tmp_path: Path) -> None:
    steps = 60  # each a second long, each louder than the one before: loudness tells the time
    sound = np.concatenate([tone(500, 1) * (step + 1) / steps for step in range(steps)])
    heard = read_sound(Path(write_sound(tmp_path / "long.mp4", sound)), 6).astype(float)
    assert len(heard) == 6 * RATE
    pieces = heard.reshape(PIECES, -1)
    loudness = np.sqrt(2 * (pieces**2).mean(axis=1)) / 16_384
    np.testing.assert_allclose(loudness, (np.arange(PIECES) + 0.5) / PIECES, atol=0.03)


def test_hours_of_sound_take_bounded_time_and_memory(tmp_path: Path) -> None:
    minute = (tone(440, 60) * 16_384).astype(np.int16)
    with av.open(str(tmp_path / "long.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for _ in range(120):  # two hours
            frame = av.AudioFrame.from_ndarray(minute[None], "s16", "mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
    encoder = AudioEncoder()
    tracemalloc.start()
    began = time.process_time()
    sample = encoder.load({"video": str(tmp_path / "long.wav")})
    took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sample) == 30 * RATE
    assert took < 2
    assert peak < 20 * 1024**2


def test_a_track_that_claims_an_absurd_rate_is_refused(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "x.wav", tone(440, 1), "pcm_s16le")
    content = bytearray(Path(path).read_bytes())
    content[24:28] = (100).to_bytes(4, "little")  # a hundred samples a second: 160 for each
    Path(path).write_bytes(content)
    with pytest.raises(BadSample, match="100 Hz"):
        read_sound(Path(path), 30)


def test_playlists_are_not_followed(tmp_path: Path) -> None:
    write_sound(tmp_path / "other.wav", tone(440, 1), "pcm_s16le")
    (tmp_path / "x.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/other.wav'\n")
    with pytest.raises(BadSample):
        read_sound(tmp_path / "x.mp4", 30)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="bands=1 is not between"):
        AudioEncoder(bands="1")
    with pytest.raises(ValueError, match="has no models"):
        AudioEncoder("wav2vec")
    with pytest.raises(TypeError, match="it has: bands, seconds"):
        AudioEncoder(band="20")
