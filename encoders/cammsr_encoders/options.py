"""An encoder's options, read from its constructor and its docstring."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

GIVEN = ("device", "precision")
"""Keywords that every encoder is given, and that are no options of its own."""


@dataclass(frozen=True)
class EncoderOption:
    """A keyword of an encoder's constructor, beside `device` and `precision`.

    Attributes:
        name: The option.
        default: Its default; `inspect.Parameter.empty` if it must be given.
        help: What the class's docstring says of it, in one line; empty if nothing.
    """

    name: str
    default: object
    help: str


def options_of(kind: Any) -> list[EncoderOption]:
    """The options that an encoder's constructor names, in its order.

    Args:
        kind: The class. Help is read from the part "Args:" of its docstring, or its
            constructor's, as Google style writes it.
    """
    help_of = {**argument_help(getattr(kind, "__init__", None)), **argument_help(kind)}
    named = [
        one
        for one in inspect.signature(kind).parameters.values()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    model = named[0].name if named and named[0].kind is not named[0].KEYWORD_ONLY else "model"
    return [
        EncoderOption(one.name, one.default, help_of.get(one.name, ""))
        for one in named
        if one.name not in (model, *GIVEN)
    ]


def argument_help(documented: object) -> dict[str, str]:
    """What a Google-style docstring says under "Args:", by argument, each in one line."""
    text = inspect.getdoc(documented) or ""
    _, _, section = text.partition("\nArgs:\n")
    help_of: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break  # the next section
        begins = re.match(r" {2,4}(\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if begins:
            name = begins[1]
            help_of[name] = begins[2]
        elif name and line.strip():
            help_of[name] += f" {line.strip()}"
    return help_of
