"""All there is to say of one encoder, for `cammsr encoders info`."""

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

# Model libraries that read these keep to what is on this machine.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Option:
    """An option, as people are told of it.

    Attributes:
        name: The option.
        default: Its default, as text; None if there is none and it must be given.
        help: What its docstring says, in one line.
    """

    name: str
    default: str | None
    help: str


@dataclass(frozen=True)
class EncoderFacts:
    """An encoder, with the options asked for.

    Attributes:
        entry: Name, package, modality, fields.
        about: The first line of its docstring.
        model: What its docstring says of the model.
        options: Its options.
        dim: Length of the vectors; None if it cannot be told yet.
        fingerprint: What cached vectors hang on; None if it cannot be told yet.
        weights: Where its weights come from; None if it has none, or does not say.
        missing: Why something above cannot be told yet; None if all is told.
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
    """What there is to say of an encoder; nothing is downloaded for it.

    Raises:
        UsageError: If there is no such encoder, or it does not take such options.
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
    """An attribute of an encoder; what it raises is told as its fault."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what an encoder prints is no result
            return ask()
    except (WeightsUnavailable, CammsrError):
        raise
    except (Exception, SystemExit) as error:  # a stranger's code
        fault = f"{type(error).__name__}: {first_line(error)}"
        raise CammsrError(
            f"encoder {encoder_name!r} cannot tell its `{name}`: {fault}", SEE_WHERE
        ) from error


def _as_text(default: object) -> str:
    """A default as it would be written on the command line."""
    return "" if default is None else str(default)


@contextmanager
def _without_network() -> Iterator[None]:
    """Let model libraries that are not imported yet keep to what is on this machine."""
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
