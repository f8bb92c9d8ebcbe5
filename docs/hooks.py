"""What the documentation site makes of the code: its commands, its settings, and mathematics.

Formulas between `$` or `$$` become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from cammsr_cli.config import described

COMMANDS = ("prepare", "train", "evaluate", "recommend", "info", "merge", "tune", "encoders")

_MATHS = re.compile(r"```.*?```|`[^`\n]*`|\$\$(.+?)\$\$|\$(?!\s)([^$\n]+?)(?<!\s)\$", re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from the code."""
    pages = {"reference/commands.md": _commands(), "reference/settings.md": _settings()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Formulas to MathML; code stays as it is."""
    if page.file.src_uri != "method.md":  # a dollar is a dollar elsewhere
        return markdown
    return _MATHS.sub(_formula, markdown)


def _formula(found: re.Match[str]) -> str:
    block, inline = found.groups()
    if block is None and inline is None:
        return found.group()
    return convert(block or inline, display="block" if block else "inline")


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
