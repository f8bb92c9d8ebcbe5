"""What a model is built for and of: enough to build it again, and to refuse what it is not for."""

from __future__ import annotations

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
)

from cammsr_cli import __version__
from cammsr_cli.config import ModelConfig
from cammsr_cli.data.dataset import DataSet
from cammsr_cli.data.splits import TRAIN, repeat_share
from cammsr_cli.errors import CammsrError
from cammsr_cli.model.cammsr import Cammsr

FORMAT = 8

REPEATS_FROM = 0.01
"""Share of repeats among the training targets from which on seen items stay in a ranking."""


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
    return Cammsr(
        spec.num_ids,
        spec.feature_dims,
        len(spec.category_names),
        separate_bias=not spec.repeats,
        **sizes,
    )
