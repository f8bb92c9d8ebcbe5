"""The CAMMSR model: item tables from items, user states from histories, scores from both.

Axes: N items, S streams, T branches (one Transformer each), P parts (a stream in a branch),
D width, X = T D (the branches concatenated), V = P D (the parts concatenated), B users,
L positions, C categories.

Method: Xu et al., "CAMMSR: Category-Guided Attentive Mixture of Experts for Multimodal
Sequential Recommendation", ICDE 2026, arXiv 2603.04320. docs/method.md states for each equation
what is published and what is ours. With only the id stream and no experts, the same code is SASRec
(Kang and McAuley, ICDM 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.model.catalogue_tensors import Catalogue
from cammsr_cli.model.device_kernels import segment_mask
from cammsr_cli.model.experts import (
    Camoe,
    CategoryGuide,
    ExpertInputs,
    Guidance,
    RouterKind,
    equal_weights,
)
from cammsr_cli.model.history_windows import TIME_BUCKETS, Rows, Window
from cammsr_cli.model.items import ItemEncoder
from cammsr_cli.model.layers import Dropout, StreamNorm
from cammsr_cli.model.repeat_bias import RepeatBias
from cammsr_cli.model.user_encoder import UserEncoder, causal_mask

Norm = Literal["dyt", "layernorm"]
InputNorm = Literal["dyt", "layernorm", "none"]


@dataclass(frozen=True)
class ItemTables:
    """Representations of N items that a step needs, computed once.

    Attributes:
        input_NX: The items' branches as inputs in histories.
        target_NV: The items' targets. A score is the inner product of a query and a target.
        guide_NT: Weight of each branch's experts (equation 10).
        category_TNC: Category logits of each branch; C is 0 without a guide.
        present_NS: Whether each item has each stream; True for all if it has none.
        present_NT: Likewise for the branches.
    """

    input_NX: Tensor
    target_NV: Tensor
    guide_NT: Tensor
    category_TNC: Tensor
    present_NS: Tensor
    present_NT: Tensor


class Cammsr(nn.Module):
    """The model.

    Args:
        num_ids: Rows of the id table (items seen in training).
        feature_dims: Modality to the size of its prepared vectors, in the order of the streams.
        num_categories: C.
        use_id: Whether items have an id stream.
        content_init: Whether ids are initialised by the principal components of the content.
        neighbours: Number of items with similar content whose mean id is added to each id.
        fused: Whether there are two branches: the ids, and the sum of all streams. Otherwise each
            stream is a branch, as published.
        width: D.
        layers: Number of Transformer blocks.
        heads: Attention heads per block.
        length: Longest history.
        dropout: Dropout rate in Transformers and experts.
        id_dropout: Share of items whose id is hidden in a training step, so that the model learns
            to use content. With `fused`, only the branch of all streams hides ids.
        embedding_scale: Whether item inputs are multiplied by a learnt factor, one per branch,
            initialised to sqrt(D) (Vaswani et al., 2017, section 3.4).
        input_norm: Normalisation before the Transformers: "dyt", "layernorm" or "none".
        fused_norm: Normalisation in the Transformer of all streams: "dyt" or "layernorm". All
            other Transformers have LayerNorm.
        time_gaps: Whether an embedding of the gap to the previous event is added to each position.
            With `fused`, only in the branch of all streams.
        relative_positions: Whether attention has a learnt bias for each relative position.
        experts: Number of experts per stream; 0 for none.
        expert_hidden: An expert's hidden size, as a multiple of the width.
        expert_inputs: "all": an expert reads all streams; "own": only its own.
        router: "attention" or "linear".
        normalise_gates: Whether a router's gates sum to 1.
        guidance: See `CategoryGuide`.
        item_weights: Whether predicted categories weight the streams of the scored items.
        repeats: Whether items of the history have a bias in the score.
        separate_bias: Whether that bias is learnt separately from the rest, see `RepeatBias`.
    """

    def __init__(
        self,
        num_ids: int,
        feature_dims: Mapping[str, int],
        num_categories: int,
        *,
        use_id: bool = True,
        content_init: bool = True,
        neighbours: int = 10,
        fused: bool = True,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        length: int = 100,
        dropout: float = 0.4,
        id_dropout: float = 0.1,
        embedding_scale: bool = True,
        input_norm: InputNorm = "none",
        fused_norm: Norm = "dyt",
        time_gaps: bool = True,
        relative_positions: bool = True,
        experts: int = 0,
        expert_hidden: float = 0.5,
        expert_inputs: ExpertInputs = "all",
        router: RouterKind = "attention",
        normalise_gates: bool = False,
        guidance: Guidance = "accuracy",
        item_weights: bool = True,
        repeats: bool = True,
        separate_bias: bool = True,
    ) -> None:
        super().__init__()
        self.items = ItemEncoder(
            num_ids,
            feature_dims,
            use_id=use_id,
            width=width,
            content_init=content_init,
            neighbours=neighbours,
            fused=fused,
            id_dropout=id_dropout,
        )
        streams, branches = len(self.streams), self.items.branches
        self.width, self.length = width, length
        guides = guidance != "equal" and experts > 0 and branches > 1
        item_weights = item_weights and streams > 1 and num_categories > 0
        self.guide = (
            CategoryGuide(branches, width, num_categories, guidance)
            if num_categories and (guides or item_weights)
            else None
        )
        self.item_weight_CS = (
            nn.Parameter(torch.zeros(num_categories, streams)) if item_weights else None
        )
        self.input_scale_T = (
            nn.Parameter(torch.full((branches,), width**0.5)) if embedding_scale else None
        )
        self.query = nn.Linear(width, streams * width, bias=False) if self._sums else None
        if self.query is not None:  # initialised to the identity for each stream
            self.query.weight.data.copy_(torch.eye(width).repeat(streams, 1))
        self.position = nn.Embedding(length, width)
        self.gap = nn.Embedding(TIME_BUCKETS, width) if time_gaps else None
        for table in (self.position, self.gap):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        self.camoe = (
            Camoe(
                branches,
                width,
                experts,
                max(1, round(expert_hidden * width)),
                expert_inputs,
                router,
                normalise_gates,
                dropout,
            )
            if experts
            else None
        )
        self.input_norm: StreamNorm | None = None
        if input_norm != "none":
            dyt = input_norm == "dyt"
            self.input_norm = StreamNorm([dyt] * branches, 0 if dyt else width)
        self.drop = Dropout(dropout)
        norms = [False] * (branches - 1) + [self._sums and fused_norm == "dyt"]
        self.encoder = UserEncoder(norms, width, layers, heads, length, dropout, relative_positions)
        self.repeats = RepeatBias(length, separate_bias) if repeats else None
        # Weight of each branch's score in the sum, 1 on average; set after training.
        self.branch_weight_T: Tensor
        self.register_buffer("branch_weight_T", torch.ones(branches))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the content streams."""
        return self.items.modalities

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the S streams: the id, if there is one, then the modalities."""
        return self.items.streams

    @property
    def branch_names(self) -> tuple[str, ...]:
        """Names of the T branches: the name of the stream, or "all" for the sum of all streams."""
        if not self._sums:
            return self.streams
        return (*self.streams[: self._alone], "all")

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.position.weight.device

    @property
    def branches(self) -> int:
        """T, the number of Transformers."""
        return self.items.branches

    def item_tables(self, catalogue: Catalogue) -> ItemTables:
        """Compute the tables of the items of a catalogue."""
        x_PND, present_NS = self.items(catalogue)
        input_TND = self._summed(x_PND)
        present_NT = present_NS
        if self._sums:
            ids_N0 = present_NS[:, : self._alone]
            present_NT = torch.cat([ids_N0, present_NS.any(1, keepdim=True)], dim=1)
        if self.guide is None:
            guide_NT = equal_weights(present_NT)
            category_TNC = input_TND.new_zeros(*input_TND.shape[:2], 0)
        else:
            category_TNC, guide_NT = self.guide(input_TND, present_NT, catalogue.label_NC)
        target_PND = x_PND
        if self.item_weight_CS is not None:
            weight_SN1 = self._item_weights(category_TNC, present_NS, present_NT).T.unsqueeze(-1)
            # A separate id branch next to the fused branch takes no part in the stream weights.
            alone = self._alone
            target_PND = torch.cat([x_PND[:alone], x_PND[alone:] * weight_SN1])
        return ItemTables(
            _beside(input_TND),
            _beside(target_PND),
            guide_NT,
            category_TNC,
            present_NS,
            present_NT,
        )

    @property
    def _sums(self) -> bool:
        """Whether the last branch is a sum of all streams."""
        return self.branches < len(self.items.parts)

    @property
    def _alone(self) -> int:
        """Number of parts before those of the fused branch: 1 for a separate id branch, else 0."""
        return len(self.items.parts) - len(self.streams)

    def _summed(self, x_PND: Tensor) -> Tensor:
        """Sum the parts of each branch: [P, N, D] to [T, N, D]."""
        if not self._sums:
            return x_PND
        alone = self._alone
        return torch.cat([x_PND[:alone], x_PND[alone:].sum(0, keepdim=True)])

    def _item_weights(self, category_TNC: Tensor, present_NS: Tensor, present_NT: Tensor) -> Tensor:
        """Weights of the streams in an item's score, [N, S]; 1 on average over its streams.

        They are a softmax over the streams, computed from the predicted categories. A missing
        stream takes no part in the softmax and has weight 1: its learnt vector is the same for all
        items.
        """
        assert self.item_weight_CS is not None
        there_TN1 = present_NT.T.unsqueeze(-1).to(category_TNC.dtype)
        mean_NC = (category_TNC * there_TN1).sum(0) / there_TN1.sum(0)
        logits_NS = mean_NC.float().softmax(-1) @ self.item_weight_CS
        weight_NS = logits_NS.masked_fill(~present_NS, float("-inf")).softmax(-1)
        return torch.where(present_NS, weight_NS * present_NS.sum(1, keepdim=True), 1.0)

    def history(self, tables: ItemTables, window: Rows) -> tuple[Tensor, Tensor | None]:
        """Compute the Transformers' inputs, before normalisation, [T, B, L, D], and the mask.

        The inputs are each item's branches plus positions, with the experts' outputs added
        (equations 5 to 11). The mask [B, L, L] separates the histories in one row; it is None if
        each row has one history.
        """
        batch, length = window.item_BL.shape
        x_BLX = _rows(tables.input_NX, window.item_BL)
        x_TBLD = x_BLX.view(batch, length, self.branches, self.width).permute(2, 0, 1, 3)
        if self.input_scale_T is not None:
            x_TBLD = x_TBLD * self.input_scale_T.view(-1, 1, 1, 1)
        if window.position_BL is None:
            place = self.position.weight[:length]
        else:
            place = self.position(window.position_BL)
        if self.gap is not None:
            gap_BLD = self.gap(window.gap_BL)
            place = place + gap_BLD if not self._sums else self._late(place, gap_BLD)
        e_TBLD = x_TBLD + place
        mask_BLL = None if window.position_BL is None else segment_mask(window.position_BL)
        if self.camoe is None:
            return e_TBLD, mask_BLL
        guide_TBL = _rows(tables.guide_NT, window.item_BL).permute(2, 0, 1)
        seen = causal_mask(length, e_TBLD.device)
        if mask_BLL is not None:
            seen = seen + mask_BLL
        enriched_TBLD: Tensor = self.camoe(e_TBLD, guide_TBL, seen)
        return enriched_TBLD, mask_BLL

    def _late(self, place: Tensor, gap_BLD: Tensor) -> Tensor:
        """Positions, [T, B, L, D], with time gaps in the last branch only."""
        return torch.stack([*[place.expand_as(gap_BLD)] * self._alone, place + gap_BLD])

    def encode(self, e_TBLD: Tensor, mask_BLL: Tensor | None, of: Tensor | None = None) -> Tensor:
        """Compute user states [T, B, L, D] from the results of `history`.

        With `of`, `e_TBLD` holds only the branches with these indices.
        """
        h_TBLD: Tensor = self.encoder(self._read(e_TBLD, of), mask_BLL, of)
        return h_TBLD

    def _read(self, e_TBLD: Tensor, of: Tensor | None = None) -> Tensor:
        normed = e_TBLD if self.input_norm is None else self.input_norm(e_TBLD, of)
        read: Tensor = self.drop(normed)
        return read

    def queries(self, tables: ItemTables, window: Rows) -> Tensor:
        """Compute each user's query after each event of the windows: [B, L, V].

        The score of an item is the inner product of a query and the item's target (equation 15).
        """
        return self.queries_of(self.encode(*self.history(tables, window)))

    def last_queries(self, tables: ItemTables, window: Window) -> Tensor:
        """Compute each user's query after the last event of their window: [B, V].

        This takes half the work of `queries`. The queries include the branches' weights. For an
        empty window, the query is computed from padding.
        """
        if window.position_BL is not None:
            raise ValueError("of rows that hold several histories, ask for all queries")
        e_TBLD, _ = self.history(tables, window)
        last_B = (window.length_B - 1).clamp(min=0)
        query_BV = self.queries_of(self.encoder.last(self._read(e_TBLD), last_B))
        return query_BV * self.weights_of_scores(self.branch_weight_T)

    def queries_of(self, h: Tensor) -> Tensor:
        """Map user states [T, ..., D] to queries [..., V].

        A branch that sums several streams has a linear map for each of them. So a query can differ
        between, for example, the text and the image.
        """
        if self.query is None:
            return _beside(h)
        return torch.cat([*h[:-1], self.query(h[-1])], dim=-1)

    @property
    def score_widths(self) -> list[int]:
        """Number of the V values that belong to each branch."""
        together = len(self.streams) if self._sums else 1
        return [self.width] * (self.branches - 1) + [self.width * together]

    def weights_of_scores(self, weight_T: Tensor) -> Tensor:
        """Expand weights of the branches to factors of the V values: [T] to [V]."""
        return torch.cat([weight_T[at].expand(width) for at, width in enumerate(self.score_widths)])

    def contributions(self, query: Tensor, target: Tensor) -> Tensor:
        """Each stream's summand in the score <query, target>: [..., V] to [..., S].

        The id stream's summand includes all parts that come from ids.
        """
        product = query * target
        summand = product.view(*product.shape[:-1], len(self.items.parts), self.width).sum(-1)
        alone, streams = summand[..., : self._alone], summand[..., self._alone :]
        ids = streams[..., :1] + alone.sum(-1, keepdim=True)
        return torch.cat([ids, streams[..., 1:]], dim=-1)


def _beside(x: Tensor) -> Tensor:
    """Concatenate branches: [T, ..., D] to [..., X]."""
    return x.movedim(0, -2).flatten(-2)


def _rows(table_NX: Tensor, at: Tensor) -> Tensor:
    """`table_NX[at]` as an embedding lookup, whose gradient is summed in a fixed order.

    The gradient of indexing is summed by threads in any order. A training would then not be
    reproducible bit by bit.
    """
    return functional.embedding(at, table_NX)
