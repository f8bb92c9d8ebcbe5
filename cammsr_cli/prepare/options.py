"""The options of `cammsr prepare`, and their first checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cammsr_cli.data.corpus import SourceOptions
from cammsr_cli.data.dataset_write import require_replaceable
from cammsr_cli.data.readers.containers import holder_of
from cammsr_cli.encoding.features import FeatureOptions
from cammsr_cli.errors import UsageError
from cammsr_cli.media.download import DownloadOptions
from cammsr_cli.plugins.registry import EncoderSpec


@dataclass(frozen=True)
class PrepareOptions:
    """All options of `prepare`.

    Attributes:
        source: How to read the raw files.
        out: The data set to write.
        encoders: Encoders to run, in order.
        vectors: Modality to a file of precomputed vectors.
        media_root: Folder that media paths are relative to.
        features: How encoders are run.
        download: How media with a URL are downloaded; None uses only the cache.
        device: The resolved device of the encoders; several, separated by commas, share the work.
        precision: "float32" or "bfloat16".
        engine: "local" for this machine, "ray" for the nodes of a Ray cluster.
        strict: Whether an item that cannot be encoded is an error.
        force: Whether `out` may be replaced.
        command: The command that makes it again, kept in the data set; "" if there is none.
    """

    source: SourceOptions
    out: Path
    encoders: Sequence[EncoderSpec] = ()
    vectors: Mapping[str, Path] = field(default_factory=dict)
    media_root: Path | None = None
    features: FeatureOptions = field(default_factory=FeatureOptions)
    download: DownloadOptions | None = field(default_factory=DownloadOptions)
    device: str = "cpu"
    precision: str = "float32"
    engine: Literal["local", "ray"] = "local"
    strict: bool = False
    force: bool = False
    command: str = ""


def require_writable(options: PrepareOptions) -> None:
    """Check that the inputs exist and that the output may be written or replaced.

    Raises:
        UsageError: If not; the message names the path.
    """
    for source in (options.source.interactions, options.source.items):
        if source is not None and not (source.exists() or holder_of(source)):
            raise UsageError(f"{source}: no such file or folder", "Check the path.")
    require_replaceable(options.out, options.force)
    if options.media_root is not None and not options.media_root.is_dir():
        raise UsageError(f"--media-root {options.media_root} is not a folder")
