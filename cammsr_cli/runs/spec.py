"""The spec of a model: enough to build it again, and to reject data that it was not made for."""

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
"""Least share of repeats among the training targets for which seen items stay in a ranking."""


class ModelSpec(BaseModel):
    """Spec of a model: enough to build it again, and to reject data that it was not made for.

    Attributes:
        format: Version of the run folder's format.
        tool: Version of cammsr that wrote it.
        preset: Name of the preset of its settings.
        data_path: Absolute path of the data set it was trained on.
        data_content: That data set's content digest.
        feature_dims: Modality to vector size, in the order of the model's streams.
        fingerprints: Modality to the fingerprint of the encoder or file of its vectors.
        category_names: The categories that it predicts.
        num_ids: Number of rows of the id table.
        repeat_share: Share of the training targets that are already in their user's history.
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
        """Whether users consume items repeatedly, so that seen items should be recommended."""
        return self.repeat_share >= REPEATS_FROM


def training_items(data: DataSet) -> list[int]:
    """Indices of the items with at least one training event; these get a row in the id table."""
    trained = np.bincount(data.event_item[data.event_part == TRAIN], minlength=1)
    seen: list[int] = np.flatnonzero(trained).tolist()
    return seen


def describe(data: DataSet, config: ModelConfig, preset: str) -> ModelSpec:
    """Make the spec of a new model for `data`.

    Raises:
        CammsrError: The settings name a modality that the data set does not have, or leave the
            model without any stream.
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
    """Build a model with newly initialised weights."""
    sizes = config.model_dump(exclude={"modalities"})
    return Cammsr(
        spec.num_ids,
        spec.feature_dims,
        len(spec.category_names),
        separate_bias=not spec.repeats,
        **sizes,
    )
