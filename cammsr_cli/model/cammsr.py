"""The CAMMSR model: items to tables, histories to user states, both to scores.

Axes: N items, S streams, T branches (one Transformer each), P parts (a stream in a branch),
D width, X = T D (the branches side by side), V = P D (the parts side by side), B users,
L positions, C categories.

Method: Xu et al., "CAMMSR: Category-Guided Attentive Mixture of Experts for Multimodal
Sequential Recommendation", ICDE 2026, arXiv 2603.04320. docs/method.md says equation by equation
what is published and what is ours. With the id stream alone and no experts the same code is SASRec
(Kang and McAuley, ICDM 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.model.by_device import segment_mask
from cammsr_cli.model.catalogue import Catalogue
from cammsr_cli.model.experts import (
    Camoe,
    CategoryGuide,
    ExpertInputs,
    Guidance,
    RouterKind,
    equal_weights,
)
from cammsr_cli.model.items import ItemEncoder
from cammsr_cli.model.layers import Dropout, StreamNorm
from cammsr_cli.model.repeats import RepeatBias
from cammsr_cli.model.user_encoder import UserEncoder, causal_mask
from cammsr_cli.model.windows import TIME_BUCKETS, Rows, Window

Norm = Literal["dyt", "layernorm"]
InputNorm = Literal["dyt", "layernorm", "none"]


@dataclass(frozen=True)
class ItemTables:
    """What a step needs of N items, computed once.

    Attributes:
        input_NX: The branches as histories show them.
        target_NV: What a user's query is multiplied with.
        guide_NT: Weight of each branch's experts (equation 10).
        category_TNC: Category logits of each branch; C is 0 without a guide.
        present_NS: Which streams each item has; all, for an item that has none.
        present_NT: Likewise the branches.
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
        content_init: Whether ids begin at the main directions of the content.
        neighbours: Items of like content whose ids' mean is added to each id.
        fused: Whether there are two branches, the ids and the sum of all streams; otherwise each
            stream is a branch, as published.
        width: D.
        layers: Transformer blocks.
        heads: Attention heads a block.
        length: Longest history.
        dropout: Rate of dropout, in Transformers and experts.
        id_dropout: Share of items whose id is hidden in a training step, so that content learns;
            with `fused`, from the branch of all streams alone.
        embedding_scale: Whether histories show items times a learnt factor that begins at sqrt(D)
            (Vaswani et al., 2017, section 3.4), one a stream.
        input_norm: What stands before the Transformers: "dyt", "layernorm" or "none".
        fused_norm: What normalises within the Transformer of all streams: "dyt" or "layernorm";
            every other has LayerNorm.
        time_gaps: Whether the gap to the event before is added to each position; with `fused`, in
            the branch of all streams alone.
        relative_positions: Whether attention has a learnt bias for each distance back.
        experts: Experts a stream; 0 for none.
        expert_hidden: An expert's hidden values, as a multiple of the width.
        expert_inputs: "all" streams, or its "own".
        router: "attention" or "linear".
        normalise_gates: Whether a router's gates sum to 1.
        guidance: See `CategoryGuide`.
        item_weights: Whether predicted categories weigh the streams of the items that are scored.
        repeats: Whether items that the history holds have a bias in the score.
        separate_bias: Whether that bias is learnt beside the rest, see `RepeatBias`.
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
        if self.query is not None:  # begins as if it were not there
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
        # What each branch's score counts in the sum, 1 on average; found after training.
        self.branch_weight_T: Tensor
        self.register_buffer("branch_weight_T", torch.ones(branches))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The streams that are content."""
        return self.items.modalities

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the S streams: the id, if there is one, then the modalities."""
        return self.items.streams

    @property
    def branch_names(self) -> tuple[str, ...]:
        """Names of the T branches: their streams', and "all" of one that is their sum."""
        if not self._sums:
            return self.streams
        return (*self.streams[: self._alone], "all")

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.position.weight.device

    @property
    def branches(self) -> int:
        """T, the number of Transformers."""
        return self.items.branches

    def item_tables(self, catalogue: Catalogue) -> ItemTables:
        """Everything a step needs of the items of a catalogue."""
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
            # A branch that is one stream beside one of all streams is not weighed against those.
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
        """How many parts come before those of all streams: that of a branch of ids."""
        return len(self.items.parts) - len(self.streams)

    def _summed(self, x_PND: Tensor) -> Tensor:
        """The parts of each branch added up: [P, N, D] to [T, N, D]."""
        if not self._sums:
            return x_PND
        alone = self._alone
        return torch.cat([x_PND[:alone], x_PND[alone:].sum(0, keepdim=True)])

    def _item_weights(self, category_TNC: Tensor, present_NS: Tensor, present_NT: Tensor) -> Tensor:
        """Weights of the streams in an item's score, [N, S]: on average 1 over those it has.

        A softmax over the streams, told by the predicted categories; a missing stream, whose learnt
        vector is the same for all items, has no part in it and weighs 1.
        """
        assert self.item_weight_CS is not None
        there_TN1 = present_NT.T.unsqueeze(-1).to(category_TNC.dtype)
        mean_NC = (category_TNC * there_TN1).sum(0) / there_TN1.sum(0)
        logits_NS = mean_NC.float().softmax(-1) @ self.item_weight_CS
        weight_NS = logits_NS.masked_fill(~present_NS, float("-inf")).softmax(-1)
        return torch.where(present_NS, weight_NS * present_NS.sum(1, keepdim=True), 1.0)

    def history(self, tables: ItemTables, window: Rows) -> tuple[Tensor, Tensor | None]:
        """What the Transformers read of each history, before normalisation: [T, B, L, D].

        Each item's branches with their positions, and what the experts add (equations 5 to 11); and
        what keeps histories in one row apart, [B, L, L], where there are several.
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
        """Positions, [T, B, L, D], with time gaps in the last branch alone."""
        return torch.stack([*[place.expand_as(gap_BLD)] * self._alone, place + gap_BLD])

    def encode(self, e_TBLD: Tensor, mask_BLL: Tensor | None, of: Tensor | None = None) -> Tensor:
        """User states of histories as `history` gives them: [T, B, L, D].

        With `of`, `e_TBLD` holds those branches alone.
        """
        h_TBLD: Tensor = self.encoder(self._read(e_TBLD, of), mask_BLL, of)
        return h_TBLD

    def _read(self, e_TBLD: Tensor, of: Tensor | None = None) -> Tensor:
        normed = e_TBLD if self.input_norm is None else self.input_norm(e_TBLD, of)
        read: Tensor = self.drop(normed)
        return read

    def queries(self, tables: ItemTables, window: Rows) -> Tensor:
        """What each user asks for after each event of the windows: [B, L, V].

        The score of an item is the inner product of that with its target (equation 15).
        """
        return self.queries_of(self.encode(*self.history(tables, window)))

    def last_queries(self, tables: ItemTables, window: Window) -> Tensor:
        """What each user asks for after the last event of their window: [B, V].

        Half the work of `queries`, and times the branches' weights. Of an empty window it is the
        padding's.
        """
        if window.position_BL is not None:
            raise ValueError("of rows that hold several histories, ask for all queries")
        e_TBLD, _ = self.history(tables, window)
        last_B = (window.length_B - 1).clamp(min=0)
        query_BV = self.queries_of(self.encoder.last(self._read(e_TBLD), last_B))
        return query_BV * self.weights_of_scores(self.branch_weight_T)

    def queries_of(self, h: Tensor) -> Tensor:
        """User states [T, ..., D] to what the items' targets are multiplied with, [..., V].

        A branch that is a sum of streams has a linear map for each of them, so that a user can ask
        for one thing of the text and for another of the picture.
        """
        if self.query is None:
            return _beside(h)
        return torch.cat([*h[:-1], self.query(h[-1])], dim=-1)

    @property
    def score_widths(self) -> list[int]:
        """How many of the V values are each branch's."""
        together = len(self.streams) if self._sums else 1
        return [self.width] * (self.branches - 1) + [self.width * together]

    def weights_of_scores(self, weight_T: Tensor) -> Tensor:
        """Weights of the branches as factors of the V values: [T] to [V]."""
        return torch.cat([weight_T[at].expand(width) for at, width in enumerate(self.score_widths)])

    def contributions(self, query: Tensor, target: Tensor) -> Tensor:
        """The summand of each stream in the score <query, target>: [..., V] to [..., S].

        All that comes of ids is the id's.
        """
        product = query * target
        summand = product.view(*product.shape[:-1], len(self.items.parts), self.width).sum(-1)
        alone, streams = summand[..., : self._alone], summand[..., self._alone :]
        ids = streams[..., :1] + alone.sum(-1, keepdim=True)
        return torch.cat([ids, streams[..., 1:]], dim=-1)


def _beside(x: Tensor) -> Tensor:
    """Branches side by side: [T, ..., D] to [..., X]."""
    return x.movedim(0, -2).flatten(-2)


def _rows(table_NX: Tensor, at: Tensor) -> Tensor:
    """`table_NX[at]`, by way of an embedding: its gradient is summed in one order, always.

    The gradient of indexing is summed by threads as they come, so that a training could not be
    repeated to the bit.
    """
    return functional.embedding(at, table_NX)
