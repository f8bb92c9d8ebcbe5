"""The run folder: what `train` writes and what `evaluate` and `recommend` read.

config.yaml        all settings, resolved
config.json        what the model must be given to be built again
item_ids.json      the items that have a row in the id table, in order
metrics.jsonl      one line an epoch
checkpoints/       step-N/: weights, optimiser, random state
README.md          model card
SHA256SUMS         digests of what decides recommendations: config.json, config.yaml,
item_ids.json, model.safetensors
model.safetensors  the best weights; written last, so a run that has it is finished
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cammsr_cli import __version__
from cammsr_cli.config import Config, ModelConfig, read_yaml, validated
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TRAIN, repeat_share
from cammsr_cli.errors import CammsrError, UsageError, first_line, typed
from cammsr_cli.files import (
    CHECKSUMS,
    RESUMABLE,
    changed_since,
    refusals_told,
    usual_permissions,
    write_checksums,
    written_whole,
)
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.items import Catalogue, are_new, unknown_items
from cammsr_cli.model.windows import Events

FORMAT = 7

REPEATS_FROM = 0.01
"""Share of repeats among the training targets from which on seen items stay in a ranking."""

_WEIGHTS = "model.safetensors"
_SETTINGS = ("config.json", "config.yaml", "item_ids.json")

_WRITTEN = (
    _WEIGHTS,
    CHECKSUMS,
    "config.json",
    "config.yaml",
    "metrics.jsonl",
    "README.md",
    "checkpoints",
    "tensorboard",
    "item_ids.json",  # last: until then it is known for a run
)


class ModelSpec(BaseModel):
    """What a model was built for, enough to build it again and to refuse what it is not for.

    Attributes:
        format: Version of the run folder.
        tool: Version of cammsr that wrote it.
        preset: Name of the starting point of its settings.
        data_path: The data set it was trained on, as an absolute path.
        data_content: That data set's content digest.
        feature_dims: Modality to vector size, in the order of the model's streams.
        fingerprints: Modality to the fingerprint of what made its vectors.
        category_names: The categories it predicts.
        num_ids: Rows of the id table.
        repeat_share: Share of the training targets that their user had already taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: int
    tool: str
    preset: str
    data_path: str
    data_content: str
    feature_dims: dict[str, PositiveInt]
    fingerprints: dict[str, str]
    category_names: list[str]
    num_ids: NonNegativeInt
    repeat_share: NonNegativeFloat

    @property
    def repeats(self) -> bool:
        """Whether users take items again, so that those they have seen are worth recommending."""
        return self.repeat_share >= REPEATS_FROM


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """The best weights; there once training is finished."""
        return self.path / _WEIGHTS

    @property
    def metrics(self) -> Path:
        """One JSON line an epoch."""
        return self.path / "metrics.jsonl"

    @property
    def exists(self) -> bool:
        """Whether a run was begun here: other folders have a config.json, too."""
        return (self.path / "item_ids.json").is_file()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.weights.is_file()

    def clear(self) -> None:
        """Remove what an earlier run wrote; whatever else lies in the folder stays."""
        for name in _WRITTEN:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def begin(self, config: Config, spec: ModelSpec, item_ids: list[str]) -> None:
        """Write what is known before training."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_text("item_ids.json", json.dumps(item_ids, ensure_ascii=False))
        self.write_text("config.yaml", yaml.safe_dump(config.model_dump(), sort_keys=False))
        self.write_text("config.json", spec.model_dump_json(indent=2))
        with refusals_told(self.path):
            write_checksums(self.path, {name: self.path / name for name in _SETTINGS})

    def finish(self, weights: Mapping[str, Tensor]) -> None:
        """Write the best weights and what tells of damage; from then on the run is finished."""
        with refusals_told(self.path, RESUMABLE), written_whole(self.weights) as partial:
            write_weights(weights, partial)
            files = {name: self.path / name for name in _SETTINGS}
            write_checksums(self.path, {**files, _WEIGHTS: partial})

    def check(self) -> list[str]:
        """Compare the files that decide recommendations with their checksums.

        Returns:
            What a user should know: that an older cammsr wrote no checksums.

        Raises:
            CammsrError: One is damaged.
        """
        if not (self.path / CHECKSUMS).is_file():
            return [
                f"{self.path} was written without checksums: damage to it may go unnoticed; "
                "cammsr train writes them"
            ]
        fault = changed_since(self.path, [*_SETTINGS, *([_WEIGHTS] if self.finished else [])])
        if fault is not None:
            raise CammsrError(f"{self.path} is damaged: {fault}", self._again())
        return []

    def write_text(self, name: str, text: str) -> None:
        """Write one of the folder's text files, whole."""
        with refusals_told(self.path), written_whole(self.path / name) as partial:
            partial.write_text(text, encoding="utf-8")

    def spec(self) -> ModelSpec:
        """What the model was built for.

        Raises:
            CammsrError: Not a run folder, or one of another format.
        """
        content = self._read("config.json")
        if not isinstance(content, dict):
            raise self.damaged("config.json", "not a JSON object")
        if content.get("format") != FORMAT:
            raise CammsrError(
                f"{self.path} has run format {content.get('format')}, written by "
                f"{content.get('tool', 'an unknown tool')}; this is cammsr {__version__}, which "
                f"reads format {FORMAT}",
                "Train again with this version: cammsr train",
            )
        try:
            return ModelSpec.model_validate(content)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise self.damaged("config.json", f"{where}: {fault['msg']}") from error

    def config(self) -> Config:
        """The settings the run was started with.

        Raises:
            CammsrError: They cannot be read.
        """
        try:
            sections = read_yaml(self.path / "config.yaml")
            config = validated(sections)
        except UsageError as error:
            raise self.damaged("config.yaml", error.message) from error
        if not sections.get("model") or not sections.get("training"):
            raise self.damaged("config.yaml", "it holds no settings")
        return config

    def item_ids(self) -> list[str]:
        """Ids of the items that have a row in the id table.

        Raises:
            CammsrError: They are not as many as the model has rows.
        """
        ids = self._read("item_ids.json")
        rows = self.spec().num_ids
        if not isinstance(ids, list) or len(ids) != rows or not all(type(i) is str for i in ids):
            raise self.damaged("item_ids.json", f"not a list of {rows} ids")
        return ids

    def _read(self, name: str) -> Any:
        file = self.path / name
        if not file.is_file():
            raise CammsrError(
                f"{self.path} is not a run folder: it has no {name}",
                "Make one with: cammsr train DATA.h5 --out RUN",
            )
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise self.damaged(name, first_line(error)) from error

    def damaged(self, name: str, how: str) -> CammsrError:
        """The error that tells of a damaged file, and of the command that makes it again."""
        return CammsrError(f"{self.path / name} is damaged: {how}", self._again())

    def _again(self) -> str:
        return f"Train again: cammsr train DATA.h5 --out {typed(self.path)} --force"


