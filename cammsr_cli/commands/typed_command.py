"""A command line as it was typed, made from what was parsed: to be kept and run again."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from enum import Enum
from typing import Any

import typer


def as_typed(context: typer.Context, left_out: Collection[str]) -> str:
    """The command with the arguments that were given on the command line.

    Args:
        context: Of the command.
        left_out: Names of parameters that decide nothing of the result.
    """
    words = ["cammsr", context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in left_out:
            words += _words(parameter, context.params[name])
    return shlex.join(words)


def _words(parameter: Any, value: Any) -> Iterator[str]:
    values = value if isinstance(value, list | tuple) else [value]
    if parameter.param_type_name == "argument":
        yield from map(_text, values)
        return
    longest = max(parameter.opts, key=len)
    if parameter.is_flag:
        yield longest if value else max(parameter.secondary_opts, key=len)
        return
    for one in values:
        yield from (longest, _text(one))


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)
