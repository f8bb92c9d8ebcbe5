"""Loading a trained model together with a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from cammsr_cli.data.dataset import DataSet
from cammsr_cli.errors import CammsrError, typed
from cammsr_cli.model.cammsr import Cammsr
from cammsr_cli.model.catalogue_tensors import Catalogue, are_new, unknown_items
from cammsr_cli.model.history_windows import Events
from cammsr_cli.runs.folder import RunFolder
from cammsr_cli.runs.spec import ModelSpec, build_model
from cammsr_cli.runs.weights import load_weights


def read_catalogue(data: DataSet, modalities: Mapping[str, int], id_rows: list[str]) -> Catalogue:
    """Read the items of `data` as tensors, each with its row in `id_rows`, or -1."""
    row_of = {item_id: row for row, item_id in enumerate(id_rows)}
    rows = torch.tensor([row_of.get(item_id, -1) for item_id in data.item_ids], dtype=torch.int64)
    features, present = {}, {}
    for name in modalities:
        values, has = data.vectors(name)
        features[name], present[name] = torch.from_numpy(values), torch.from_numpy(has)
    labels = torch.from_numpy(data.category_labels()) if data.category_names else None
    return Catalogue(rows, features, present, labels)


def read_events(data: DataSet, device: torch.device) -> Events:
    """Read all events of `data` to `device`."""
    return Events(
        torch.from_numpy(data.event_item).to(device),
        torch.from_numpy(data.event_time).to(device),
        torch.from_numpy(data.event_tied).to(device),
        None if data.event_weight is None else torch.from_numpy(data.event_weight).to(device),
    )


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with a data set, on one device.

    Attributes:
        spec: The model's spec.
        model: The model, in evaluation mode.
        data: The data set.
        catalogue: The data set's items.
        new_items: Number of items that were not in training but have content.
        unknown_items: Number of items that were not in training and have no content.
        device: Device of the model and the data.
        unchecked: Notes about files without checksums, and about the data set.
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
        """Whether it is exactly the data set that the model was trained on."""
        return self.data.content == self.spec.data_content

    @property
    def remarks(self) -> list[str]:
        """Notes for the user about what could not be verified of the run and its data set."""
        return self.unchecked + [
            f"the {name} vectors of {self.data.path} come from another file than those of the "
            "training: cammsr cannot tell whether the same model made them"
            for name, fingerprint in self.spec.fingerprints.items()
            if self.data.modalities[name].fingerprint != fingerprint
        ]

    @cached_property
    def events(self) -> Events:
        """All events of the data set, read on first access."""
        return read_events(self.data, self.device)


def load_run(folder: RunFolder, data_path: Path | None, device: torch.device) -> LoadedRun:
    """Load a finished run and the data set it was trained on, or a newer version of it.

    The data set may have more users, events or items: items that are new since training are known
    by their content. A data set made by other encoders, or of another catalogue, raises an error.

    Raises:
        CammsrError: The run is missing, unfinished or damaged, or the data set does not match.
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
    """Raise an error for impossible weights: the only check for damage without checksums."""
    rows = model.items.id_table.num_embeddings if model.items.id_table is not None else 0
    for name, value in model.state_dict().items():
        are_rows = (value >= -1) & (value < rows)  # -1 for none
        if not bool((value.isfinite() if value.is_floating_point() else are_rows).all()):
            raise folder.damaged(folder.weights.name, f"{name} holds what no training leaves")


def require_matching(data: DataSet, spec: ModelSpec, id_rows: list[str], run: Path) -> None:
    """Raise an error if a data set does not match the one that the model was trained on.

    Raises:
        CammsrError: Its vectors were made by another encoder, or most items are missing from it.
    """
    if data.content == spec.data_content:
        return
    use = f"Use the data set it was trained on: --data {typed(spec.data_path)}"
    for name, fingerprint in spec.fingerprints.items():
        found = data.modalities.get(name)
        # A file of ready-made vectors changes when items are added: the user is responsible for it.
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
    """Whether vectors were imported from a file (`features.vectors`), not made by an encoder."""
    try:
        content = json.loads(fingerprint)
    except ValueError:
        return False
    return isinstance(content, dict) and content.keys() == {"vectors"}
