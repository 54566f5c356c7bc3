"""The error of a config, and the check of one value."""

from __future__ import annotations

from typing import Any


class ConfigError(ValueError):
    """A config file or an override is wrong; the message names the file, the key and what is allowed."""


def check(ok: bool, key: str, must: str, got: Any) -> None:
    """Raise ``ConfigError`` unless a value is as it must be."""
    if not ok:
        raise ConfigError(f"{key} must {must}, got {got}")
