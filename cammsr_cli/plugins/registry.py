"""Finds encoders by their entry points; a broken plugin is reported and affects nothing else."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from cammsr_encoders.options import GIVEN, options_of
from cammsr_encoders.protocol import (
    API,
    ENTRY_POINTS,
    MODALITY_NAME,
    Encoder,
    UnknownOption,
    WeightsUnavailable,
    check_options,
)

from cammsr_cli.errors import SEE_WHERE, CammsrError, UsageError, closest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True)
class EncoderEntry:
    """An encoder that an installed package provides.

    Attributes:
        name: Its name for users.
        distribution: The package that provides it.
        version: The version of the package.
        target: The location of its class, as "module:Class".
        modality: The modality that it produces; None if not known.
        fields: The item fields that it reads; empty if not known.
        broken: Why it cannot be used, in one line; None if it can.
    """

    name: str
    distribution: str
    version: str
    target: str
    modality: str | None = None
    fields: tuple[str, ...] = ()
    broken: str | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """A requested encoder, with its model and options.

    Attributes:
        name: The encoder.
        model: Its model, in the form that the encoder defines; None for its default.
        options: Its other options, as strings.
    """

    name: str
    model: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> EncoderSpec:
        """Parse "NAME", "NAME=MODEL", "NAME=MODEL,option=value,..." or "NAME=,option=value".

        A model may contain "/", ":", "-", and commas that do not look like the start of an option.

        Raises:
            UsageError: If the text has another form.
        """
        name, equals, rest = text.strip().partition("=")
        form = "write NAME, NAME=MODEL or NAME=MODEL,option=value (no model: NAME=,option=value)"
        if not _NAME.fullmatch(name):
            raise UsageError(f"encoder {text!r}: {name!r} is not an encoder's name", form)
        model, *pairs = re.split(rf",(?={_OPTION.pattern})", rest) if equals else [""]
        if model.startswith(","):
            raise UsageError(f"encoder {text!r}: {model[1:]!r} is not option=value", form)
        if _OPTION.match(model):
            raise UsageError(
                f"encoder {text!r}: {model!r} stands where the model belongs",
                f"for the default model write {name}=,{model}",
            )
        options: dict[str, str] = {}
        for pair in pairs:
            option, _, value = pair.partition("=")
            if option in options:
                raise UsageError(f"encoder {text!r}: option {option!r} is given twice", form)
            options[option] = value
        return cls(name, model or None, options)

    def __str__(self) -> str:
        pairs = [f"{option}={value}" for option, value in self.options.items()]
        rest = ",".join([self.model or "", *pairs])
        return f"{self.name}={rest}" if rest else self.name


def find_encoders() -> list[EncoderEntry]:
    """Return all installed encoders, sorted by name and package.

    Each encoder is imported, and marked as broken if the import fails. Two encoders with the same
    name are both listed, and both broken. No encoder is created, and no model is loaded.
    """
    return [
        entry
        for name, points in sorted(_points().items())
        for entry in sorted(
            (_entry(point, points)[0] for point in points), key=lambda one: one.distribution
        )
    ]


def find_class(name: str) -> tuple[EncoderEntry, Any]:
    """Return the entry and the class of the encoder with this name; import no other encoder.

    Raises:
        UsageError: If the encoder does not exist.
        CammsrError: If it is broken, or two packages provide an encoder with this name.
    """
    points = _points()
    if name not in points:
        like = closest(name, points)
        raise UsageError(
            f"no encoder is called {name!r}; there are: {', '.join(sorted(points)) or 'none'}",
            f"did you mean {like[0]}?" if like else "a plugin brings others once it is installed",
        )
    claims = points[name]
    if len(claims) > 1:
        raise CammsrError(
            f"encoder {name!r}: {_clash(claims)}",
            f"keep one of them: pip uninstall {_spare(claims)}",
        )
    entry, kind = _entry(claims[0], claims)
    if entry.broken is not None:
        raise CammsrError(
            f"encoder {name!r} of {entry.distribution} is broken: {entry.broken}",
            f"update or uninstall {entry.distribution}",
        )
    return entry, kind


def make_encoder(spec: EncoderSpec, device: str = "cpu", precision: str = "float32") -> Encoder:
    """Create the encoder that a spec requests; import no other encoder.

    Args:
        spec: Name, model and options.
        device: "cpu", "cuda", "cuda:N" or "mps".
        precision: "float32" or "bfloat16".

    Raises:
        UsageError: If the encoder does not exist, or does not accept the options.
        CammsrError: If the encoder is broken, or its weights are not available.
    """
    entry, kind = find_class(spec.name)
    whose = f"encoder {spec.name!r} of {entry.distribution} {entry.version}"
    try:
        _check_options(spec, kind)
        encoder = kind(spec.model, device=device, precision=precision, **spec.options)
        wrong = _wrong_in(encoder)
    except (UnknownOption, ValueError) as error:
        raise UsageError(f"--encoder {spec}: {error}") from error
    except WeightsUnavailable as error:
        raise CammsrError(f"encoder {spec.name!r}: {error}") from error
    except (Exception, SystemExit) as error:  # third-party constructors may raise anything
        raise CammsrError(f"{whose} cannot be made: {_one_line(error)}", SEE_WHERE) from error
    if wrong is not None:
        raise CammsrError(f"{whose} cannot be used: {wrong}")
    made: Encoder = encoder
    return made


def _check_options(spec: EncoderSpec, kind: Any) -> None:
    """Reject options that the constructor does not name, unless it accepts `**kwargs`."""
    parameters = inspect.signature(kind).parameters.values()
    if not any(one.kind is one.VAR_KEYWORD for one in parameters):
        check_options(spec.name, spec.options, [one.name for one in options_of(kind)])
    elif given := [name for name in spec.options if name in GIVEN]:
        raise UnknownOption(f"{given[0]!r} is no option of an encoder; write --{given[0]}")


def _points() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=ENTRY_POINTS):
        found.setdefault(point.name, []).append(point)
    return found


def _entry(point: EntryPoint, claims: list[EntryPoint]) -> tuple[EncoderEntry, Any]:
    """Return the entry and the class of one of the encoders that share a name."""
    kind, reason = _loaded(point)
    if len(claims) > 1:
        reason = _clash(claims)
    fields = getattr(kind, "fields", ())
    modality = getattr(kind, "modality", None)
    entry = EncoderEntry(
        point.name,
        _distribution(point),
        _version(point),
        point.value,
        modality=modality if isinstance(modality, str) else None,
        fields=tuple(map(str, fields)) if isinstance(fields, tuple | list) else (),
        broken=reason,
    )
    return entry, kind


def _clash(claims: list[EntryPoint]) -> str:
    """Return why a name cannot be used that several packages provide."""
    whose = sorted(f"{_distribution(one)} {_version(one)} ({one.value})" for one in claims)
    return f"the name is claimed by {' and '.join(whose)}"


def _spare(claims: list[EntryPoint]) -> str:
    """Return one of the packages that provide a name, to uninstall; avoid cammsr itself."""
    return sorted((_distribution(one) for one in claims), key=lambda name: name == "cammsr")[0]


def _loaded(point: EntryPoint) -> tuple[Any, str | None]:
    """Return a plugin's class, and why it cannot be used (None if it can)."""
    try:
        # stdout is for results; a plugin's prints during its import are none.
        with contextlib.redirect_stdout(sys.stderr):
            kind = point.load()
    except (Exception, SystemExit) as error:  # third-party modules may raise anything
        return None, _one_line(error)
    if not callable(kind):
        return None, f"{point.value} is not a class"
    api = getattr(kind, "api", None)
    if api != API or isinstance(api, bool):
        return None, f"written for encoder api {api!r}; this version has api {API}"
    missing = [one for one in ("modality", "fields", "load", "encode") if not hasattr(kind, one)]
    if missing:
        return kind, f"lacks {', '.join(missing)}"
    return kind, _wrong_in(kind) or _wrong_in_call(kind)


