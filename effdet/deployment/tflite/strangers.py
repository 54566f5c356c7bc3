"""Describe a ``.tflite`` file that another program wrote, from its TFLite metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effdet.deployment.description import Description
    from effdet.deployment.tflite.runtime import LiteRt


def describe(runtime: LiteRt) -> Description | None:
    """Return the description of a file, as far as its metadata has one."""
    return None
