"""A small catalogue whose items lack this and that, for tests of the core."""

from __future__ import annotations

import torch
from torch import nn

from cammsr_cli.model.catalogue_tensors import Catalogue

N, DIMS, C = 12, {"text": 5, "image": 7, "video": 4}, 3


def small_catalogue(modalities=("text", "image"), seed: int = 0, categories: int = C) -> Catalogue:
    """12 items: 0-3 have all, 4 no text, 5 no image, 6 no id, 7 only text, 8 nothing at all.

    Item 2 has two labels, 1 and 10 have none, the others one each.
    """
    generator = torch.Generator().manual_seed(seed)
    present = {m: torch.ones(N, dtype=torch.bool) for m in modalities}
    row = torch.arange(N)
    row[[6, 7, 8]] = -1
    missing = {"text": [4, 8], "image": [5, 7, 8], "video": [7, 8, 9]}
    for name in modalities:
        present[name][missing[name]] = False
    features = {m: torch.randn(N, DIMS[m], generator=generator) for m in modalities}
    if not categories:
        return Catalogue(row, features, present)
    label_NC = torch.arange(N)[:, None] % categories == torch.arange(categories)
    label_NC[2, 0] = True
    label_NC[[1, 10]] = False
    return Catalogue(row, features, present, label_NC)


def with_values(module: nn.Module) -> None:
    """Give random values to what starts from zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
