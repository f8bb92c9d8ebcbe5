"""How a command's examples are shown at the end of its help."""

from __future__ import annotations

from collections.abc import Sequence


def epilog(examples: Sequence[str]) -> str:
    r"""The examples as help text; `\b` keeps each on a line of its own."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)
