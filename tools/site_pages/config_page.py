"""The page of all config keys, made from ``effdet/config.py``."""

from __future__ import annotations

from effdet.runs.config_keys import keys_as_markdown


def markdown() -> str:
    """Return a section for each part of a config, as ``effdet config --markdown`` prints them."""
    return keys_as_markdown()
