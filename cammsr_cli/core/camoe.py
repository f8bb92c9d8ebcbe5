"""CAMoE: the category-guided attentive mixture of experts that makes an item's representations.

Axes: N items, S streams (the id and each modality), D width, E experts a stream, H an expert's
hidden width, C categories, P = S(S-1)/2 pairs of streams, K = S + P representations.

The streams are always in the order of `streams`; the pairs follow in the order of
`itertools.combinations`. The equations are in docs/model.md.

Items come first in what is given and taken, but memory holds one stream after another: all of a
stream's items go through a matrix product at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.core.layers import Dropout


@dataclass(frozen=True)
class Fused:
    """What CAMoE makes of N items.

    Attributes:
        representation_NKD: r (one a stream), then s (one a pair).
        present_NK: Which representations each item has; a pair needs both its streams.
        weight_NK: Fusion weights, 0 where a representation is missing, summing to 1.
        category_NC: Category logits, the mean over the streams that are present.
        gate_NSE: Expert gates, summing to 1 over E; None without experts.
    """

    representation_NKD: Tensor
    present_NK: Tensor
    weight_NK: Tensor
    category_NC: Tensor
    gate_NSE: Tensor | None


def for_products(x: Tensor) -> Tensor:
    """`x` in the type in which autocast makes matrix products: cast once for several of them."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


class CategoryHeads(nn.Module):
    """Predicts each item's categories from each stream, and turns the prediction into a guide.

    The guide is the prediction, never the label: an unlabelled item is guided too, and a wrong
    label is softened by what its streams say.
    """

    def __init__(self, streams: int, width: int, categories: int) -> None:
        super().__init__()
        self.weight_SDC = nn.Parameter(torch.randn(streams, width, categories) * width**-0.5)
        self.bias_C = nn.Parameter(torch.zeros(categories))
        self.embedding_CD = nn.Parameter(torch.randn(categories, width) * 0.5)

    def forward(self, x_NSD: Tensor, present_NS: Tensor) -> tuple[Tensor, Tensor]:
        """Category logits [N, C] and the guide q [N, D] = softmax(logits) @ embedding."""
        logits_SNC = x_NSD.transpose(0, 1) @ self.weight_SDC
        shown_SN1 = present_NS.T.unsqueeze(-1).to(logits_SNC.dtype)
        mean_NC = (logits_SNC * shown_SN1).sum(0) / shown_SN1.sum(0)
        logits_NC = mean_NC + self.bias_C
        return logits_NC, logits_NC.softmax(-1) @ self.embedding_CD


