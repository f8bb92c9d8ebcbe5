"""Settings of the model and its training: their names, defaults, limits and help texts.

Precedence: preset < config file < environment (`CAMMSR_MODEL__WIDTH=128`) < command line
(`--set model.width=128`). The resolved settings are saved with every run as `config.yaml`.

This file has more than 400 lines, so that every setting stands in one place with its help.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from cammsr_cli.errors import UsageError, closest, first_line

PREFIX = "CAMMSR_"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Settings):
    """The model's parts and sizes; the names are those of `core.model.Cammsr`."""

    use_id: bool = Field(True, description="Give items an id stream beside their content.")
    content_init: bool = Field(
        True,
        description="Let ids begin at the main directions of the content, and not at random.",
    )
    neighbours: int = Field(
        10,
        ge=0,
        description="Items of like content whose ids' mean is added to each id; 0 for none, as "
        "above training.sparse_adam_above.",
    )
    fused: bool = Field(
        True,
        description="Have two branches, each with its Transformer: the ids, and the sum of all "
        "streams; otherwise each stream is a branch.",
    )
    modalities: list[str] | None = Field(
        None, description="Modalities to use, as [text,image]; all that there are, if not given."
    )
    width: int | None = Field(
        None, ge=8, description="Width of all vectors; by the number of events, if not given."
    )
    layers: int = Field(2, ge=1, description="Transformer blocks a branch.")
    heads: int | None = Field(
        None, ge=1, description="Attention heads a block; must divide width; 2, if not given."
    )
    length: int | None = Field(
        None,
        ge=2,
        description="Longest history the model looks at, in events; by the mean history, if not "
        "given.",
    )
    dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Dropout rate of Transformers and experts; by the events an item, if not set.",
    )
    id_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of items whose id is hidden in a training step; from the "
        "branch of all streams alone, if fused.",
    )
    embedding_scale: bool = Field(
        True,
        description="Multiply a history's items by a learnt factor that begins at the square "
        "root of the width.",
    )
    input_norm: Literal["dyt", "layernorm", "none"] = Field(
        "none", description="Normalisation before the Transformers."
    )
    fused_norm: Literal["dyt", "layernorm"] = Field(
        "dyt",
        description="Normalisation within the Transformer of all streams; the ids' has LayerNorm.",
    )
    time_gaps: bool = Field(
        True,
        description="Use the time between events; in the branch of all streams alone, if fused.",
    )
    relative_positions: bool = Field(
        True, description="Let attention learn a bias for each distance back in the history."
    )
    experts: int = Field(0, ge=0, description="Experts a stream; 0 for none.")
    expert_hidden: float = Field(
        0.5, gt=0, le=16, description="Hidden values of an expert, as a multiple of the width."
    )
    expert_inputs: Literal["all", "own"] = Field(
        "all",
        description="What an expert reads: all streams side by side, or its own alone.",
    )
    router: Literal["attention", "linear"] = Field(
        "attention", description="How gates are found: by attention over the history, or linearly."
    )
    normalise_gates: bool = Field(
        False, description="Make the gates of a stream's experts sum to 1, by a softmax."
    )
    guidance: Literal["difference", "accuracy", "equal"] = Field(
        "accuracy",
        description="Weight of a stream's experts: by how badly it predicts the true categories, "
        "as the paper prints; by how well, as its text says; or alike.",
    )
    item_weights: bool = Field(
        True,
        description="Let predicted categories weigh the streams of the items that are scored.",
    )
    repeats: bool = Field(
        True,
        description="Learn a bias for scores of items of the history, by how long ago.",
    )

    @field_validator("modalities")
    @classmethod
    def _once_each(cls, modalities: list[str] | None) -> list[str] | None:
        if modalities is not None and len(set(modalities)) < len(modalities):
            raise ValueError("a modality is named twice")
        return modalities

    @field_validator("heads")
    @classmethod
    def _divides_width(cls, heads: int | None, info: ValidationInfo) -> int | None:
        width = info.data.get("width")  # absent if it is itself invalid
        if heads and width and width % heads:
            raise ValueError(f"model.width {width} is not a multiple of it")
        return heads


