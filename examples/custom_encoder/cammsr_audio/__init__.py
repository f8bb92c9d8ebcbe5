"""The encoder `audio`: log-mel statistics of the sound track of an item's clip.

Sound is mixed to one channel at 16 kHz. Of its spectrum, every 10 ms, the energy in each of some
mel bands (https://en.wikipedia.org/wiki/Mel_scale) is taken as a logarithm; the vector is each
band's mean over time and then its standard deviation: how it sounds, and how much that changes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cammsr_encoders import BadSample, check_options, fingerprint_of, whole_number
from numpy.typing import NDArray

if TYPE_CHECKING:  # torch takes a second to import: not before it is used
    import torch

RATE = 16_000  # samples a second
WINDOW, HOP = 512, 160  # samples that one spectrum sees, and from one to the next: 32 and 10 ms
PIECES = 6  # a clip longer than what is listened to is heard at so many places
FLOOR = 1e-10  # energy of what counts as silence
RATES = (4_000, 768_000)  # of a sound track; what claims another would be blown up to gigabytes
PACKETS = 100_000  # of a sound track are read at most, whatever they hold
# Only containers that hold their own data: a playlist names other files, which are not the item's.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mp3,wav,flac,aac,nut"


class AudioEncoder:
    """Encodes what an item's clip sounds like, as log-mel statistics.

    Args:
        model: None; this encoder has no models to choose from.
        device: "cpu", "cuda", "cuda:N" or "mps".
        precision: Taken and not used: it is float32 either way.
        bands: Mel bands; the vectors are twice as long.
        seconds: How much sound is listened to; a longer clip is heard at six places, evenly spread.
        unknown: Any further option is refused.
    """

    api = 1
    modality = "audio"
    fields = ("video",)

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        bands: int | str = 64,
        seconds: int | str = 30,
        **unknown: object,
    ) -> None:
        check_options("audio", unknown, ("bands", "seconds"))
        if model is not None:
            raise ValueError(f"encoder 'audio' has no models, so not {model!r} either")
        self.device = device
        self.bands = whole_number("bands", bands, 8, 128)
        self.seconds = whole_number("seconds", seconds, 1, 600)

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return 2 * self.bands

    @property
    def fingerprint(self) -> str:
        """All that decides the vectors; cached ones are found by it."""
        return fingerprint_of(self, "cammsr-audio", bands=self.bands, seconds=self.seconds)

    def load(self, item: Mapping[str, str]) -> NDArray[np.int16]:
        """The clip's sound: int16 [samples], 16 kHz, one channel, at most `seconds` of it.

        Raises:
            BadSample: If there is no sound track, or it cannot be decoded.
        """
        return read_sound(Path(item["video"]), self.seconds)

    def encode(self, samples: list[Any]) -> NDArray[np.float32]:
        """Mean, then standard deviation, of each band: float32 [len(samples), 2 * bands].

        Clips differ in length, so they are taken one by one: nothing is padded, and a vector
        cannot depend on its batch.
        """
        vectors = [self._statistics(sample) for sample in samples]
        return np.array(vectors, np.float32).reshape(-1, self.dim)

    def _statistics(self, sound: NDArray[np.int16]) -> NDArray[np.float32]:
        import torch

        wave = torch.from_numpy(sound).to(self.device).float() / 32_768
        wave = torch.nn.functional.pad(wave, (0, max(0, WINDOW - len(wave))))
        window = torch.hann_window(WINDOW, device=self.device)
        spectrum = torch.stft(
            wave, WINDOW, HOP, window=window, center=False, return_complex=True
        )  # [frequencies, moments]
        energy = self._filters @ spectrum.abs().square()  # [bands, moments]
        level = energy.clamp_min(FLOOR).log10()
        told = torch.cat([level.mean(1), level.std(1, correction=0)])
        return np.asarray(told.cpu().numpy(), np.float32)

    @functools.cached_property
    def _filters(self) -> torch.Tensor:
        return mel_filters(self.bands).to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_filters"}


def mel_filters(bands: int) -> torch.Tensor:
    """Triangles evenly spread over the mel scale, each of area 1: float32 [bands, frequencies]."""
    import torch

    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)  # in Hz
    frequency = torch.linspace(0, RATE / 2, WINDOW // 2 + 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    triangle = torch.minimum(rising, falling).clamp_min(0)
    # Of many bands the lowest are narrower than the step from one frequency to the next, and may
    # fall between two: such a band takes the frequency nearest to it.
    nearest = (frequency - middle).abs().argmin(1)
    empty = triangle.sum(1) == 0
    triangle[empty, nearest[empty]] = 1
    return triangle / triangle.sum(1, keepdim=True)


def read_sound(path: Path, seconds: int) -> NDArray[np.int16]:
    """A file's sound track, mixed to one channel: int16 [samples] at 16 kHz.

    Args:
        path: A clip, or a file of sound alone.
        seconds: So much at most; of a longer one six pieces, evenly spread, reached by seeking.

    Raises:
        BadSample: If there is no sound track, or it cannot be decoded.
    """
    import av

    try:
        with av.open(
            str(path), options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        ) as container:
            if not container.streams.audio:
                raise BadSample("no sound track")
            return _Track(container).heard(seconds)
    except BadSample:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise BadSample(f"the sound cannot be decoded: {told}") from error


class _Track:
    """The first sound track of an open clip."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.stream = container.streams.audio[0]
        self.packets = self.broken = 0

    def heard(self, seconds: int) -> NDArray[np.int16]:
        """At most `seconds` of it.

        Raises:
            BadSample: If nothing can be decoded.
        """
        length = self._length()
        sound = np.zeros(0, np.int16)
        if length is not None and length > seconds:
            middles = [length * (2 * piece + 1) / (2 * PIECES) for piece in range(PIECES)]
            sound = np.concatenate([self._piece(at, seconds * RATE // PIECES) for at in middles])
        if not len(sound):  # it is short, or does not last as long as it says
            self._seek(0)
            sound = self._samples(seconds * RATE)
        if self.broken * 2 > self.packets:
            raise BadSample(f"corrupt: {self.broken} of {self.packets} packets of sound are broken")
        if not len(sound):
            raise BadSample("the sound track is empty")
        return sound

    def _length(self) -> float | None:
        """How many seconds it says it has; None where it does not say."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        if self.container.duration:
            return float(self.container.duration / 1_000_000)
        return None

    def _piece(self, middle: float, samples: int) -> NDArray[np.int16]:
        """So many samples around a time, in seconds."""
        self._seek(max(0.0, middle - samples / RATE / 2))
        return self._samples(samples)

    def _seek(self, second: float) -> None:
        import av

        start = self.stream.start_time or 0
        # What cannot be sought in goes on where it is: its pieces follow upon one another.
        with contextlib.suppress(av.FFmpegError):
            self.container.seek(start + int(second / self.stream.time_base), stream=self.stream)

    def _samples(self, most: int) -> NDArray[np.int16]:
        """What comes next, up to so many samples."""
        import av

        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        parts: list[NDArray[np.int16]] = []
        count = 0
        for frame in self._frames():
            for resampled in resampler.resample(frame):
                parts.append(resampled.to_ndarray()[0])
                count += len(parts[-1])
            if count >= most:
                break
        else:
            parts += [rest.to_ndarray()[0] for rest in resampler.resample(None)]
        return np.concatenate([np.zeros(0, np.int16), *parts])[:most]

    def _frames(self) -> Iterator[Any]:
        """Frames from here on; broken packets are counted and passed over."""
        import av

        for packet in self.container.demux(self.stream):
            self.packets += packet.size > 0
            if self.packets > PACKETS:
                return
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                self.broken += 1
                continue
            except EOFError:
                return
            for frame in frames:
                if not RATES[0] <= frame.sample_rate <= RATES[1]:
                    raise BadSample(f"a sound track of {frame.sample_rate:,} Hz")
                yield frame