def training_items(data: DataSet) -> list[int]:
    """Indices of the items with at least one training event: those that get an id row."""
    trained = np.bincount(data.event_item[data.event_part == TRAIN], minlength=1)
    seen: list[int] = np.flatnonzero(trained).tolist()
    return seen


def describe(data: DataSet, config: ModelConfig, preset: str) -> ModelSpec:
    """The spec of a new model for `data`.

    Raises:
        CammsrError: The settings name a modality that the data set does not have.
    """
    chosen = list(data.modalities) if config.modalities is None else config.modalities
    unknown = [name for name in chosen if name not in data.modalities]
    if unknown:
        raise CammsrError(
            f"{data.path} has no modality {', '.join(unknown)}; it has: "
            f"{', '.join(data.modalities) or 'none'}",
            "Set model.modalities to some of those, or prepare the data set with that encoder",
        )
    if not chosen and not config.use_id:
        raise CammsrError("the settings leave the model without id and without any modality")
    return ModelSpec(
        format=FORMAT,
        tool=f"cammsr {__version__}",
        preset=preset,
        data_path=str(data.path.resolve()),
        data_content=data.content,
        feature_dims={name: data.modalities[name].dim for name in chosen},
        fingerprints={name: data.modalities[name].fingerprint for name in chosen},
        category_names=data.category_names,
        num_ids=len(training_items(data)),
        repeat_share=repeat_share(data.event_indptr, data.event_item, data.event_part),
    )


def build_model(spec: ModelSpec, config: ModelConfig) -> Cammsr:
    """A new model with random weights."""
    sizes = config.model_dump(exclude={"modalities"})
    return Cammsr(spec.num_ids, spec.feature_dims, len(spec.category_names), **sizes)


def read_catalogue(data: DataSet, modalities: Mapping[str, int], id_rows: list[str]) -> Catalogue:
    """The items of `data` as tensors, each with its row among `id_rows` or -1."""
    row_of = {item_id: row for row, item_id in enumerate(id_rows)}
    rows = torch.tensor([row_of.get(item_id, -1) for item_id in data.item_ids], dtype=torch.int64)
    features, present = {}, {}
    for name in modalities:
        values, has = data.vectors(name)
        features[name], present[name] = torch.from_numpy(values), torch.from_numpy(has)
    labels = torch.from_numpy(data.category_labels()) if data.category_names else None
    return Catalogue(rows, features, present, labels)


