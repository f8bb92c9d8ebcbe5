"""The run folder: written by `train`, read by `evaluate` and `recommend`.

config.yaml        all settings, resolved
config.json        the model's spec, from which the model is built again
item_ids.json      the items with a row in the id table, in order
metrics.jsonl      one line per epoch
checkpoints/       step-N/: weights, optimiser, random state
README.md          model card
SHA256SUMS         digests of the files that recommendations depend on: config.json, config.yaml,
item_ids.json, model.safetensors
model.safetensors  the best weights; written last, so a run that has it is finished
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)
from torch import Tensor

from cammsr_cli import __version__
from cammsr_cli.config import Config, read_yaml, validated
from cammsr_cli.errors import CammsrError, UsageError, first_line, typed
from cammsr_cli.files import (
    CHECKSUMS,
    RESUMABLE,
    changed_since,
    refusals_named,
    write_checksums,
    written_whole,
)
from cammsr_cli.runs.spec import FORMAT, ModelSpec
from cammsr_cli.runs.weights import write_weights

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
    "item_ids.json",  # removed last: it marks the folder as a run
)


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
        """File of the best weights; it exists once training is finished."""
        return self.path / _WEIGHTS

    @property
    def metrics(self) -> Path:
        """File with one JSON line per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def exists(self) -> bool:
        """Whether a run was started here. A config.json alone may belong to something else."""
        return (self.path / "item_ids.json").is_file()

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return self.weights.is_file()

    def clear(self) -> None:
        """Remove the files of an earlier run; other files in the folder are kept."""
        for name in _WRITTEN:
            path = self.path / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def begin(self, config: Config, spec: ModelSpec, item_ids: list[str]) -> None:
        """Write the files that are known before training."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_text("item_ids.json", json.dumps(item_ids, ensure_ascii=False))
        self.write_text("config.yaml", yaml.safe_dump(config.model_dump(), sort_keys=False))
        self.write_text("config.json", spec.model_dump_json(indent=2))
        with refusals_named(self.path):
            write_checksums(self.path, {name: self.path / name for name in _SETTINGS})

    def finish(self, weights: Mapping[str, Tensor]) -> None:
        """Write the best weights and the checksums; the run is then finished."""
        with refusals_named(self.path, RESUMABLE), written_whole(self.weights) as partial:
            write_weights(weights, partial)
            files = {name: self.path / name for name in _SETTINGS}
            write_checksums(self.path, {**files, _WEIGHTS: partial})

    def check(self) -> list[str]:
        """Compare the files that recommendations depend on with their checksums.

        Returns:
            Notes for the user: one if an older cammsr wrote no checksums.

        Raises:
            CammsrError: A file is damaged.
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
        """Write one of the folder's text files atomically."""
        with refusals_named(self.path), written_whole(self.path / name) as partial:
            partial.write_text(text, encoding="utf-8")

    def spec(self) -> ModelSpec:
        """Read the model's spec.

        Raises:
            CammsrError: The folder is not a run folder, has another format, or is damaged.
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
        """Read the settings with which the run was started.

        Raises:
            CammsrError: The settings cannot be read.
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
        """Read the ids of the items that have a row in the id table.

        Raises:
            CammsrError: Their number is not the model's number of rows, or they are not strings.
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
        """Make the error for a damaged file, with the command that creates it again."""
        return CammsrError(f"{self.path / name} is damaged: {how}", self._again())

    def _again(self) -> str:
        return f"Train again: cammsr train DATA.h5 --out {typed(self.path)} --force"
