"""The location of the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Return `CAMMSR_CACHE_DIR` if set, otherwise the platform's folder for caches."""
    given = os.environ.get("CAMMSR_CACHE_DIR")
    return Path(given) if given else user_cache_path("cammsr")
