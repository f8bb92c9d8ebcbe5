"""What the documentation site makes of the code: its commands, its settings, and mathematics.

Formulas between `$` or `$$` become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html import unescape
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

from cammsr_cli.config import described

COMMANDS = (
    "prepare",
    "train",
    "evaluate",
    "recommend",
    "export",
    "runs",
    "info",
    "merge",
    "tune",
    "encoders",
    "doctor",
)

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    pages = {"reference/commands.md": _commands(), "reference/settings.md": _settings()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Formulas, which the extension arithmatex has found, to MathML."""
    return _FORMULA.sub(
        lambda found: convert(
            unescape(found[2]), display="block" if found[1] == "div" else "inline"
        ),
        html,
    )


def _commands() -> str:
    """The help of each command, as `--help` prints it."""
    parts = ["# Commands\n\nEach is what `cammsr COMMAND --help` prints.\n"]
    for name in COMMANDS:
        shown = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "cammsr_cli", name, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "100"},
        ).stdout
        parts.append(f"## cammsr {name}\n\n```text\n{shown.strip()}\n```\n")
    return "\n".join(parts)


def _settings() -> str:
    """All settings of `train`, with their defaults."""
    lines = ["# Settings\n", "As `cammsr train --list-settings` shows them.\n"]
    section = ""
    for name, default, meaning in described():
        if not name.startswith(f"{section}."):
            section = name.partition(".")[0]
            lines += [f"\n## {section}\n", "| setting | default | meaning |", "|---|---|---|"]
        lines.append(f"| `{name}` | `{default}` | {meaning} |")
    return "\n".join(lines)
