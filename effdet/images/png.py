"""Look into PNG data: its bit depth, and whether its chunks are as they were written."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_START = b"\x89PNG\r\n\x1a\n"
_HEADER_LENGTH = 33  # of the start and the IHDR chunk
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_BLOCK = 1 << 20  # bytes that are unpacked at a time
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS")


def is_png(data: NDArray[np.uint8]) -> bool:
    """Return whether these bytes begin as a PNG does."""
    return data[:8].tobytes() == _START


def bit_depth(data: NDArray[Any]) -> int:
    """Return the bits of each sample of a PNG: 1, 2, 4, 8 or 16."""
    return int(data[24]) if len(data) >= _HEADER_LENGTH else 0


def has_all_rows(data: NDArray[np.uint8]) -> bool:
    """Return whether the pixels of a PNG unpack to as many bytes as its header says.

    Pillow shows a picture with black rows where they are fewer. An interlaced picture is taken as whole.
    """
    width, height = (int.from_bytes(data[at : at + 4].tobytes(), "big") for at in (16, 20))
    channels = _CHANNELS.get(int(data[25])) if len(data) >= _HEADER_LENGTH else None
    if channels is None or data[28]:
        return True
    missing = height * (1 + (width * channels * bit_depth(data) + 7) // 8)
    unpack, view = zlib.decompressobj(), memoryview(data.tobytes())
    for kind, start, end in _chunks(view):
        if kind != b"IDAT":
            continue
        packed: bytes | memoryview = view[start:end]
        while packed and missing > 0 and not unpack.eof:
            missing -= len(unpack.decompress(packed, _BLOCK))
            packed = unpack.unconsumed_tail
    return missing <= 0


def _chunks(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each chunk, and where its content begins and ends."""
    at = 8
    while at + 12 <= len(view):
        length = int.from_bytes(view[at : at + 4], "big")
        yield bytes(view[at + 4 : at + 8]), at + 8, at + 8 + length
        at += 12 + length


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