class TrainingConfig(_Settings):
    """How the model is trained."""

    epochs: int = Field(200, ge=1, description="Most passes over the training events.")
    patience: int = Field(
        15, ge=1, description="Epochs without a better validation NDCG@10 before stopping."
    )
    batch_size: int = Field(
        0,
        ge=0,
        description="Histories a step, over all devices; 0 for the most of 512, 256, 128, 64 and "
        "32 that leave 40 steps an epoch and have no more than 6,400 events.",
    )
    micro_batch: int = Field(
        0,
        ge=0,
        description="Histories a device holds at once; 0 for all of its share. A step's gradient "
        "is gathered over as many goes as it takes.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of matrix products; auto is bfloat16 on GPUs and CPUs made for it."
    )
    sampled_softmax_above: int = Field(
        8192,
        ge=0,
        description="Catalogue size above which a step tells its targets from a sample of the "
        "items, and no longer from all.",
    )
    negatives: int = Field(
        4096,
        ge=2,
        description="Items drawn for that sample: half evenly, half from the step's own targets.",
    )
    sparse_adam_above: int = Field(
        100_000,
        ge=0,
        description="Catalogue size above which a step that sees a sample moves the ids it meets "
        "and no others, and reads features from the file as it needs them.",
    )
    validation_users: int = Field(
        20_000, ge=1, description="Most users that validation asks about; the same ones each time."
    )
    checkpoint_minutes: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="Minutes between checkpoints in an epoch."
    )
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False, description="Adam's step size.")
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="AdamW's weight decay.")
    ema_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay a step of the moving average of the weights, which is what is kept; "
        "0 keeps the last weights.",
    )
    clip_norm: float = Field(
        5.0, gt=0, allow_inf_nan=False, description="Largest norm of the gradient."
    )
    shuffle_ties: bool = Field(
        True, description="Deal events of one user at one time anew each epoch."
    )
    category_weight: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="Weight of the category loss."
    )
    branch_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the loss that is the branches' mean cross-entropy, each by its score "
        "alone; the rest is that of the summed score.",
    )
    swap_weight: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Weight of the modality-swap loss."
    )
    swap_pairs: list[str] | None = Field(
        None, description="Streams that trade places, as [text-image]; every two, if not given."
    )
    swap_rate: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Probability of two streams trading places at a position.",
    )
    swap_temperature: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="Temperature of the swap loss."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints kept.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random number.")
    deterministic: bool = Field(
        False,
        description="On a GPU, compute such that a training can be repeated to the bit, by slower "
        "sums; on a CPU it always can.",
    )


class Config(_Settings):
    """All settings of a run."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "cammsr": {},
    "paper": {
        "model": {
            "fused": False,
            "content_init": False,
            "neighbours": 0,
            "width": 64,
            "length": 50,
            "id_dropout": 0.0,
            "input_norm": "dyt",
            "time_gaps": False,
            "relative_positions": False,
            "experts": 4,
            "expert_hidden": 4.0,
            "item_weights": False,
            "repeats": False,
        },
        "training": {"branch_share": 0.0, "swap_weight": 0.25},
    },
    "sasrec": {
        "model": {
            "modalities": [],
            "time_gaps": False,
            "relative_positions": False,
            "id_dropout": 0.0,
            "item_weights": False,
            "repeats": False,
        },
        "training": {"category_weight": 0.0},
    },
}
"""Named base settings. `cammsr` has the best known settings; `paper` is the model as published;
`sasrec` uses only the id stream, and is the baseline for both."""


def resolve(
    preset: str = "cammsr",
    file: Path | None = None,
    assignments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Merge the settings of all four sources; later sources override earlier ones.

    Args:
        preset: A name in `PRESETS`.
        file: YAML with sections `model` and `training`.
        assignments: "section.key=value" from the command line.
        environment: Variables `CAMMSR_SECTION__KEY`; the environment of this process if None.

    Raises:
        UsageError: An unknown preset, key or value; all errors are reported together.
    """
    faults = [] if preset in PRESETS else [_unknown_preset(preset)]
    layers = [PRESETS.get(preset, {})]
    if file is not None:
        try:
            layers.append(read_yaml(file))
        except UsageError as error:
            faults.append(error.message)
    variables = os.environ if environment is None else environment
    of_environment = [
        f"{name.removeprefix(PREFIX).replace('__', '.', 1).lower()}={value}"
        for name, value in sorted(variables.items())
        if name.startswith(PREFIX) and "__" in name
    ]
    layers += [_assigned(of_environment, faults), _assigned(assignments, faults)]
    merged: dict[str, dict[str, Any]] = {"model": {}, "training": {}}
    for layer in layers:
        for section, values in layer.items():
            merged.setdefault(section, {}).update(values)
    return validated(merged, faults)


