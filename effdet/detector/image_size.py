"""The size of the network input, as callers may give it."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any


def check_image_size(size: Any) -> tuple[int, int]:
    """Return the (height, width) of a network input that is given as one side or as a pair.

    Raises:
        TypeError: If it is neither a whole number nor a pair of them.
        ValueError: If a side is below 1.
    """
    sides = (size, size) if isinstance(size, numbers.Integral) else size
    is_pair = isinstance(sides, Sequence) and not isinstance(sides, str) and len(sides) == 2
    if not is_pair or not all(isinstance(side, numbers.Integral) and not isinstance(side, bool) for side in sides):
        raise TypeError(f"image_size must be one whole number or a pair (height, width) of them, got {size!r}")
    if min(sides) < 1:
        raise ValueError(f"image_size must have sides of 1 pixel or more, got {size}")
    return int(sides[0]), int(sides[1])
