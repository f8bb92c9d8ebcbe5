"""CAMoE, the category-guided attentive mixture of experts (CAMMSR, section IV-B, equations 5-11).

Axes: S streams (the id and each modality), B users, L positions, N items, D width, E experts a
stream, H an expert's hidden width, C categories.

docs/method.md has the equations, and where they differ from the published ones.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cammsr_cli.model.layers import Dropout, StreamLinear

RouterKind = Literal["attention", "linear"]
ExpertInputs = Literal["all", "own"]
Guidance = Literal["difference", "accuracy", "equal"]


class Router(nn.Module):
    """Gates of a stream's experts at each position of a history (equations 6, 7).

    Args:
        streams: S.
        width: D.
        experts: E.
        kind: "attention": G = softmax(Q K^T / sqrt(E)) V over the history up to the position, with
            Q, K and V linear maps of the stream from D to E dimensions; "linear": a linear map.
        normalised: Whether a softmax over the experts makes the gates sum to 1.
    """

    def __init__(
        self, streams: int, width: int, experts: int, kind: RouterKind, normalised: bool
    ) -> None:
        super().__init__()
        self.experts, self.kind, self.normalised = experts, kind, normalised
        outputs = experts * (3 if kind == "attention" else 1)
        self.linear = StreamLinear(streams, width, outputs)

    def forward(self, e_SBLD: Tensor, seen: Tensor) -> Tensor:
        """Compute gates [S, B, L, E].

        Args:
            e_SBLD: The streams of the histories' items.
            seen: Attention mask, [L, L] or [B, L, L]: 0, or very negative for hidden positions.
        """
        gate_SBLE: Tensor = self.linear(e_SBLD)
        if self.kind == "attention":
            q_SBLE, k_SBLE, v_SBLE = gate_SBLE.chunk(3, dim=-1)
            weight_SBLL = (q_SBLE * self.experts**-0.5 @ k_SBLE.mT + seen).softmax(-1)
            gate_SBLE = weight_SBLL.to(v_SBLE.dtype) @ v_SBLE
        return gate_SBLE.softmax(-1) if self.normalised else gate_SBLE


class Camoe(nn.Module):
    """Mixture of experts of each stream, with category guidance: e + w sum_k g_k FFN_k.

    Args:
        streams: S.
        width: D.
        experts: E.
        hidden: H.
        inputs: "all": an expert reads the concatenation of all streams, which is the synergy of
            the modalities (equation 5); "own": it reads its own stream only.
        router: See `Router`.
        normalised: See `Router`.
        dropout: Dropout rate of the experts' hidden values.
    """

    def __init__(
        self,
        streams: int,
        width: int,
        experts: int,
        hidden: int,
        inputs: ExpertInputs = "all",
        router: RouterKind = "attention",
        normalised: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape = (experts, hidden)
        self.inputs = inputs
        self.drop = Dropout(dropout)
        self.router = Router(streams, width, experts, router, normalised)
        read = width * streams if inputs == "all" else width
        self.experts_in = StreamLinear(streams, read, experts * hidden)
        self.experts_out_SFD = nn.Parameter(torch.empty(streams, experts * hidden, width))
        self.experts_shift_SED = nn.Parameter(torch.zeros(streams, experts, width))
        for weights, fan in (
            (self.experts_in.weight_SIO, read + hidden),
            (self.experts_out_SFD, hidden + width),
        ):
            bound = (6 / fan) ** 0.5  # Xavier initialisation of one expert
            nn.init.uniform_(weights, -bound, bound)

    def forward(self, e_SBLD: Tensor, guide_SBL: Tensor, seen: Tensor) -> Tensor:
        """Add the experts' outputs to the streams: [S, B, L, D].

        Args:
            e_SBLD: The streams of the histories' items, with positions added.
            guide_SBL: Weight of each stream at each position (equation 10).
            seen: Attention mask, [L, L] or [B, L, L]: 0, or very negative for later positions and
                for those of another history.
        """
        experts, hidden = self.shape
        gate_SME = self.router(e_SBLD, seen).flatten(1, 2)
        x_SMI = e_SBLD.flatten(1, 2)
        if self.inputs == "all":
            x_SMI = x_SMI.transpose(0, 1).flatten(1).unsqueeze(0).expand(len(e_SBLD), -1, -1)
        hidden_SMF = functional.gelu(self.experts_in(x_SMI))
        hidden_SMEH = hidden_SMF.view(*hidden_SMF.shape[:-1], experts, hidden)
        gated_SMF = self.drop((hidden_SMEH * gate_SME.unsqueeze(-1)).flatten(2))
        added_SMD = torch.baddbmm(
            gate_SME @ self.experts_shift_SED, gated_SMF, self.experts_out_SFD
        )
        return e_SBLD + guide_SBL.unsqueeze(-1) * added_SMD.view(e_SBLD.shape)


class CategoryGuide(nn.Module):
    """Weights of the streams by how well each predicts an item's true categories.

    Equations 8 to 10: each stream predicts the categories with its own linear layer, as C
    independent probabilities. d is the binary cross-entropy of that prediction, summed over the
    categories. If an item has several labels, the largest d is used.

    Args:
        streams: S.
        width: D.
        categories: C; more than 0.
        guidance: "difference": weights are softmax(d), as printed, so that a stream with worse
            predictions has a larger weight; "accuracy": softmax(-d), as the paper's text says;
            "equal": all streams have the same weight.
    """

    def __init__(self, streams: int, width: int, categories: int, guidance: Guidance) -> None:
        super().__init__()
        self.linear = StreamLinear(streams, width, categories)
        self.guidance = guidance

    def forward(
        self, x_SND: Tensor, present_NS: Tensor, label_NC: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute category logits [S, N, C] and stream weights [N, S], which sum to 1.

        Items without a label have equal weights. Missing streams have weight 0.
        """
        logits_SNC: Tensor = self.linear(x_SND)
        if label_NC is None or self.guidance == "equal":
            return logits_SNC, equal_weights(present_NS)
        d_NS = difference(logits_SNC, label_NC)
        d_NS = d_NS if self.guidance == "difference" else -d_NS
        weight_NS = d_NS.masked_fill(~present_NS, float("-inf")).softmax(-1)
        labelled_N1 = label_NC.any(1, keepdim=True)
        return logits_SNC, torch.where(labelled_N1, weight_NS, equal_weights(present_NS))


def difference(logits_SNC: Tensor, label_NC: Tensor) -> Tensor:
    """Equation 9, d [N, S]: the maximum over an item's labels, each taken as its only label.

    For the single label c, the binary cross-entropies sum to
    sum_c' softplus(logit_c') - logit_c.
    """
    logits_SNC = logits_SNC.float()
    least_SN = logits_SNC.masked_fill(~label_NC, float("inf")).amin(-1)
    least_SN = least_SN.masked_fill(~label_NC.any(1), 0.0)
    return (functional.softplus(logits_SNC).sum(-1) - least_SN).T


def equal_weights(present_NS: Tensor) -> Tensor:
    """Equal weights [N, S] for the streams of each item; every item has at least one."""
    return present_NS / present_NS.sum(1, keepdim=True)
