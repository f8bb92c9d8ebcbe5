"""The CAMMSR model: items to tables, histories to user states, both to scores.

Axes: N items, M modalities, S streams, K representations (streams, then pairs), D width,
V score width (all blocks of the score, end to end), B users, L positions, C categories,
J neighbours of an item, R readers of a history (the ids' own, then that of the fused items).

Method: Xu et al., "CAMMSR: Category-Guided Attentive Mixture of Experts for Multimodal
Sequential Recommendation", ICDE 2026, arXiv 2603.04320; the equations used here, and where they
depart, are in docs/model.md. With the id stream alone the same code is SASRec (Kang and McAuley,
ICDM 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.core.camoe import Camoe, Fused, for_products
from cammsr_cli.core.layers import Norm
from cammsr_cli.core.sequence import SequenceEncoder
from cammsr_cli.core.windows import Window

ID = "id"
"""Name of the stream that is the item's own embedding."""

MEASURED_ROWS = 2**15
"""Most items whose features are looked at for their mean and deviation, evenly spread."""

COSINES_AT_ONCE = 2**21
"""Cosines between items that exist at one time."""


@dataclass(frozen=True)
class Catalogue:
    """What the model is told of N items.

    Attributes:
        id_row_N: int64 row of the id table, -1 for an item that has none (new since training).
        features: Modality to float [N, dim].
        present: Modality to bool [N].
        standardised: Whether the features have been through `Cammsr.standardised`.
        near_NJ: int64 rows of the id table, those of each item's neighbours, -1 for none; if not
            given, items with an id have those found by `Cammsr.measure`, and others none.
    """

    id_row_N: Tensor
    features: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    standardised: bool = False
    near_NJ: Tensor | None = None

    def to(self, device: torch.device, features: bool = True) -> Catalogue:
        """The same catalogue on `device`; without `features`, those stay where they are."""
        return Catalogue(
            self.id_row_N.to(device),
            {m: f.to(device) if features else f for m, f in self.features.items()},
            {m: p.to(device) for m, p in self.present.items()},
            self.standardised,
            None if self.near_NJ is None else self.near_NJ.to(device),
        )

    def take(self, item_U: Tensor, features: bool = True) -> Catalogue:
        """The items `item_U` alone; features come from wherever they lie to `item_U`'s device.

        Without `features` there are none of those.
        """
        device = item_U.device
        wanted = self.features if features else {}
        return Catalogue(
            self.id_row_N[item_U],
            {m: f[item_U.to(f.device)].to(device) for m, f in wanted.items()},
            {m: p[item_U] for m, p in self.present.items()},
            self.standardised,
            None if self.near_NJ is None else self.near_NJ[item_U],
        )


class Ids(NamedTuple):
    """What the id table says of N items.

    Attributes:
        own_ND: Their ids, to be fused with content; meaningless where an item has none.
        near_ND: Mean of their neighbours' ids; zeros where there are none.
        has_near_N: Whether there are any.
        alone_ND: The items as the ids' own reader sees them; None without one.
    """

    own_ND: Tensor
    near_ND: Tensor
    has_near_N: Tensor
    alone_ND: Tensor | None

    def first(self, items: int) -> Ids:
        """That of the first items."""
        if items == len(self.own_ND):
            return self
        alone_ND = None if self.alone_ND is None else self.alone_ND[:items]
        return Ids(self.own_ND[:items], self.near_ND[:items], self.has_near_N[:items], alone_ND)


class ItemStreams(NamedTuple):
    """What is known of N items, before any of it is weighed.

    Attributes:
        x_NSD: The streams; a missing one holds its learnt vector.
        present_NS: Which streams each item has; all, for an item that has none.
        id_ND: The ids as the ids' own reader sees them, hidden from nobody; None without one.
    """

    x_NSD: Tensor
    present_NS: Tensor
    id_ND: Tensor | None


@dataclass(frozen=True)
class ItemTables:
    """What a step needs of N items, computed once.

    Attributes:
        input_NX: What the readers read, X = R D, side by side.
        target_NV: What a user's query is multiplied with.
        fused: Representations, weights, category logits and gates behind them.
        present_NS: Which streams each item has; all, for an item that has none.
    """

    input_NX: Tensor
    target_NV: Tensor
    fused: Fused
    present_NS: Tensor