def _wrong_in(encoder: Any) -> str | None:
    """Return what is wrong with `fields` or `modality` of an encoder or its class, or None."""
    fields, modality = encoder.fields, encoder.modality
    if not _known_later(fields) and not (
        isinstance(fields, tuple) and fields and all(isinstance(one, str) for one in fields)
    ):
        return f"its `fields` is {fields!r}; it must be a tuple of item fields, such as ('title',)"
    if not _known_later(modality) and not (
        isinstance(modality, str) and MODALITY_NAME.fullmatch(modality) and modality != "id"
    ):
        return (
            f"its `modality` is {modality!r}; it must be lower-case letters, digits and _, begin "
            "with a letter, and not be 'id'"
        )
    return None


def _known_later(value: object) -> bool:
    """Return whether it is a property or similar, with a value only on an instance."""
    return hasattr(value, "__get__")


def _wrong_in_call(kind: Any) -> str | None:
    """Return why a class cannot be called like an encoder; None if its signature is unknown."""
    try:
        signature = inspect.signature(kind)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind_partial(None, device="cpu", precision="float32")
    except TypeError as error:
        return f"it cannot be made as Class(model, device=, precision=): {error}"
    return None


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown package"


def _version(point: EntryPoint) -> str:
    return point.dist.version if point.dist else "?"


def _one_line(error: BaseException) -> str:
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
