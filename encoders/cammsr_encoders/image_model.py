"""The image model that pictures and the frames of clips share: a timm model as it was trained."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cammsr_encoders.device import Fetch, fetched, is_gpu, sent
from cammsr_encoders.protocol import check_precision, whole_number
from cammsr_encoders.weights import IMAGE_DEFAULT, ImageWeights, find_image_weights

# Long thin pictures are cut to this ratio around their middle: the shorter side is what is scaled
# to the model's size, so that a strip of 1 x 60,000 pixels would grow to gigabytes.
_MAX_ASPECT = 8
# Images that pass through the model at once, whatever the batch (a clip is many images): on a CPU,
# and on a GPU.
_IMAGES_A_PASS = 64
_IMAGES_A_PASS_ON_GPU = 256


class ImageModel:
    """A timm model as a feature extractor, with the preparation it was trained on.

    Args:
        model: See `weights.find_image_weights`; tf_efficientnet_lite0 (1,280-d) if None.
        device: "cpu", "cuda", "cuda:N" or "mps".
        precision: "float32", or "bfloat16": of the weights on a GPU, by autocast elsewhere.
        size: Side of the square the model sees, in pixels; the model's own if None.
    """

    def __init__(
        self,
        model: str | None = None,
        device: str = "cpu",
        precision: str = "float32",
        size: int | str | None = None,
    ) -> None:
        self.name = model or IMAGE_DEFAULT
        self.device = device
        self.precision = check_precision(precision)
        self.size = None if size is None else whole_number("size", size, 32, 1024)

    @functools.cached_property
    def weights(self) -> ImageWeights:
        """Where the weights are; cheap."""
        return find_image_weights(self.name)

    @property
    def facts(self) -> dict[str, object]:
        """What decides the features, for a fingerprint."""
        return {
            "model": self.name,
            "weights": self.weights.revision,
            "precision": self.precision,
            "size": self.size,
        }

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The data config of timm: input_size, interpolation, mean, std, crop_pct, crop_mode."""
        timm = _timm()
        if self.weights.config is not None:
            config_file = json.loads(self.weights.config.read_text(encoding="utf-8"))[
                "pretrained_cfg"
            ]
        else:
            config_file = timm.get_pretrained_cfg(self.weights.architecture).to_dict()
        size = {} if self.size is None else {"input_size": (3, self.size, self.size)}
        config = timm.data.resolve_data_config(size, pretrained_cfg=config_file)
        return {**config, "fixed_input_size": bool(config_file.get("fixed_input_size"))}

    @functools.cached_property
    def _transform(self) -> Any:
        keys = ("input_size", "interpolation", "crop_pct", "crop_mode")
        # The "prefetcher" form ends in uint8 [3, size, size]: a quarter of what floats weigh
        # between processes. `features` normalizes on the device.
        return _timm().data.create_transform(
            **{key: self.config[key] for key in keys}, use_prefetcher=True
        )

    @functools.cached_property
    def _network(self) -> Any:
        """The loaded model, in evaluation mode on the device."""
        network = _load_network(self.weights, self.config, self.size).to(self.device).eval()
        if self.on_gpu and self.precision == "bfloat16":
            network = network.bfloat16()
        return network.to(memory_format=self._memory_format)

    @functools.cached_property
    def _statistics(self) -> Any:
        """Mean and deviation of pixels, [1, 3, 1, 1] each, on the device."""
        import torch

        return tuple(
            torch.tensor(self.config[key])[None, :, None, None].to(self.device)
            for key in ("mean", "std")
        )

    @property
    def on_gpu(self) -> bool:
        """Whether it computes while the host goes on."""
        return is_gpu(self.device)

    @property
    def _memory_format(self) -> Any:
        """How images lie in memory: with channels last NVIDIA's convolutions are faster."""
        import torch

        return torch.channels_last if self.on_gpu else torch.contiguous_format

    @functools.cached_property
    def dim(self) -> int:
        """Length of the features; loads the model."""
        import torch

        channels, height, width = self.config["input_size"]
        blank = np.zeros((1, channels, height, width), np.uint8)
        with torch.inference_mode():
            return int(self.features(blank).shape[1])

    @property
    def shortest_side(self) -> int:
        """Pixels the shorter side is scaled to before the middle is cut out."""
        side = max(self.config["input_size"][1:])
        return int(side / self.config["crop_pct"]) + 1

    def prepare(self, picture: Image.Image) -> NDArray[np.uint8]:
        """An RGB picture scaled and cut to what the model sees: uint8 [3, size, size]."""
        return np.ascontiguousarray(self._transform(_without_long_ends(picture)), dtype=np.uint8)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pooled features.

        Args:
            images: uint8 [n, 3, size, size] from `prepare`.

        Returns:
            float32 [n, dim].
        """
        return self.started(images)()

    def started(self, images: NDArray[np.uint8]) -> Fetch:
        """What fetches the features that `features` gives; a GPU works at them meanwhile."""
        if not len(images):
            return lambda: np.zeros((0, self.dim), np.float32)
        most = _IMAGES_A_PASS_ON_GPU if self.on_gpu else _IMAGES_A_PASS
        passes = [
            self._started(images[start : start + most]) for start in range(0, len(images), most)
        ]
        return lambda: np.concatenate([fetch() for fetch in passes])

    def _started(self, images: NDArray[np.uint8]) -> Fetch:
        import torch

        device = torch.device(self.device)
        mean, std = self._statistics
        rough = self.precision == "bfloat16"
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=rough and not self.on_gpu),
        ):
            pixels = sent(torch.from_numpy(images), device).float() / 255
            pixels = pixels.contiguous(memory_format=self._memory_format)
            pixels = (pixels - mean) / std
            return fetched(self._network(pixels.bfloat16() if rough and self.on_gpu else pixels))

    def __getstate__(self) -> dict[str, Any]:
        on_device = ("_network", "_statistics")
        return {key: value for key, value in self.__dict__.items() if key not in on_device}


def _without_long_ends(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    longest = min(width, height) * _MAX_ASPECT
    if max(width, height) <= longest:
        return picture
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return picture.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _timm() -> Any:
    """The timm package, imported when first needed (seconds); half of it has no types."""
    import timm
    import timm.data

    return timm


def _load_network(weights: ImageWeights, config: dict[str, Any], size: int | None) -> Any:
    """A timm model that yields pooled features; weights by name, or by order for `aligned`."""
    timm = _timm()
    resized = {"img_size": size} if size is not None and config["fixed_input_size"] else {}
    if not weights.aligned:
        return timm.create_model(
            weights.architecture,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(weights.fetched())},
            num_classes=0,
            **resized,
        )
    import torch

    network = timm.create_model(weights.architecture, **resized)
    saved = torch.load(weights.fetched(), map_location="cpu", weights_only=True)
    wanted = network.state_dict()
    same = len(saved) == len(wanted) and all(
        ours.shape == theirs.shape
        for ours, theirs in zip(wanted.values(), saved.values(), strict=True)
    )
    if not same:
        raise RuntimeError(f"{weights.fetched().name} does not fit timm's {weights.architecture}")
    network.load_state_dict(dict(zip(wanted, saved.values(), strict=True)))
    network.reset_classifier(0)
    return network
