"""The description of one encoder, for `cammsr encoders info`."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cammsr_encoders.options import argument_help, options_of
from cammsr_encoders.protocol import WeightsUnavailable

from cammsr_cli.encoding.engine import full_fingerprint, vector_length
from cammsr_cli.errors import SEE_WHERE, CammsrError, first_line
from cammsr_cli.plugins.registry import EncoderEntry, EncoderSpec, find_class, make_encoder

# Model libraries that read these variables use only local files.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Option:
    """The description of an option.

    Attributes:
        name: The option.
        default: Its default, as text; None if it is required.
        help: Its description from the docstring, in one line.
    """

    name: str
    default: str | None
    help: str


@dataclass(frozen=True)
class EncoderFacts:
    """The description of an encoder with the requested options.

    Attributes:
        entry: Name, package, modality, fields.
        about: The first line of its docstring.
        model: The description of its model argument in the docstring.
        options: Its options.
        dim: Length of the vectors; None if it is not known yet.
        fingerprint: Identifies its vectors in the cache; None if it is not known yet.
        weights: The source of its weights; None if it has none, or does not name it.
        missing: Why a value above is not known yet; None if all are known.
    """

    entry: EncoderEntry
    about: str
    model: str
    options: list[Option]
    dim: int | None
    fingerprint: str | None
    weights: str | None
    missing: str | None


def encoder_facts(spec: EncoderSpec) -> EncoderFacts:
    """Describe an encoder, without any download.

    Raises:
        UsageError: If the encoder does not exist, or does not accept the options.
        CammsrError: If the encoder is broken.
    """
    with _without_network():
        entry, kind = find_class(spec.name)
        encoder = make_encoder(spec)
        known: dict[str, Any] = {}
        missing = None
        attributes: dict[str, Callable[[], Any]] = {
            "fingerprint": lambda: full_fingerprint(encoder, spec.name),
            "weights": lambda: getattr(encoder, "weights", None),
            "dim": lambda: vector_length(encoder, spec.name),
        }
        for name, ask in attributes.items():
            try:
                known[name] = _attribute(spec.name, name, ask)
            except WeightsUnavailable as error:
                missing = f"info downloads nothing, and so it says: {first_line(error)}"
    documented = {**argument_help(kind.__init__), **argument_help(kind)}
    return EncoderFacts(
        entry=entry,
        about=next(iter((inspect.getdoc(kind) or "").splitlines()), ""),
        model=documented.get("model", ""),
        options=[
            Option(
                one.name,
                None if one.default is inspect.Parameter.empty else _as_text(one.default),
                one.help,
            )
            for one in options_of(kind)
        ],
        dim=known.get("dim"),
        fingerprint=known.get("fingerprint"),
        weights=known.get("weights"),
        missing=missing,
    )


def _attribute(encoder_name: str, name: str, ask: Callable[[], Any]) -> Any:
    """Return an attribute of an encoder; report its exceptions as errors of the encoder."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # an encoder's prints are not results
            return ask()
    except (WeightsUnavailable, CammsrError):
        raise
    except (Exception, SystemExit) as error:  # third-party code
        fault = f"{type(error).__name__}: {first_line(error)}"
        raise CammsrError(
            f"encoder {encoder_name!r} cannot tell its `{name}`: {fault}", SEE_WHERE
        ) from error


def _as_text(default: object) -> str:
    """Return a default as it is written on the command line."""
    return "" if default is None else str(default)


@contextmanager
def _without_network() -> Iterator[None]:
    """Restrict model libraries that are not imported yet to local files."""
    before = {name: os.environ.get(name) for name in _OFFLINE}
    os.environ.update(_OFFLINE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
