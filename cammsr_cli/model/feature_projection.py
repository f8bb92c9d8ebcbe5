"""Projection of prepared vectors to the model's width, and initialisation of ids from content.

Axes: N items, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEASURED_ROWS = 2**15
"""Largest number of items, evenly spaced, used to estimate feature means and deviations."""


class FeatureProjection(nn.Module):
    """Projects a frozen feature to width D: standardise columns, scale rows to norm 1, project.

    The column statistics are computed on the training catalogue and saved with the weights. A
    column that is constant there carries no information and is dropped. Rows have a norm of about
    1, not sqrt(dim): Adam changes every weight by the same amount, so with long rows a single step
    would move a 2,560-d feature's projection by many times its own size.
    """

    FARTHEST = 10.0
    """Values are clipped to this many standard deviations, so that outliers do not dominate."""

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
        """Compute the column means and standard deviations of the rows `present` of `features`."""
        row = present.to(features.device).nonzero().squeeze(1)
        if len(row) < 2:
            return
        values = features[row[:: -(-len(row) // MEASURED_ROWS)]].double()
        mean, deviation = values.mean(0), values.std(0)
        constant = deviation <= 1e-6 * mean.abs().clamp(min=1e-6)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(constant, 0.0, len(mean) ** -0.5 / deviation))

    def standardise(self, features: Tensor) -> Tensor:
        """Standardise features [N, dim] for the linear layer; float32 of the same shape."""
        farthest = self.FARTHEST * features.shape[1] ** -0.5
        return ((features.float() - self.mean) * self.scale).clamp_(-farthest, farthest)

    def forward(self, features: Tensor, standardised: bool = False) -> Tensor:
        """Project [N, dim] to [N, D]; `standardised`: the input is the output of `standardise`."""
        x: Tensor = self.linear(features if standardised else self.standardise(features))
        return x


class ContentInitialisation(nn.Module):
    """Initialises ids by the D principal components of the content, whitened, randomly rotated.

    So an item with few events starts near items of similar content. An item without events stays
    there. The components are computed on the training catalogue and saved with the weights.
    """

    SPREAD = 0.02
    """Standard deviation of each coordinate; the same as that of an id's random part."""

    OVERSAMPLED = 8

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.directions: Tensor
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("directions", torch.zeros(dim, width))

    def measure(self, content: Tensor) -> None:
        """Compute the principal components of rows [N, dim] (Halko et al., arXiv 0909.4061)."""
        most = min(content.shape)
        width = self.directions.shape[1]
        if most < 2:
            return
        self.mean.copy_(content.mean(0))
        _, length, direction = torch.svd_lowrank(
            content - self.mean, q=min(width + self.OVERSAMPLED, most), niter=4
        )
        significant = length > 1e-3 * length[0].clamp(min=1e-12)
        scale = torch.where(significant, len(content) ** 0.5 / length, 0.0)[:width]
        turn, _ = torch.linalg.qr(torch.randn(width, len(scale)).to(scale))
        self.directions.copy_(self.SPREAD * direction[:, :width] * scale @ turn.T)

    def forward(self, content: Tensor) -> Tensor:
        """Map content [N, dim] to initial id embeddings [N, D]."""
        return (content - self.mean) @ self.directions