def read_events(data: DataSet, device: torch.device) -> Events:
    """All events of `data` on `device`."""
    return Events(
        torch.from_numpy(data.event_item).to(device),
        torch.from_numpy(data.event_time).to(device),
        torch.from_numpy(data.event_tied).to(device),
        None if data.event_weight is None else torch.from_numpy(data.event_weight).to(device),
    )


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with the data set it is asked about, on one device.

    Attributes:
        spec: What the model was built for.
        model: In evaluation mode.
        data: The data set.
        catalogue: Its items.
        new_items: How many of its items the model has never seen in training, but knows something
            of by their content.
        unknown_items: How many it knows nothing of.
        device: Where all of it lives.
        unchecked: What is to be said of files without checksums, in words.
    """

    spec: ModelSpec
    model: Cammsr
    data: DataSet
    catalogue: Catalogue
    new_items: int
    unknown_items: int
    device: torch.device
    unchecked: list[str]

    @property
    def same_data(self) -> bool:
        """Whether it is the very data set that the model was trained on."""
        return self.data.content == self.spec.data_content

    @property
    def remarks(self) -> list[str]:
        """What cannot be known of the run and of its data set, in words."""
        return self.unchecked + [
            f"the {name} vectors of {self.data.path} come from another file than those of the "
            "training: cammsr cannot tell whether the same model made them"
            for name, fingerprint in self.spec.fingerprints.items()
            if self.data.modalities[name].fingerprint != fingerprint
        ]

    @cached_property
    def events(self) -> Events:
        """All events of the data set, read when first asked for."""
        return read_events(self.data, self.device)


def load_run(folder: RunFolder, data_path: Path | None, device: torch.device) -> LoadedRun:
    """Load a finished run and the data set it was trained on, or a newer one like it.

    A data set with more users, events or items is welcome: items new since training are known by
    their content. One made by other encoders, or of another catalogue, is refused.

    Raises:
        CammsrError: The run is missing, unfinished or damaged, or the data set is another one.
    """
    spec = folder.spec()
    if not folder.finished:
        raise CammsrError(
            f"the training in {folder.path} is not finished: there is no {folder.weights.name}",
            f"Go on with: cammsr train {typed(spec.data_path)} --out {typed(folder.path)} --resume",
        )
    if data_path is None and not Path(spec.data_path).is_file():
        raise CammsrError(
            f"{folder.path} was trained on {spec.data_path}, which is not there any more",
            "If it was moved, say where it is: --data FILE",
        )
    data = DataSet(data_path or Path(spec.data_path))
    unchecked = [*folder.check(), *data.remarks]
    id_rows = folder.item_ids()
    require_matching(data, spec, id_rows, folder.path)
    model = build_model(spec, folder.config().model)
    load_weights(model, folder.weights)
    _require_possible(model, folder)
    model = model.to(device).eval()
    catalogue = read_catalogue(data, spec.feature_dims, id_rows).to(device, features=False)
    catalogue = model.items.beside_neighbours(catalogue)
    new, unknown = int(are_new(catalogue).sum()), unknown_items(catalogue)
    return LoadedRun(
        spec=spec,
        model=model,
        data=data,
        catalogue=catalogue,
        new_items=new,
        unknown_items=0 if unknown is None else len(unknown),
        device=device,
        unchecked=unchecked,
    )


def _require_possible(model: Cammsr, folder: RunFolder) -> None:
    """Refuse weights that no training leaves: without checksums, nothing else tells of damage."""
    rows = model.items.id_table.num_embeddings if model.items.id_table is not None else 0
    for name, value in model.state_dict().items():
        are_rows = (value >= -1) & (value < rows)  # -1 for none
        if not bool((value.isfinite() if value.is_floating_point() else are_rows).all()):
            raise folder.damaged(folder.weights.name, f"{name} holds what no training leaves")


def require_matching(data: DataSet, spec: ModelSpec, id_rows: list[str], run: Path) -> None:
    """Refuse a data set that the model was not trained for."""
    if data.content == spec.data_content:
        return
    use = f"Use the data set it was trained on: --data {typed(spec.data_path)}"
    for name, fingerprint in spec.fingerprints.items():
        found = data.modalities.get(name)
        # A file of ready-made vectors with more items is another file: their owner vouches for it.
        if found is None or (
            found.fingerprint != fingerprint
            and not (_ready_made(fingerprint) and _ready_made(found.fingerprint))
        ):
            made_by = "nothing" if found is None else found.fingerprint
            raise CammsrError(
                f"{run} was trained on another data set: its {name} vectors were made by "
                f"{fingerprint}, those of {data.path} by {made_by}",
                use,
            )
        if found.dim != spec.feature_dims[name]:
            raise CammsrError(
                f"{run} was trained on another data set: its {name} vectors have "
                f"{spec.feature_dims[name]:,} values, those of {data.path} {found.dim:,}",
                use,
            )
    known = len(set(id_rows) & set(data.item_ids))
    if known * 2 < len(id_rows):
        raise CammsrError(
            f"{run} was trained on another data set: only {known:,} of its {len(id_rows):,} items "
            f"are in {data.path}",
            use,
        )


def _ready_made(fingerprint: str) -> bool:
    """Whether vectors came from a file (`features.vectors`), not from an encoder."""
    try:
        told = json.loads(fingerprint)
    except ValueError:
        return False
    return isinstance(told, dict) and told.keys() == {"vectors"}


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a model's state dict as safetensors."""
    state = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with usual_permissions(path):
        save_file(state, path)


def load_weights(model: Cammsr, path: Path) -> None:
    """Read weights written by `write_weights`.

    Raises:
        CammsrError: The file is damaged or belongs to another model.
    """
    try:
        path.open("rb").close()  # says why it cannot be read, which safetensors does not
    except OSError as error:
        raise CammsrError(f"{path} cannot be read: {error.strerror}") from error
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CammsrError(
            f"{path} cannot be loaded into this run's model: {first_line(error)}",
            "Train again: cammsr train",
        ) from error
