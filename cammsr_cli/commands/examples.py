"""Examples of a command, shown at the end of its help."""

from __future__ import annotations

from collections.abc import Sequence


def epilog(examples: Sequence[str]) -> str:
    r"""Format the examples as help text; `\b` keeps each example on its own line."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