class FeatureProjection(nn.Module):
    """A frozen feature to width D: standardised by column, scaled to rows of about 1, projected.

    The column statistics are measured on the training catalogue and travel with the weights; a
    column that is constant there says nothing and is left out. Rows of length 1, not sqrt(dim):
    Adam moves every weight by the same amount, so with long rows a single step would move a
    2,560-d feature's projection by many times its own size.
    """

    FARTHEST = 10.0
    """Standard deviations beyond which a value is cut: one odd picture must not rule."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.full((dim,), dim**-0.5))
        self.linear = nn.Linear(dim, width)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def measure(self, features: Tensor, present: Tensor) -> None:
        """Take column mean and standard deviation of the rows `present` [N] of `features`."""
        row = present.to(features.device).nonzero().squeeze(1)
        if len(row) < 2:
            return
        values = features[row[:: -(-len(row) // MEASURED_ROWS)]].double()
        mean, deviation = values.mean(0), values.std(0)
        constant = deviation <= 1e-6 * mean.abs().clamp(min=1e-6)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(constant, 0.0, len(mean) ** -0.5 / deviation))

    def standardise(self, features: Tensor) -> Tensor:
        """What the linear layer reads of features [N, dim], float32 of the same shape."""
        farthest = self.FARTHEST * features.shape[1] ** -0.5
        return ((features.float() - self.mean) * self.scale).clamp_(-farthest, farthest)

    def forward(self, features: Tensor, standardised: bool = False) -> Tensor:
        """[N, dim] to [N, D]; of what `standardise` gave, if it did."""
        x: Tensor = self.linear(features if standardised else self.standardise(features))
        return x


class ContentStart(nn.Module):
    """Where ids begin: at the D main directions of the content, of like variance, turned at random.

    So an item that few have met is near what looks like it, and one that nobody has met is there.
    The directions are measured on the training catalogue and travel with the weights.
    """

    SPREAD = 0.02
    """Standard deviation of each coordinate, that of an id's random part."""

    OVERSAMPLED = 8

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.directions: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("directions", torch.zeros(dim, width))

    def measure(self, content: Tensor) -> None:
        """Find the main directions of rows [N, dim] (Halko et al., arXiv 0909.4061)."""
        most = min(content.shape)
        width = self.directions.shape[1]
        if most < 2:
            return
        self.mean.copy_(content.mean(0))
        _, length, direction = torch.svd_lowrank(
            content - self.mean, q=min(width + self.OVERSAMPLED, most), niter=4
        )
        told = length > 1e-3 * length[0].clamp(min=1e-12)
        scale = torch.where(told, len(content) ** 0.5 / length, 0.0)[:width]
        turn, _ = torch.linalg.qr(torch.randn(width, len(scale)))
        self.directions.copy_(self.SPREAD * direction[:, :width] * scale @ turn.T)

    def forward(self, content: Tensor) -> Tensor:
        """Rows [N, dim] to where their ids begin, [N, D]."""
        return (content - self.mean) @ self.directions


