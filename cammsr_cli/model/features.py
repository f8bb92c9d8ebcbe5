"""Frozen features as the model reads them: standardised and projected, and where they place ids.

Axes: N items, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEASURED_ROWS = 2**15
"""Most items whose features are looked at for their mean and deviation, evenly spread."""


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


class ContentInitialisation(nn.Module):
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
        turn, _ = torch.linalg.qr(torch.randn(width, len(scale)).to(scale))
        self.directions.copy_(self.SPREAD * direction[:, :width] * scale @ turn.T)

    def forward(self, content: Tensor) -> Tensor:
        """Rows [N, dim] to where their ids begin, [N, D]."""
        return (content - self.mean) @ self.directions
