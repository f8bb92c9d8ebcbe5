"""The item encoder: the streams of items, one for the id and one for each modality.

Axes: N items, S streams, P parts (of a stream in a branch), D width, B some of the items, K items
with an id and content, J neighbours of an item, R rows of the id table, I id parts, X = I D,
C categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.model.catalogue_tensors import Catalogue, Met, are_new, has_content, known_items
from cammsr_cli.model.device_kernels import COSINES_AT_ONCE, most_on
from cammsr_cli.model.feature_projection import (
    MEASURED_ROWS,
    ContentInitialisation,
    FeatureProjection,
)
from cammsr_cli.model.layers import rows_of_table

ID = "id"
"""Name of the stream of the item's own embedding."""


class Part(NamedTuple):
    """A stream within a branch.

    Attributes:
        branch: Index of the branch.
        stream: Index of the stream.
    """

    branch: int
    stream: int


class ItemParts(NamedTuple):
    """The streams of N items, in each branch that contains them.

    Attributes:
        x_PND: Vector of each item in each part; the part's learnt vector if it is missing.
        present_NS: Whether each item has each stream; True for all if it has none.
    """

    x_PND: Tensor
    present_NS: Tensor


class ItemEncoder(nn.Module):
    """Encodes items as streams.

    A modality's frozen features are standardised and projected (equation 4 of the paper). For ids,
    one embedding per item is published; the rest is ours: neighbours, content initialisation, a
    second embedding for the fused branch, and hidden ids. docs/method.md has the equations.

    A branch is the input of one Transformer: a single stream, as published, or a sum of several.
    With `fused`, the ids are one branch, and the sum of all streams is another, with its own ids.

    Args:
        num_ids: Rows of the id table (items seen in training).
        feature_dims: Modality to the size of its prepared vectors, in the order of the streams.
        use_id: Whether items have an id stream.
        width: D.
        content_init: Whether ids are initialised by the principal components of the content.
        neighbours: Number of items with similar content whose mean id is added to each id; 0 for
            none.
        fused: Whether there are two branches: the ids, and the sum of all streams. Otherwise each
            stream is a branch.
        id_dropout: Share of items whose id is hidden in a training step, so that the model learns
            to use content. With `fused`, only the branch of all streams hides ids.
    """

    def __init__(
        self,
        num_ids: int,
        feature_dims: Mapping[str, int],
        *,
        use_id: bool,
        width: int,
        content_init: bool,
        neighbours: int,
        fused: bool,
        id_dropout: float,
    ) -> None:
        super().__init__()
        if not use_id and not feature_dims:
            raise ValueError("the model needs at least one stream: the id or a modality")
        self.modalities = tuple(feature_dims)
        self.streams = ((ID,) if use_id else ()) + self.modalities
        self.width, self.id_dropout = width, id_dropout
        both = use_id and bool(self.modalities)
        self.parts = _parts(len(self.streams), fused, both)
        id_parts = 2 if both and fused else 1
        self.id_table = nn.Embedding(max(num_ids, 1), id_parts * width) if use_id else None
        if self.id_table is not None:
            nn.init.normal_(self.id_table.weight, std=0.02)
        self.projections = nn.ModuleList(
            FeatureProjection(dim, width) for dim in feature_dims.values()
        )
        self.missing_SD = nn.Parameter(torch.randn(len(self.streams), width) * 0.02)
        self.content_init = (
            ContentInitialisation(sum(feature_dims.values()), width)
            if both and content_init
            else None
        )
        self.near_RJ: Tensor | None
        if not both or not neighbours:
            self.near_RJ = None
        else:
            none_RJ = torch.full((max(num_ids, 1), neighbours), -1)
            self.register_buffer("near_RJ", none_RJ)

    @torch.no_grad()
    def measure(self, catalogue: Catalogue) -> None:
        """Compute each modality's column statistics, the ids' neighbours and their initial values.

        Call it once, for a new model, on its training catalogue. The statistics use the items that
        have the modality.
        """
        for name, projection in self._projections():
            projection.measure(catalogue.features[name], catalogue.present[name])
        item_K = known_items(catalogue)
        if self.near_RJ is not None:
            self.near_RJ[catalogue.id_row_N[item_K]] = self._nearest(catalogue, item_K)
        if self.content_init is None or self.id_table is None:
            return
        stride = max(1, -(-len(item_K) // MEASURED_ROWS))
        self.content_init.measure(self._content(catalogue, item_K[::stride]))
        for item_B in torch.split(item_K, MEASURED_ROWS):
            initial_BD = self.content_init(self._content(catalogue, item_B))
            self.id_table.weight[catalogue.id_row_N[item_B], : self.width] += initial_BD

    @torch.no_grad()
    def beside_neighbours(self, catalogue: Catalogue) -> Catalogue:
        """The catalogue with neighbours for its new items, found among the items with an id."""
        if self.near_RJ is None:
            return catalogue
        item_B = are_new(catalogue).nonzero().squeeze(1)
        if not len(item_B):
            return catalogue
        near_NJ = self._neighbours(catalogue).clone()
        near_NJ[item_B] = self._nearest(catalogue, item_B)
        return replace(catalogue, near_NJ=near_NJ)

    @torch.no_grad()
    def standardised(self, catalogue: Catalogue, dtype: torch.dtype) -> Catalogue:
        """The catalogue with standardised features in `dtype` (missing ones are 0) and initial ids.

        Both are the same for all steps, so they need not be computed at each step.
        """
        features = {}
        for name, projection in self._projections():
            parts = zip(
                torch.split(catalogue.features[name], MEASURED_ROWS),
                torch.split(catalogue.present[name], MEASURED_ROWS),
                strict=True,
            )
            features[name] = torch.cat(
                [
                    projection.standardise(values)
                    .to(dtype)
                    .where(there[:, None].to(values.device), 0)
                    for values, there in parts
                ]
            )
        catalogue = replace(catalogue, features=features, standardised=True)
        if self.content_init is None:
            return catalogue
        every_N = torch.arange(len(catalogue.id_row_N), device=catalogue.id_row_N.device)
        initial = [
            self.content_init(self._content(catalogue, item_B))
            for item_B in torch.split(every_N, MEASURED_ROWS)
        ]
        return replace(catalogue, initial_ND=torch.cat(initial))

    @property
    def branches(self) -> int:
        """Number of branches."""
        return self.parts[-1].branch + 1

    def forward(self, catalogue: Catalogue) -> ItemParts:
        """Compute the streams of N items, in the order of `parts`.

        A missing stream has its learnt vector. An item without any stream is represented by the
        learnt vectors only. The mean id of an item's neighbours is added to its id. If an item has
        no id, or its id is hidden, its initial value from content replaces the id; its neighbours
        are still added.
        """
        values: list[Tensor] = []
        present: list[Tensor] = []
        if self.id_table is not None:
            values, has_id_N = self._ids(catalogue)
            present.append(has_id_N)
        for name, projection in self._projections():
            there_N = catalogue.present[name]
            features = catalogue.features[name]
            if not catalogue.standardised:  # stored values of missing vectors may be arbitrary
                features = features.where(there_N[:, None], 0.0)
            x_ND = projection(features, catalogue.standardised)
            values.append(torch.where(there_N[:, None], x_ND, self.missing_SD[len(present)]))
            present.append(there_N)
        present_NS = torch.stack(present, dim=1)
        return ItemParts(torch.stack(values), present_NS | ~present_NS.any(1, keepdim=True))

    def projected(self, modality: str, features: Tensor) -> Tensor:
        """Project vectors of a modality to its stream: [N, dim] to [N, D]."""
        return dict(self._projections())[modality](features)  # type: ignore[no-any-return]

    def _ids(self, catalogue: Catalogue) -> tuple[list[Tensor], Tensor]:
        """Id vectors for each id part [N, D], and whether each item has one."""
        own_NX, near_NX, known_N = self._rows_and_neighbours(catalogue)
        with_id_N = has_id_N = catalogue.id_row_N >= 0
        content_N = has_content(catalogue)
        shown_N = has_id_N
        if self.training and self.id_dropout and self.modalities:
            kept_N = torch.rand(len(has_id_N), device=has_id_N.device) >= self.id_dropout
            shown_N = has_id_N & (kept_N | ~content_N)
        own_ND, *others = torch.split(own_NX, self.width, dim=1)
        if not others:  # with several branches, ids are hidden from the fused branch only
            has_id_N = shown_N
        own_ND = torch.where(has_id_N[:, None], own_ND, self.missing_SD[0])
        if self.content_init is not None:
            own_ND = self._initialised(
                catalogue, own_ND, content_N & ~has_id_N, has_id_N is not with_id_N
            )
            known_N = content_N if known_N is None else known_N | content_N
        parts = [own_ND, *(torch.where(shown_N[:, None], other, 0.0) for other in others)]
        if near_NX is not None:
            near = torch.split(near_NX, self.width, dim=1)
            parts = [part + mean for part, mean in zip(parts, near, strict=True)]
        return parts, has_id_N if known_N is None else has_id_N | known_N

    def _initialised(
        self, catalogue: Catalogue, own_ND: Tensor, begins_N: Tensor, drawn: bool
    ) -> Tensor:
        """Replace the id vectors of some items by their initial values from content.

        Args:
            catalogue: The items.
            own_ND: Their id vectors.
            begins_N: bool, the items whose id vectors are replaced.
            drawn: Whether `begins_N` depends on random draws. Otherwise the host may know it in
                advance.
        """
        assert self.content_init is not None
        if catalogue.initial_ND is not None:
            return torch.where(begins_N[:, None], catalogue.initial_ND, own_ND)
        if catalogue.met is None or drawn:
            item_B = begins_N.nonzero().squeeze(1)
        else:
            item_B = catalogue.met.new_B
        initial_BD = self.content_init(self._content(catalogue, item_B)).to(own_ND)
        return own_ND.index_copy(0, item_B, initial_BD)

    def _rows_and_neighbours(
        self, catalogue: Catalogue
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The items' rows of the id table, the mean of their neighbours' rows, and who has any.

        The last two are None if the model uses no neighbours.
        """
        assert self.id_table is not None
        row_N = catalogue.id_row_N.clamp(min=0)
        if self.near_RJ is None:
            return self._rows(row_N, catalogue.met), None, None
        near_NJ = self._neighbours(catalogue)
        items, most = near_NJ.shape
        there_NJ = near_NJ >= 0
        share_NJ = there_NJ.float() / there_NJ.sum(1, keepdim=True).clamp(min=1)
        # Two bags per item: its own row and its neighbours' rows. So there is only one lookup,
        # whose gradient is as large as the table.
        at_N = torch.arange(items, device=row_N.device)
        own_NX, near_NX = functional.embedding_bag(
            torch.cat([row_N, near_NJ.clamp(min=0).flatten()]),
            self.id_table.weight,
            torch.cat([at_N, items + most * at_N]),
            mode="sum",
            per_sample_weights=torch.cat([torch.ones_like(share_NJ[:, 0]), share_NJ.flatten()]),
        ).chunk(2)
        return own_NX, near_NX, there_NJ.any(1)

    def _rows(self, row_N: Tensor, met: Met | None) -> Tensor:
        """Look up rows of the id table."""
        assert self.id_table is not None
        if met is None or not self.id_table.sparse:
            own_NX: Tensor = self.id_table(row_N)
            return own_NX
        return rows_of_table(self.id_table.weight, row_N, met.row_K, met.place_U)

    def _neighbours(self, catalogue: Catalogue) -> Tensor:
        """The neighbours given by the catalogue, or otherwise those found by `measure`."""
        assert self.near_RJ is not None
        if catalogue.near_NJ is not None:
            return catalogue.near_NJ
        has_id_N1 = catalogue.id_row_N[:, None] >= 0
        return self.near_RJ[catalogue.id_row_N.clamp(min=0)].where(has_id_N1, -1)

    def _nearest(self, catalogue: Catalogue, item_B: Tensor) -> Tensor:
        """Id rows of the nearest items by cosine of content, [B, J]; -1 if there are too few.

        Only items with an id and content can be neighbours. An item is not a neighbour of itself.
        """
        assert self.near_RJ is not None
        item_K = known_items(catalogue)
        most = min(self.near_RJ.shape[1], len(item_K))
        near_BJ = self.near_RJ.new_full((len(item_B), self.near_RJ.shape[1]), -1)
        if not most:
            return near_BJ
        content_KX = functional.normalize(self._content(catalogue, item_K), dim=1)
        at_once = max(1, most_on(item_K.device, COSINES_AT_ONCE) // len(item_K))
        for first in range(0, len(item_B), at_once):
            rows = slice(first, first + at_once)
            content_bX = functional.normalize(self._content(catalogue, item_B[rows]), dim=1)
            cosine_bK = content_bX @ content_KX.T
            cosine_bK.masked_fill_(item_B[rows, None] == item_K, float("-inf"))
            cosine_bJ, place_bJ = cosine_bK.topk(most, dim=1)
            row_bJ = catalogue.id_row_N[item_K][place_bJ]
            near_BJ[rows, :most] = row_bJ.masked_fill(cosine_bJ.isneginf(), -1)
        return near_BJ

    def _content(self, catalogue: Catalogue, item_B: Tensor) -> Tensor:
        """Concatenated features of some items, float32; zeros for missing modalities."""
        part = catalogue.take(item_B)
        values = []
        for name, projection in self._projections():
            value = part.features[name]
            if not part.standardised:
                value = projection.standardise(value)
            values.append(value.float().where(part.present[name][:, None], 0.0))
        return torch.cat(values, dim=1)

    def _projections(self) -> list[tuple[str, FeatureProjection]]:
        """Each modality's name and projection."""
        return [
            (name, projection)
            for name, projection in zip(self.modalities, self.projections, strict=True)
            if isinstance(projection, FeatureProjection)
        ]


def _parts(streams: int, fused: bool, both: bool) -> tuple[Part, ...]:
    """The parts, branch by branch; `both`: whether there are both ids and content."""
    if not fused:
        return tuple(Part(stream, stream) for stream in range(streams))
    together = tuple(Part(int(both), stream) for stream in range(streams))
    return (Part(0, 0), *together) if both else together
