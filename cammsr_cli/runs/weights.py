"""Files of model weights: written by `train`, and read without unpickling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cammsr_cli.errors import CammsrError, first_line
from cammsr_cli.files import usual_permissions
from cammsr_cli.model.cammsr import Cammsr


def write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a model's state dict as safetensors."""
    state = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with usual_permissions(path):
        save_file(state, path)


def load_weights(model: Cammsr, path: Path) -> None:
    """Load weights written by `write_weights` into a model.

    Raises:
        CammsrError: The file is damaged or belongs to another model.
    """
    try:
        path.open("rb").close()  # raises an error with the reason, which safetensors omits
    except OSError as error:
        raise CammsrError(f"{path} cannot be read: {error.strerror}") from error
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CammsrError(
            f"{path} cannot be loaded into this run's model: {first_line(error)}",
            "Train again: cammsr train",
        ) from error