def validated(values: Mapping[str, Any], faults: Sequence[str] = ()) -> Config:
    """Return a validated `Config`; raise UsageError with all errors, including `faults`."""
    found = list(faults)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        found += [fault for item in error.errors() for fault in _faults(dict(item))]
    if not found:
        return config
    faults_found = (
        found[0] if len(found) == 1 else f"{len(found)} mistakes\n  " + "\n  ".join(found)
    )
    raise UsageError(f"settings: {faults_found}", "See them all with: cammsr train --list-settings")


def read_yaml(file: Path) -> dict[str, dict[str, Any]]:
    """Return the sections of a config file."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the config file {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not YAML: {first_line(error)}") from error
    sections = {} if content is None else content
    if isinstance(sections, dict):
        sections = {name: {} if values is None else values for name, values in sections.items()}
    if not isinstance(sections, dict) or not all(isinstance(v, dict) for v in sections.values()):
        raise UsageError(f"{file} must hold the sections 'model:' and 'training:'")
    return sections


def described() -> list[tuple[str, str, str]]:
    """Return every setting as (name, default, help), for `--help` and the docs."""
    sections: list[tuple[str, type[_Settings]]] = [
        ("model", ModelConfig),
        ("training", TrainingConfig),
    ]
    return [
        (f"{section}.{name}", str(field.default), field.description or "")
        for section, settings in sections
        for name, field in settings.model_fields.items()
    ]


def _assigned(assignments: Sequence[str], faults: list[str]) -> dict[str, dict[str, Any]]:
    """Parse assignments into sections; add those that cannot be parsed to `faults`."""
    result: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        section, dot, key = name.partition(".")
        if not equals or not dot or not key:
            faults.append(
                f"cannot read the setting '{assignment}'; write section.key=value, "
                f"for example {_near(name) or 'model.width'}={value or 128}"
            )
            continue
        try:
            result.setdefault(section, {})[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            faults.append(f"cannot read the value of the setting '{assignment}'")
    return result


def _unknown_preset(name: str) -> str:
    near = closest(name, PRESETS, 1)
    advice = f" (did you mean {near[0]}?)" if near else ""
    return f"unknown preset '{name}'{advice}; there are: {', '.join(PRESETS)}"


def _faults(error: dict[str, Any]) -> list[str]:
    """Return the messages for one pydantic error; for an unknown section, one per setting."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return [f"{name} = {error['input']!r}: {error['msg'].removeprefix('Value error, ')}"]
    if len(error["loc"]) == 1 and isinstance(error["input"], dict) and error["input"]:
        return [_unknown(f"{name}.{key}") for key in error["input"]]
    return [_unknown(name)]


def _unknown(name: str) -> str:
    near = _near(name)
    advice = f"did you mean {near}?" if near else "settings begin with model. or training."
    return f"there is no setting '{name}' ({advice})"


def _near(name: str) -> str | None:
    """Return the setting with the most similar key; ignore the section, which may be wrong."""
    key = name.rpartition(".")[2]
    full = {known.partition(".")[2]: known for known, _, _ in described()}
    near = closest(key, full, 1)
    return full[near[0]] if near else None