class Experts(nn.Module):
    """E feed-forward experts a stream, weighed by an attention gate that the guide steers.

    The last layers start at zero, so that an untrained CAMoE is the identity.
    """

    def __init__(self, streams: int, experts: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.drop = Dropout(dropout)
        self.shape = (streams, experts, hidden)
        self.w1_SDF = nn.Parameter(torch.randn(streams, width, experts * hidden) * width**-0.5)
        self.w2_SFD = nn.Parameter(torch.zeros(streams, experts * hidden, width))
        self.gate_x_SDE = nn.Parameter(torch.randn(streams, width, experts) * width**-0.5)
        self.gate_q_SDE = nn.Parameter(torch.randn(streams, width, experts) * width**-0.5)

    def forward(self, x_NSD: Tensor, q_ND: Tensor) -> tuple[Tensor, Tensor]:
        """r_m = x_m + sum_e g_e expert_e(x_m), and the gates g [N, S, E]."""
        streams, experts, hidden = self.shape
        x_SND = for_products(x_NSD.transpose(0, 1))
        gate_SNE = (x_SND @ self.gate_x_SDE + q_ND @ self.gate_q_SDE).softmax(-1)
        hidden_SNEH = functional.gelu(x_SND @ self.w1_SDF).view(streams, -1, experts, hidden)
        gated_SNF = (hidden_SNEH * gate_SNE.unsqueeze(-1)).flatten(2)
        r_SND = x_NSD.transpose(0, 1) + self.drop(gated_SNF) @ self.w2_SFD
        return r_SND.transpose(0, 1), gate_SNE.transpose(0, 1)


class Synergies(nn.Module):
    """One expert a pair of streams: s_mn = FFN([r_m ; r_n ; r_m * r_n])."""

    def __init__(self, pairs: list[tuple[int, int]], width: int, dropout: float) -> None:
        super().__init__()
        self.drop = Dropout(dropout)
        self.pairs = pairs
        self.w1_PGD = nn.Parameter(torch.randn(len(pairs), 3 * width, width) * (3 * width) ** -0.5)
        self.w2_PDD = nn.Parameter(torch.zeros(len(pairs), width, width))

    def forward(self, r_NSD: Tensor) -> Tensor:
        """Pair representations s [N, P, D]."""
        # One stream after another: its gradient needs no zeros.
        r_ND = for_products(r_NSD.transpose(0, 1)).unbind(0)
        m_PND = torch.stack([r_ND[m] for m, _ in self.pairs])
        n_PND = torch.stack([r_ND[n] for _, n in self.pairs])
        joined_PNG = torch.cat([m_PND, n_PND, m_PND * n_PND], dim=-1)
        hidden_PND: Tensor = self.drop(functional.gelu(joined_PNG @ self.w1_PGD))
        return (hidden_PND @ self.w2_PDD).transpose(0, 1)


class Camoe(nn.Module):
    """Streams in, K representations and their weights out.

    Args:
        streams: S.
        width: D.
        categories: C; 0 when the data set has none.
        guidance: Whether the predicted category steers gates and fusion.
        experts: E; 0 leaves the streams as they are.
        synergies: Whether pairs of streams get representations of their own.
        dropout: Share of the experts' and pairs' hidden values dropped in training.
    """

    def __init__(
        self,
        streams: int,
        width: int,
        categories: int,
        guidance: bool,
        experts: int,
        synergies: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pairs = list(combinations(range(streams), 2)) if synergies else []
        self.heads = CategoryHeads(streams, width, categories) if guidance and categories else None
        self.unguided_D = None if self.heads else nn.Parameter(torch.randn(width) * 0.5)
        self.experts = Experts(streams, experts, width, width // 2, dropout) if experts else None
        self.synergies = Synergies(self.pairs, width, dropout) if self.pairs else None
        self.fusion_query = nn.Linear(width, width)
        self.fusion_key_KD = nn.Parameter(torch.zeros(streams + len(self.pairs), width))

    @property
    def representations(self) -> int:
        """K, the number of representations an item has at most."""
        return len(self.fusion_key_KD)

    def forward(self, x_NSD: Tensor, present_NS: Tensor) -> Fused:
        """Fuse N items' streams; every row of `present_NS` has at least one True."""
        if self.heads is not None:
            category_NC, q_ND = self.heads(x_NSD, present_NS)
        else:
            assert self.unguided_D is not None  # one of the two exists by construction
            category_NC = x_NSD.new_zeros(len(x_NSD), 0)
            q_ND = self.unguided_D.expand(len(x_NSD), -1)
        gate_NSE = None
        if self.experts is not None:
            x_NSD, gate_NSE = self.experts(x_NSD, q_ND)
        representation_NKD, present_NK = x_NSD, present_NS
        if self.synergies is not None:
            both_NP = torch.stack([present_NS[:, m] & present_NS[:, n] for m, n in self.pairs], 1)
            pair_NPD = self.synergies(x_NSD)
            both_KND = torch.cat([x_NSD.transpose(0, 1), pair_NPD.transpose(0, 1)])
            representation_NKD = both_KND.transpose(0, 1)
            present_NK = torch.cat([present_NS, both_NP], dim=1)
        weight_NK = self._fusion_weights(representation_NKD, present_NK, q_ND)
        return Fused(representation_NKD, present_NK, weight_NK, category_NC, gate_NSE)

    def _fusion_weights(self, r_NKD: Tensor, present_NK: Tensor, q_ND: Tensor) -> Tensor:
        query_ND = self.fusion_query(q_ND).to(r_NKD.dtype)
        # <r_k + key_k, query>; not as N small matrix products, which a CPU makes one by one.
        logits_NK = (r_NKD * query_ND.unsqueeze(1)).sum(-1) + query_ND @ self.fusion_key_KD.T
        weight_NK: Tensor = logits_NK.masked_fill(~present_NK, float("-inf")).softmax(-1)
        return weight_NK