class Cammsr(nn.Module):
    """The model.

    Every part can be switched off by its argument. A data set without categories has no guidance,
    one with fewer than two streams no synergies.

    Args:
        num_ids: Rows of the id table (items seen in training).
        feature_dims: Modality to the size of its prepared vectors, in the order of the streams.
        num_categories: C.
        use_id: Whether items have an id stream.
        id_reader: Whether ids have a reader and a loss of their own beside the fused items, with
            LayerNorm and without time, as SASRec has; its score is added.
        id_start: Whether what that reader reads begins at the main directions of the content.
        id_neighbours: Items of like content whose ids' mean is added to each id.
        width: D.
        layers: Transformer blocks.
        heads: Attention heads a block.
        length: Longest history.
        dropout: Share of activations dropped in training: of the readers, experts and pairs.
        id_dropout: Share of items whose id is hidden in a training step, so that content learns.
        norm: "dyt" or "layernorm", of the reader of the fused items.
        time: Whether it uses time gaps.
        distances: Whether attention has a learnt bias for each distance back.
        guidance: Whether predicted categories guide experts and fusion.
        experts: Experts a stream; 0 for none.
        synergies: Whether pairs of streams have representations of their own.
        user_weights: Whether the user state weighs the representations.
    """

    def __init__(
        self,
        num_ids: int,
        feature_dims: Mapping[str, int],
        num_categories: int,
        *,
        use_id: bool = True,
        id_reader: bool = True,
        id_start: bool = True,
        id_neighbours: int = 10,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        length: int = 100,
        dropout: float = 0.4,
        id_dropout: float = 0.1,
        norm: Norm = "dyt",
        time: bool = True,
        distances: bool = True,
        guidance: bool = True,
        experts: int = 4,
        synergies: bool = True,
        user_weights: bool = True,
    ) -> None:
        super().__init__()
        if not use_id and not feature_dims:
            raise ValueError("the model needs at least one stream: the id or a modality")
        self.modalities = tuple(feature_dims)
        self.streams = ((ID,) if use_id else ()) + self.modalities
        self.width, self.length = width, length
        self.id_dropout = id_dropout
        both = use_id and bool(self.modalities)
        # A row is the id as it is fused with content and, beside it, as its own reader reads it.
        row = 2 * width if both and id_reader else width
        self.id_table = nn.Embedding(max(num_ids, 1), row) if use_id else None
        if self.id_table is not None:
            nn.init.normal_(self.id_table.weight, std=0.02)
        self.projections = nn.ModuleList(
            FeatureProjection(dim, width) for dim in feature_dims.values()
        )
        self.missing_SD = nn.Parameter(torch.randn(len(self.streams), width) * 0.02)
        self.camoe = (
            Camoe(len(self.streams), width, num_categories, guidance, experts, synergies, dropout)
            if self.modalities
            else None
        )
        self.sequence = SequenceEncoder(
            width, layers, heads, length, dropout, norm, time, distances
        )
        self.id_sequence = (
            SequenceEncoder(width, layers, heads, length, dropout, "layernorm", False, distances)
            if both and id_reader
            else None
        )
        self.id_start = (
            ContentStart(sum(feature_dims.values()), width)
            if self.id_sequence is not None and id_start
            else None
        )
        # How much the ids' own reader counts in the score; 1 while it learns, then as validation
        # finds best.
        self.id_weight: Tensor | None
        self.register_buffer("id_weight", None if self.id_sequence is None else torch.ones(()))
        self.near_RJ: Tensor | None
        if not both or not id_neighbours:
            self.near_RJ = None
        else:
            none_RJ = torch.full((max(num_ids, 1), id_neighbours), -1)
            self.register_buffer("near_RJ", none_RJ)
        self.block_widths = self._block_widths(width)
        self.score = (
            ScoreBlocks(width, self.block_widths, user_weights) if self.camoe is not None else None
        )

    @property
    def representation_names(self) -> list[str]:
        """The K representations: streams by name, pairs as "text+image"."""
        pairs = self.camoe.pairs if self.camoe is not None else []
        return [*self.streams, *(f"{self.streams[m]}+{self.streams[n]}" for m, n in pairs)]

    @property
    def readers(self) -> list[slice]:
        """Where each reader's part of a query and a target lies, among V; each has its loss."""
        fused = sum(self.block_widths)
        if self.id_sequence is None:
            return [slice(0, fused)]
        return [slice(0, fused), slice(fused, fused + self.width)]

    @torch.no_grad()
    def measure(self, catalogue: Catalogue) -> None:
        """Take each modality's column statistics from the items that have it; place the ids.

        Of a new model, on its training catalogue, once: ids are begun, and told their neighbours.
        """
        for name, projection in zip(self.modalities, self.projections, strict=True):
            assert isinstance(projection, FeatureProjection)
            projection.measure(catalogue.features[name], catalogue.present[name])
        item_K = _known(catalogue)
        if self.near_RJ is not None:
            self.near_RJ[catalogue.id_row_N[item_K]] = self._nearest(catalogue, item_K)
        if self.id_start is None or self.id_table is None:
            return
        apart = max(1, -(-len(item_K) // MEASURED_ROWS))
        self.id_start.measure(self._content(catalogue, item_K[::apart]))
        for item_B in torch.split(item_K, MEASURED_ROWS):
            row_B = catalogue.id_row_N[item_B]
            begun_BD = self.id_start(self._content(catalogue, item_B))
            self.id_table.weight[row_B, self.width :] += begun_BD

    @torch.no_grad()
    def beside_neighbours(self, catalogue: Catalogue) -> Catalogue:
        """The catalogue with the neighbours of its new items, found among those with an id."""
        if self.near_RJ is None:
            return catalogue
        item_B = are_new(catalogue).nonzero().squeeze(1)
        if not len(item_B):
            return catalogue
        near_NJ = self._neighbours(catalogue).clone()
        near_NJ[item_B] = self._nearest(catalogue, item_B)
        return replace(catalogue, near_NJ=near_NJ)

    def _neighbours(self, catalogue: Catalogue) -> Tensor:
        """Those the catalogue tells of, or else those found when the model was measured."""
        assert self.near_RJ is not None
        if catalogue.near_NJ is not None:
            return catalogue.near_NJ
        has_id_N1 = catalogue.id_row_N[:, None] >= 0
        return self.near_RJ[catalogue.id_row_N.clamp(min=0)].where(has_id_N1, -1)

    def _nearest(self, catalogue: Catalogue, item_B: Tensor) -> Tensor:
        """Id rows of the items with id and content whose content has the largest cosine, [B, J].

        An item is no neighbour of itself; -1 where there are too few.
        """
        assert self.near_RJ is not None
        item_K = _known(catalogue)
        most = min(self.near_RJ.shape[1], len(item_K))
        near_BJ = self.near_RJ.new_full((len(item_B), self.near_RJ.shape[1]), -1)
        if not most:
            return near_BJ
        content_KX = functional.normalize(self._content(catalogue, item_K), dim=1)
        at_once = max(1, COSINES_AT_ONCE // len(item_K))
        for rows in torch.split(torch.arange(len(item_B)), at_once):
            content_bX = functional.normalize(self._content(catalogue, item_B[rows]), dim=1)
            cosine_bK = content_bX @ content_KX.T
            cosine_bK.masked_fill_(item_B[rows, None] == item_K, float("-inf"))
            cosine_bJ, place_bJ = cosine_bK.topk(most, dim=1)
            row_bJ = catalogue.id_row_N[item_K][place_bJ]
            near_BJ[rows, :most] = row_bJ.masked_fill(cosine_bJ.isneginf(), -1)
        return near_BJ

    def _content(self, catalogue: Catalogue, item_B: Tensor) -> Tensor:
        """All that the modalities say of some items, side by side; zeros where one is missing."""
        part = catalogue.take(item_B)
        values = []
        for name, projection in zip(self.modalities, self.projections, strict=True):
            assert isinstance(projection, FeatureProjection)
            value = part.features[name]
            if not part.standardised:
                value = projection.standardise(value)
            values.append(value.float().where(part.present[name][:, None], 0.0))
        return torch.cat(values, dim=1)

    @torch.no_grad()
    def standardised(self, catalogue: Catalogue, dtype: torch.dtype) -> Catalogue:
        """The catalogue with features as the linear layers read them, in `dtype`.

        They stay the same from step to step, and so need not be made at each.
        """
        features = {}
        for name, projection in zip(self.modalities, self.projections, strict=True):
            assert isinstance(projection, FeatureProjection)
            values = catalogue.features[name]
            features[name] = torch.cat(
                [
                    projection.standardise(part).to(dtype)
                    for part in torch.split(values, MEASURED_ROWS)
                ]
            )
        return replace(catalogue, features=features, standardised=True)

    def ids(self, catalogue: Catalogue) -> Ids:
        """Looks N items up in the id table, once: each lookup's gradient is as large as that is.

        An item that is new since training has for the ids' own reader what its id would have begun
        at. In training there are none, and the catalogue's features are not looked at.
        """
        own_NX, near_NX, has_near_N = self._rows_and_neighbours(catalogue)
        if self.id_sequence is None:
            return Ids(own_NX, near_NX, has_near_N, None)
        own_ND, alone_ND = own_NX.chunk(2, dim=1)
        near_ND, near_alone_ND = near_NX.chunk(2, dim=1)
        has_id_N1 = catalogue.id_row_N[:, None] >= 0
        alone_ND = torch.where(has_id_N1, alone_ND, self.missing_SD[0])
        if self.id_start is not None and not self.training:
            item_B = are_new(catalogue).nonzero().squeeze(1)
            if len(item_B):
                begun_BD = self.id_start(self._content(catalogue, item_B))
                alone_ND = alone_ND.index_copy(0, item_B, begun_BD)
        return Ids(own_ND, near_ND, has_near_N, alone_ND + near_alone_ND)

    def _rows_and_neighbours(self, catalogue: Catalogue) -> tuple[Tensor, Tensor, Tensor]:
        """The items' rows of the id table, the mean of their neighbours', and who has any."""
        assert self.id_table is not None
        row_N = catalogue.id_row_N.clamp(min=0)
        if self.near_RJ is None:
            own_NX = self.id_table(row_N)
            none_11 = own_NX.new_zeros(1, 1)
            return own_NX, none_11.expand_as(own_NX), none_11.bool()[0].expand(len(own_NX))
        near_NJ = self._neighbours(catalogue)
        items, most = near_NJ.shape
        there_NJ = near_NJ >= 0
        share_NJ = there_NJ.float() / there_NJ.sum(1, keepdim=True).clamp(min=1)
        # Two bags an item: its own row, and its neighbours'.
        at_N = torch.arange(items, device=row_N.device)
        own_NX, near_NX = functional.embedding_bag(
            torch.cat([row_N, near_NJ.clamp(min=0).flatten()]),
            self.id_table.weight,
            torch.cat([at_N, items + most * at_N]),
            mode="sum",
            per_sample_weights=torch.cat([torch.ones_like(share_NJ[:, 0]), share_NJ.flatten()]),
        ).chunk(2)
        return own_NX, near_NX, there_NJ.any(1)

    def item_streams(self, catalogue: Catalogue, ids: Ids | None = None) -> ItemStreams:
        """The streams of N items, whose `ids` may have been looked up before.

        A missing stream holds its learnt vector and is masked out of every softmax; an item with
        no stream at all is described by the learnt vectors alone. An id stands beside its
        neighbours', and an item that has none itself has theirs.
        """
        values, present = [], []
        if self.id_table is not None:
            ids = self.ids(catalogue) if ids is None else ids
            shown_N = catalogue.id_row_N >= 0
            if self.training and self.id_dropout and self.modalities:
                kept_N = torch.rand(len(shown_N), device=shown_N.device) >= self.id_dropout
                shown_N = shown_N & (kept_N | ~has_content(catalogue))
            own_ND = torch.where(shown_N[:, None], ids.own_ND, self.missing_SD[0])
            values.append(own_ND + ids.near_ND)
            present.append(shown_N | ids.has_near_N)
        for name, projection in zip(self.modalities, self.projections, strict=True):
            values.append(projection(catalogue.features[name], catalogue.standardised))
            present.append(catalogue.present[name])
        present_NS = torch.stack(present, dim=1)
        # One stream after another in memory, as CAMoE reads them.
        x_SND = torch.where(
            present_NS.T.unsqueeze(-1), torch.stack(values), self.missing_SD.unsqueeze(1)
        )
        x_NSD = x_SND.transpose(0, 1)
        id_ND = None if ids is None else ids.alone_ND
        return ItemStreams(x_NSD, present_NS | ~present_NS.any(1, keepdim=True), id_ND)

    def item_tables(
        self, x_NSD: Tensor, present_NS: Tensor, id_ND: Tensor | None = None
    ) -> ItemTables:
        """Everything a step needs of the items whose streams are given."""
        if self.camoe is None or self.score is None:
            x_ND = x_NSD[:, 0]
            weight_N1, none_N0 = x_ND.new_ones(len(x_ND), 1), x_ND.new_zeros(len(x_ND), 0)
            fused = Fused(x_NSD, present_NS, weight_N1, none_N0, None)
            return ItemTables(x_ND, x_ND, fused, present_NS)
        fused = self.camoe(x_NSD, present_NS)
        # Weights sum to 1; times their number, an untrained fusion is a plain sum.
        share_NK = fused.weight_NK * fused.present_NK.sum(1, keepdim=True)
        # Not as N small matrix products, which a CPU makes one by one.
        input_ND = (share_NK.unsqueeze(-1) * fused.representation_NKD).sum(1)
        target_NV = self.score.targets(fused.representation_NKD, share_NK)
        if id_ND is not None:
            input_ND = torch.cat([input_ND, id_ND.to(input_ND)], dim=1)
            assert self.id_weight is not None
            target_NV = torch.cat([target_NV, (id_ND * self.id_weight).to(target_NV)], dim=1)
        return ItemTables(input_ND, target_NV, fused, present_NS)

    def swapped(self, streams: ItemStreams, shift: int) -> ItemStreams:
        """The streams with each content stream in another's seat, `shift` seats on; ids stay."""
        x_NSD, present_NS, id_ND = streams
        first = len(self.streams) - len(self.modalities)
        return ItemStreams(
            torch.cat([x_NSD[:, :first], x_NSD[:, first:].roll(shift, dims=1)], dim=1),
            torch.cat([present_NS[:, :first], present_NS[:, first:].roll(shift, dims=1)], dim=1),
            id_ND,
        )

    def user_states(self, tables: ItemTables, window: Window) -> Tensor:
        """What is known of each user after each event of the windows: h [B, L, X], X = R D."""
        return self._encode(_rows(tables.input_NX, window.item_BL), window)

    def last_user_states(self, tables: ItemTables, window: Window) -> Tensor:
        """What is known of each user after the last event of their window: h [B, X].

        Half the work of `user_states`. Of an empty window it is the padding's state.
        """
        input_BLX = _rows(tables.input_NX, window.item_BL)
        last_B = (window.length_B - 1).clamp(min=0)
        return torch.cat(
            [
                reader.last(input_BLD, window.gap_BL, last_B)
                for reader, input_BLD in self._read(input_BLX)
            ],
            dim=-1,
        )

    def swapped_user_states(
        self, tables: ItemTables, swapped: ItemTables, window: Window, share: float
    ) -> Tensor:
        """As `user_states`, but a random `share` of positions shows the item of `swapped`."""
        chosen_BL = torch.rand(window.item_BL.shape, device=window.item_BL.device) < share
        input_BLX = torch.where(
            chosen_BL.unsqueeze(-1),
            _rows(swapped.input_NX, window.item_BL),
            _rows(tables.input_NX, window.item_BL),
        )
        return self._encode(input_BLX, window)

    def _encode(self, input_BLX: Tensor, window: Window) -> Tensor:
        read = [
            reader(input_BLD, window.gap_BL, window.within_BL)
            for reader, input_BLD in self._read(input_BLX)
        ]
        return torch.cat(read, dim=-1)

    def _read(self, input_BLX: Tensor) -> list[tuple[SequenceEncoder, Tensor]]:
        """Each reader and its part of the input."""
        if self.id_sequence is None:
            return [(self.sequence, input_BLX)]
        fused_BLD, id_BLD = input_BLX.chunk(2, dim=-1)
        return [(self.sequence, fused_BLD), (self.id_sequence, id_BLD)]

    def queries(self, h: Tensor) -> Tensor:
        """User states [..., X] to what items' targets are multiplied with, [..., V]."""
        if self.score is None:
            return h
        if self.id_sequence is None:
            return self.score.queries(h)
        fused, ids = h.chunk(2, dim=-1)
        return torch.cat([self.score.queries(fused), ids], dim=-1)

    def contributions(self, query_BV: Tensor, target_BV: Tensor) -> Tensor:
        """The K summands of each score <query, target>: [B, K]; both readers' ids are one."""
        widths = [reader.stop - reader.start for reader in self.readers[1:]]
        products = torch.split(query_BV * target_BV, [*self.block_widths, *widths], dim=-1)
        summand_BK = torch.stack([block.sum(-1) for block in products], dim=-1)
        if widths:
            first, others = summand_BK[..., :1] + summand_BK[..., -1:], summand_BK[..., 1:-1]
            summand_BK = torch.cat([first, others], dim=-1)
        return summand_BK

    def _block_widths(self, width: int) -> list[int]:
        """D for the id, half of it for each modality, an eighth for each pair."""
        if self.camoe is None:
            return [width]
        widths = [width if name == ID else max(width // 2, 8) for name in self.streams]
        return widths + [max(width // 8, 4)] * len(self.camoe.pairs)


def _known(catalogue: Catalogue) -> Tensor:
    """The items with an id and some content, int64 and rising."""
    return ((catalogue.id_row_N >= 0) & has_content(catalogue)).nonzero().squeeze(1)


def has_content(catalogue: Catalogue) -> Tensor:
    """Which items have any modality, bool [N]."""
    if not catalogue.present:
        return torch.zeros_like(catalogue.id_row_N, dtype=torch.bool)
    return torch.stack(list(catalogue.present.values())).any(0)


def are_new(catalogue: Catalogue) -> Tensor:
    """bool [N]: without an id, but with content."""
    return (catalogue.id_row_N < 0) & has_content(catalogue)


def unknown_items(catalogue: Catalogue) -> Tensor | None:
    """Items with neither id nor content, int64 and rising: no score of theirs means anything.

    None where there are none.
    """
    item_F = ((catalogue.id_row_N < 0) & ~has_content(catalogue)).nonzero().squeeze(1)
    return item_F if len(item_F) else None


class ScoreBlocks(nn.Module):
    """score(u, i) = sum_k a_k(u) w_ik <Q_k h_u, P_k R_ik>, kept as one inner product.

    a(u), the user's weights, is a softmax over the K representations, times K; w_i are the item's
    fusion weights. The blocks <Q_k h, P_k R_ik> lie end to end in vectors of width V, so that
    ranking a catalogue is one matrix product and any nearest-neighbour index applies.
    """

    def __init__(self, width: int, block_widths: list[int], user_weights: bool) -> None:
        super().__init__()
        self.block_widths = block_widths
        self.query = nn.Linear(width, sum(block_widths), bias=False)
        self.targets_K = nn.ModuleList(nn.Linear(width, v, bias=False) for v in block_widths)
        self.user_weights = nn.Linear(width, len(block_widths)) if user_weights else None
        # Which block each place of V is of: a product with it lays weights out faster than
        # repeating does, and so does its gradient.
        self.block_KV: Tensor
        self.register_buffer(
            "block_KV",
            torch.eye(len(block_widths)).repeat_interleave(torch.tensor(block_widths), dim=1),
            persistent=False,
        )
        with torch.no_grad():
            for rows, target in zip(
                torch.split(self.query.weight, block_widths), self.targets_K, strict=True
            ):
                assert isinstance(target, nn.Linear)
                nn.init.orthogonal_(target.weight)
                rows.copy_(target.weight)
        if self.user_weights is not None:
            nn.init.zeros_(self.user_weights.weight)
            nn.init.zeros_(self.user_weights.bias)

    def targets(self, representation_NKD: Tensor, share_NK: Tensor) -> Tensor:
        """The items' side of the score, [N, V]."""
        blocks = [
            share_N1 * project(representation_ND)
            for share_N1, representation_ND, project in zip(
                torch.split(share_NK, 1, dim=1),
                for_products(representation_NKD).unbind(1),  # its gradient needs no zeros
                self.targets_K,
                strict=True,
            )
        ]
        return torch.cat(blocks, dim=-1)

    def queries(self, h: Tensor) -> Tensor:
        """The user's side of the score, [..., V]."""
        query: Tensor = self.query(h)
        if self.user_weights is None:
            return query
        weights = self.user_weights(h).softmax(-1) * len(self.block_widths)
        weighted: Tensor = query * (weights @ self.block_KV)
        return weighted


def _rows(table_ND: Tensor, at: Tensor) -> Tensor:
    """`table_ND[at]`, by way of an embedding: its gradient is summed in one order, always.

    The gradient of indexing is summed by threads as they come, so that a training could not be
    repeated to the bit.
    """
    return functional.embedding(at, table_ND)
