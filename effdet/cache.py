"""The folder of what can be made again: compiled kernels, the columns of large data sets."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return ``effdet`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``; it may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "effdet"
