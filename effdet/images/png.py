"""Look into PNG data: its bit depth, and whether its chunks are as they were written."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_START = b"\x89PNG\r\n\x1a\n"
_HEADER_LENGTH = 33  # of the start and the IHDR chunk
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS")


def is_png(data: NDArray[np.uint8]) -> bool:
    """Return whether these bytes begin as a PNG does."""
    return data[:8].tobytes() == _START


def bit_depth(data: NDArray[Any]) -> int:
    """Return the bits of each sample of a PNG: 1, 2, 4, 8 or 16."""
    return int(data[24]) if len(data) >= _HEADER_LENGTH else 0


def damaged_chunk(data: NDArray[np.uint8]) -> str | None:
    """Return the type of the first chunk of pixels whose check sum is wrong, or that is cut off; None if all are right.

    Pillow does not look at the check sums of pixels, and shows wrong ones.
    """
    view, at = memoryview(data.tobytes()), 8
    while at + 12 <= len(data):
        length, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 8 + length
        if kind == b"IEND":
            return None
        if kind in _PIXELS and zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return kind.decode()
        at = end + 4
    return "IEND"
