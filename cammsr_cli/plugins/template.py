"""The template of a plugin: an installable package with a working encoder and its tests."""

from __future__ import annotations

import importlib.util
import keyword
import shutil
import tempfile
from pathlib import Path
from string import Template

from cammsr_encoders.protocol import MODALITY_NAME

from cammsr_cli.errors import UsageError
from cammsr_cli.plugins.registry import find_encoders

_PYPROJECT = Template("""\
[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "$distribution"
version = "0.1.0"
description = "The encoder $name for cammsr."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["cammsr", "numpy>=2.0"]

[project.optional-dependencies]
test = ["pytest>=8.3"]

[project.entry-points."cammsr.encoders"]
$name = "$package:$kind"

[tool.hatch.build.targets.wheel]
packages = ["$package"]
""")

_README = Template("""\
# $distribution

An encoder for cammsr: `$name`. It works as it is, and counts words; make it yours in
`$package/__init__.py`.

    pip install --editable '.[test]'
    cammsr encoders info $name
    cammsr encoders check $name
    pytest

Then use it like any other:

    cammsr prepare shop --out shop.h5 --encoder text --encoder $name
    cammsr prepare shop --out shop.h5 --encoder text --encoder $name=,buckets=128

Keep `fingerprint` honest: raise the version in `pyproject.toml` with every change of what the
vectors are, or vectors from before will be taken from the cache.
""")

_ENCODER = Template('''\
"""The encoder `$name`."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from cammsr_encoders import BadSample, fingerprint_of, whole_number
from numpy.typing import NDArray

# Import torch, or whatever else is large, where it is used and not here: this file is imported
# whenever encoders are listed.


class $kind:
    """Counts an item's words, each in one of so many buckets.

    Args:
        model: None; this encoder has no models to choose from.
        device: Where `encode` runs: "cpu", "cuda", "cuda:N" or "mps".
        precision: "float32" or "bfloat16".
        buckets: Length of the vectors.
    """

    api = 1  # the version of the contract
    modality = "$name"  # the name of the vectors in a data set and in the model
    fields = ("title", "description")  # what is read; "image" and "video" hold file paths

    def __init__(
        self,
        model: str | None = None,
        *,
        device: str = "cpu",
        precision: str = "float32",
        buckets: int | str = 64,  # from the command line options come as strings
    ) -> None:
        if model is not None:
            raise ValueError(f"encoder $name has no models, so not {model!r} either")
        self.dim = whole_number("buckets", buckets, 1, 65_536)

    @property
    def fingerprint(self) -> str:
        """All that decides the vectors; cached ones are found by it."""
        return fingerprint_of(self, "$distribution", buckets=self.dim)

    def load(self, item: Mapping[str, str]) -> list[int]:
        """Read and decode one item, on a CPU; any of the fields may be absent."""
        text = " ".join(item.get(field, "") for field in self.fields)
        words = re.findall(r"\\w+", text.lower())
        if not words:
            raise BadSample("no words")
        return [zlib.crc32(word.encode()) % self.dim for word in words]

    def encode(self, samples: list[Any]) -> NDArray[np.float32]:
        """Vectors of what `load` returned: float32 [len(samples), dim], in that order."""
        vectors = np.zeros((len(samples), self.dim), np.float32)
        for row, buckets in enumerate(samples):
            np.add.at(vectors[row], buckets, 1)
        return np.log1p(vectors)
''')

_TEST = Template('''\
"""The contract that every encoder must pass, and what this one is for."""

from cammsr_encoders.testing import EncoderContract
from $package import $kind


class Test$kind(EncoderContract):
    kind = $kind
    changing = {"buckets": "32"}  # noqa: RUF012 - each option, with another value to try


def test_a_word_said_twice_counts_for_more() -> None:
    encoder = $kind()
    once, twice = encoder.encode([encoder.load({"title": t}) for t in ("sea", "sea, sea")])
    assert twice.max() > once.max() > 0
''')


def write_plugin(name: str, folder: Path | None = None) -> Path:
    """Write a plugin package as a starting point; it is installable and passes its own tests.

    Args:
        name: Name of the encoder and of its modality.
        folder: The folder to write; a new folder "cammsr-NAME" in the current one if None.

    Returns:
        The folder.

    Raises:
        UsageError: If the name is invalid or already in use, or the folder is not empty.
    """
    _require_free(name)
    distribution = f"cammsr-{name.replace('_', '-')}"
    folder = folder or Path(distribution)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(
            f"{folder} is there already and nothing is overwritten", "Name another: --out FOLDER"
        )
    package = f"cammsr_{name}"
    words = {
        "name": name,
        "distribution": distribution,
        "package": package,
        "kind": "".join(word.capitalize() for word in name.split("_")) + "Encoder",
    }
    files = {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        f"{package}/__init__.py": _ENCODER,
        f"tests/test_{name}.py": _TEST,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        partial.chmod(0o755)
        for path, template in files.items():
            (partial / path).parent.mkdir(exist_ok=True)
            (partial / path).write_text(template.substitute(words), encoding="utf-8")
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _require_free(name: str) -> None:
    if keyword.iskeyword(name):
        raise UsageError(
            f"an encoder cannot be called {name!r}: that is a keyword of Python",
            "Choose another name",
        )
    if not MODALITY_NAME.fullmatch(name) or name == "id":
        raise UsageError(
            f"an encoder cannot be called {name!r}",
            "Use lower-case letters, digits and _, beginning with a letter; 'id' is taken",
        )
    for entry in find_encoders():
        if entry.name == name:
            raise UsageError(
                f"{entry.distribution} {entry.version} brings an encoder {name!r} already, and a "
                "name that two packages claim cannot be used",
                "Choose another name",
            )
    if importlib.util.find_spec(f"cammsr_{name}") is not None:
        raise UsageError(f"there is a Python package cammsr_{name} already", "Choose another name")
