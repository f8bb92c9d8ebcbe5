"""The CAMMSR model: items to tables, histories to user states, both to scores.

Axes: N items, S streams, D width, X = S D (the streams side by side), B users, L positions,
C categories, P pairs of a user and an item.

Method: Xu et al., "CAMMSR: Category-Guided Attentive Mixture of Experts for Multimodal
Sequential Recommendation", ICDE 2026, arXiv 2603.04320. docs/model.md says equation by equation
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

from cammsr_cli.core.camoe import (
    Camoe,
    CategoryGuide,
    ExpertInputs,
    Guidance,
    RouterKind,
    equal_weights,
)
from cammsr_cli.core.items import Catalogue, ItemEncoder
from cammsr_cli.core.layers import Dropout, DynamicTanh, StreamLayerNorm
from cammsr_cli.core.repeats import RepeatBias
from cammsr_cli.core.sequence import UserEncoder, causal_mask, segment_mask
from cammsr_cli.core.windows import TIME_BUCKETS, Window

InputNorm = Literal["dyt", "layernorm", "none"]


@dataclass(frozen=True)
class ItemTables:
    """What a step needs of N items, computed once.

    Attributes:
        input_NX: The streams as histories show them.
        target_NX: What a user's state is multiplied with.
        id_target_NX: The part of that which comes from ids; None where each stream is its own.
        guide_NS: Weight of each stream's experts (equation 10).
        category_SNC: Category logits of each stream; C is 0 without a guide.
        present_NS: Which streams each item has; all, for an item that has none.
    """

    input_NX: Tensor
    target_NX: Tensor
    id_target_NX: Tensor | None
    guide_NS: Tensor
    category_SNC: Tensor
    present_NS: Tensor


class Cammsr(nn.Module):
    """The model.

    Args:
        num_ids: Rows of the id table (items seen in training).
        feature_dims: Modality to the size of its prepared vectors, in the order of the streams.
        num_categories: C.
        use_id: Whether items have an id stream.
        content_init: Whether ids begin at the main directions of the content.
        neighbours: Items of like content whose ids' mean is added to each id.
        content_ids: Whether each content stream has an id embedding of its own.
        width: D.
        layers: Transformer blocks.
        heads: Attention heads a block.
        length: Longest history.
        dropout: Rate of dropout, in Transformers and experts.
        id_dropout: Share of items whose id is hidden in a training step, so that content learns.
        embedding_scale: Whether histories show items times a learnt factor that begins at sqrt(D)
            (Vaswani et al., 2017, section 3.4), one a stream.
        input_norm: What stands before the Transformers: "dyt", "layernorm" or "none".
        time: Whether the gap to the event before is added to each position.
        distances: Whether attention has a learnt bias for each distance back.
        experts: Experts a stream; 0 for none.
        expert_hidden: An expert's hidden values, as a multiple of the width.
        expert_inputs: "all" streams, or its "own".
        router: "attention" or "linear".
        normalise_gates: Whether a router's gates sum to 1.
        guidance: See `CategoryGuide`.
        item_weights: Whether predicted categories weigh the streams of the items that are scored.
        repeats: Whether items that the history holds have a bias in the score.
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
        content_ids: bool = False,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        length: int = 100,
        dropout: float = 0.4,
        id_dropout: float = 0.1,
        embedding_scale: bool = True,
        input_norm: InputNorm = "none",
        time: bool = True,
        distances: bool = True,
        experts: int = 0,
        expert_hidden: float = 0.5,
        expert_inputs: ExpertInputs = "all",
        router: RouterKind = "attention",
        normalise_gates: bool = False,
        guidance: Guidance = "accuracy",
        item_weights: bool = True,
        repeats: bool = True,
    ) -> None:
        super().__init__()
        self.items = ItemEncoder(
            num_ids,
            feature_dims,
            use_id=use_id,
            width=width,
            content_init=content_init,
            neighbours=neighbours,
            content_ids=content_ids,
            id_dropout=id_dropout,
        )
        streams = len(self.streams)
        self.width, self.length = width, length
        guides = guidance != "equal" and experts > 0 and streams > 1
        item_weights = item_weights and streams > 1 and num_categories > 0
        self.guide = (
            CategoryGuide(streams, width, num_categories, guidance)
            if num_categories and (guides or item_weights)
            else None
        )
        self.item_weight_CS = (
            nn.Parameter(torch.zeros(num_categories, streams)) if item_weights else None
        )
        self.input_scale_S = (
            nn.Parameter(torch.full((streams,), width**0.5)) if embedding_scale else None
        )
        self.position = nn.Embedding(length, width)
        self.gap = nn.Embedding(TIME_BUCKETS, width) if time else None
        for table in (self.position, self.gap):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)
        self.camoe = (
            Camoe(
                streams,
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
        self.input_norm: DynamicTanh | StreamLayerNorm | None = None
        if input_norm != "none":
            dyt = input_norm == "dyt"
            self.input_norm = DynamicTanh(streams) if dyt else StreamLayerNorm(streams, width)
        self.drop = Dropout(dropout)
        self.encoder = UserEncoder(streams, width, layers, heads, length, dropout, distances)
        self.repeats = RepeatBias(length) if repeats else None

    @property
    def modalities(self) -> tuple[str, ...]:
        """The streams that are content."""
        return self.items.modalities

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the S streams: the id, if there is one, then the modalities."""
        return self.items.streams

    def item_tables(self, catalogue: Catalogue) -> ItemTables:
        """Everything a step needs of the items of a catalogue."""
        x_SND, id_SND, present_NS = self.items(catalogue)
        items = len(present_NS)
        if self.guide is None:
            guide_NS = equal_weights(present_NS)
            category_SNC = x_SND.new_zeros(len(x_SND), items, 0)
        else:
            category_SNC, guide_NS = self.guide(x_SND, present_NS, catalogue.label_NC)
        target_SND, id_target_SND = x_SND, id_SND
        if self.item_weight_CS is not None:
            weight_SN1 = self._item_weights(category_SNC, present_NS).T.unsqueeze(-1)
            target_SND = x_SND * weight_SN1
            id_target_SND = None if id_SND is None else id_SND * weight_SN1
        return ItemTables(
            beside(x_SND),
            beside(target_SND),
            None if id_target_SND is None else beside(id_target_SND),
            guide_NS,
            category_SNC,
            present_NS,
        )

    def _item_weights(self, category_SNC: Tensor, present_NS: Tensor) -> Tensor:
        """Weights of the streams in an item's score, [N, S]: on average 1 over those it has.

        A softmax over the streams, told by the predicted categories; a missing stream, whose learnt
        vector is the same for all items, has no part in it and weighs 1.
        """
        assert self.item_weight_CS is not None
        there_SN1 = present_NS.T.unsqueeze(-1).to(category_SNC.dtype)
        mean_NC = (category_SNC * there_SN1).sum(0) / there_SN1.sum(0)
        logits_NS = mean_NC.float().softmax(-1) @ self.item_weight_CS
        weight_NS = logits_NS.masked_fill(~present_NS, float("-inf")).softmax(-1)
        return torch.where(present_NS, weight_NS * present_NS.sum(1, keepdim=True), 1.0)

    def history(self, tables: ItemTables, window: Window) -> tuple[Tensor, Tensor | None]:
        """What the Transformers read of each history, before normalisation: [S, B, L, D].

        Each item's streams with their positions, and what the experts add (equations 5 to 11); and
        what keeps histories in one row apart, [B, L, L], where there are several.
        """
        batch, length = window.item_BL.shape
        streams = len(self.streams)
        x_BLX = _rows(tables.input_NX, window.item_BL)
        x_SBLD = x_BLX.view(batch, length, streams, self.width).permute(2, 0, 1, 3)
        if self.input_scale_S is not None:
            x_SBLD = x_SBLD * self.input_scale_S.view(-1, 1, 1, 1)
        if window.within_BL is None:
            place = self.position.weight[:length]
        else:
            place = self.position(window.within_BL)
        if self.gap is not None:
            place = place + self.gap(window.gap_BL)
        e_SBLD = x_SBLD + place
        mask_BLL = None if window.within_BL is None else segment_mask(window.within_BL)
        if self.camoe is None:
            return e_SBLD, mask_BLL
        guide_SBL = _rows(tables.guide_NS, window.item_BL).permute(2, 0, 1)
        seen = causal_mask(length, e_SBLD.device)
        if mask_BLL is not None:
            seen = seen + mask_BLL
        enriched_SBLD: Tensor = self.camoe(e_SBLD, guide_SBL, seen)
        return enriched_SBLD, mask_BLL

    def encode(
        self, e_SBLD: Tensor, mask_BLL: Tensor | None, of: list[int] | None = None
    ) -> Tensor:
        """User states of histories as `history` gives them: [S, B, L, D].

        With `of`, `e_SBLD` holds those streams alone.
        """
        h_SBLD: Tensor = self.encoder(self._read(e_SBLD, of), mask_BLL, of)
        return h_SBLD

    def _read(self, e_SBLD: Tensor, of: list[int] | None = None) -> Tensor:
        normed = e_SBLD if self.input_norm is None else self.input_norm(e_SBLD, of)
        read: Tensor = self.drop(normed)
        return read

    def user_states(self, tables: ItemTables, window: Window) -> Tensor:
        """What is known of each user after each event of the windows: [B, L, X].

        The score of an item is the inner product of that with its target (equation 15).
        """
        return beside(self.encode(*self.history(tables, window)))

    def last_user_states(self, tables: ItemTables, window: Window) -> Tensor:
        """What is known of each user after the last event of their window: [B, X].

        Half the work of `user_states`. Of an empty window it is the padding's state.
        """
        if window.within_BL is not None:
            raise ValueError("of rows that hold several histories, ask for all states")
        e_SBLD, _ = self.history(tables, window)
        last_B = (window.length_B - 1).clamp(min=0)
        return beside(self.encoder.last(self._read(e_SBLD), last_B))

    def contributions(
        self, state: Tensor, target: Tensor, id_target: Tensor | None = None
    ) -> Tensor:
        """The summand of each stream in the score <state, target>: [..., X] to [..., S].

        What content streams have of ids (`id_target`) counts as the id's.
        """
        parts = self._by_stream(state * target)
        if id_target is None:
            return parts
        ids = self._by_stream(state * id_target)
        own = parts - ids
        return torch.cat([own[..., :1] + ids.sum(-1, keepdim=True), own[..., 1:]], dim=-1)

    def _by_stream(self, product: Tensor) -> Tensor:
        return product.view(*product.shape[:-1], len(self.streams), self.width).sum(-1)


def beside(x: Tensor) -> Tensor:
    """Streams side by side: [S, ..., D] to [..., X]."""
    return x.movedim(0, -2).flatten(-2)


def _rows(table_NX: Tensor, at: Tensor) -> Tensor:
    """`table_NX[at]`, by way of an embedding: its gradient is summed in one order, always.

    The gradient of indexing is summed by threads as they come, so that a training could not be
    repeated to the bit.
    """
    return functional.embedding(at, table_NX)
