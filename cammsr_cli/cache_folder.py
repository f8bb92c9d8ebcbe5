"""Where work is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """`CAMMSR_CACHE_DIR` if set, else the platform's own place for caches."""
    given = os.environ.get("CAMMSR_CACHE_DIR")
    return Path(given) if given else user_cache_path("cammsr")
