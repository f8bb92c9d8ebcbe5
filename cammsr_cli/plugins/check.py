"""Tries an installed encoder on what every encoder must do, for `cammsr encoders check`."""

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

# Sums on a GPU depend on the batch's size, in about the third digit where TF32 is on.
_TOLERANCE_CPU, _TOLERANCE_GPU = 1e-4, 1e-2


def check_encoder(spec: EncoderSpec, device: str = "cpu") -> Iterator[Finding]:
    """One finding a check, as they come.

    Args:
        spec: The encoder, its model and options.
        device: Where to run it, as on the command line.

    Raises:
        UsageError: If there is no such encoder or device, or it does not take such options.
        CammsrError: If the encoder is broken, its weights cannot be had, or it cannot make the
            items that it offers to be tried on.
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
        except (Exception, SystemExit) as error:  # a stranger's method
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
    """The next finding, None after the last; what an encoder prints goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return next(found, None)
    except WeightsUnavailable as error:
        raise CammsrError(f"encoder {name!r}: {error}") from error
