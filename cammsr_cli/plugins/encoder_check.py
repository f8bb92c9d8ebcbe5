"""Checks an installed encoder against the encoder contract, for `cammsr encoders check`."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cammsr_encoders.contract import Finding, Trial, findings
from cammsr_encoders.example_items import bad_items, example_items, odd_items
from cammsr_encoders.protocol import WeightsUnavailable

from cammsr_cli.errors import SEE_WHERE, CammsrError, first_line
from cammsr_cli.plugins.registry import EncoderSpec, find_class, make_encoder

# On a GPU, sums depend on the batch size; with TF32, in about the third digit.
_TOLERANCE_CPU, _TOLERANCE_GPU = 1e-4, 1e-2


def check_encoder(spec: EncoderSpec, device: str = "cpu") -> Iterator[Finding]:
    """Yield one finding per check, as soon as it is available.

    Args:
        spec: The encoder, its model and options.
        device: The device, as on the command line.

    Raises:
        UsageError: If the encoder or device does not exist, or the encoder does not accept the
            options.
        CammsrError: If the encoder is broken, its weights are not available, or it cannot create
            its own sample items.
    """
    if device != "cpu":
        from cammsr_cli.devices import resolve_device

        device = str(resolve_device(device))
    _, kind = find_class(spec.name)
    encoder = make_encoder(spec, device)
    with tempfile.TemporaryDirectory(prefix="cammsr-check-") as made:
        good, bad = Path(made, "good"), Path(made, "bad")
        good.mkdir()
        bad.mkdir()
        try:
            items = example_items(encoder, good)
        except (Exception, SystemExit) as error:  # third-party code
            raise CammsrError(
                f"encoder {spec.name!r} cannot make its `example_items`: "
                f"{type(error).__name__}: {first_line(error)}",
                SEE_WHERE,
            ) from error
        trial = Trial(
            kind=kind,
            items=items,
            bad_items=bad_items(items, bad),
            odd_items=odd_items(encoder.fields),
            model=spec.model,
            options=spec.options,
            device=device,
            tolerance=_TOLERANCE_CPU if device == "cpu" else _TOLERANCE_GPU,
        )
        found = findings(trial)
        while (one := _next(found, spec.name)) is not None:
            yield one


def _next(found: Iterator[Finding], name: str) -> Finding | None:
    """Return the next finding, None after the last; redirect an encoder's prints to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return next(found, None)
    except WeightsUnavailable as error:
        raise CammsrError(f"encoder {name!r}: {error}") from error
