"""Writes a self-contained HTML page in one file, completely or not at all.

The page loads nothing from the network, and untrusted text cannot run as code. Only the scripts of
this package may run: the page's content security policy lists their SHA-256.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cammsr_cli import __version__
from cammsr_cli.files import refusals_named, require_table_output, written_whole
from cammsr_cli.locks import only_writer
from cammsr_cli.report.gallery import Gallery
from cammsr_cli.report.thumbnails import Album

_TEMPLATES = Path(__file__).parent / "templates"
_CHARTS = Path(__file__).parent / "charts" / "charts.min.js"

FORMS = {"image": "Picture", "video": "Clip", "text": "Text"}
"""Labels of modalities that are put forward; other modalities are shown by name."""

_COLOURED = ("id", "text", "image", "video")


def require_free(option: str, file: Path, force: bool) -> None:
    """Check that a file is an HTML file, and does not exist unless it may be replaced.

    Raises:
        UsageError: If not.
    """
    require_table_output(option, file, (".html",), "pages", ".html", force)


def write_gallery(file: Path, gallery: Gallery, album: Album, title: str, command: str) -> None:
    """Write a page with only a gallery.

    Raises:
        CammsrError: Another process is writing it, or the system refuses the write.
    """
    text = rendered("gallery.html", _context(gallery, album, title, command), charts=None)
    _write(file, text)


def write_report(
    file: Path,
    gallery: Gallery,
    album: Album,
    title: str,
    command: str,
    report: Mapping[str, Any],
    charts: Mapping[str, Any],
) -> None:
    """Write a report.

    Args:
        file: The file to write.
        gallery: Its users.
        album: Their pictures.
        title: Title of the page.
        command: The command that creates the report.
        report: Other data for the template.
        charts: Data of the charts.

    Raises:
        CammsrError: Another process is writing it, or the system refuses the write.
    """
    context = {**_context(gallery, album, title, command), **report}
    _write(file, rendered("report.html", context, charts))


def rendered(template: str, context: Mapping[str, Any], charts: Mapping[str, Any] | None) -> str:
    """Return the HTML text of a page."""
    scripts = [_source("page.js")]
    if charts is not None:
        scripts = [_CHARTS.read_text(encoding="utf-8"), _source("charts.js"), *scripts]
    return (
        _environment()
        .get_template(template)
        .render(
            **context,
            charts=charts,
            style=Markup(_source("style.css")),  # noqa: S704 - of this package
            scripts=[Markup(script) for script in scripts],  # noqa: S704 - of this package
            script_digests=[_digest(script) for script in scripts],
        )
    )


def _context(gallery: Gallery, album: Album, title: str, command: str) -> dict[str, Any]:
    return {
        "gallery": gallery,
        "album": album,
        "title": title,
        "command": command,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
    }


def _write(file: Path, text: str) -> None:
    with refusals_named(file), only_writer(file), written_whole(file) as partial:
        partial.write_text(text, encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_without_controls,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": clock,
        "colour": colour,
        "form": lambda modality: FORMS.get(modality, modality),
        "percent": lambda share: f"{abs(share):.0%}",  # never "-0%"
    }
    return environment


def clock(seconds: float) -> str:
    """Format a position in a video.

    >>> clock(0.52), clock(75), clock(3725)
    ('0.5 s', '1:15', '1:02:05')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def colour(stream: str, streams: list[str]) -> str:
    """Return the CSS class of a stream's colour."""
    if stream in _COLOURED:
        return f"of-{stream}"
    others = [name for name in streams if name not in _COLOURED]
    return f"of-other-{others.index(stream) % 3}"


def _without_controls(value: Any) -> Any:
    """Make control characters visible, because titles and ids are untrusted."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(c if c.isprintable() or not _control(c) else "\ufffd" for c in value)


def _control(character: str) -> bool:
    code = ord(character)
    return (code < 32 and character not in "\t\n\r") or 127 <= code < 160 or 0xD800 <= code < 0xE000


def _source(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return "sha256-" + b64encode(hashlib.sha256(script.encode()).digest()).decode()
