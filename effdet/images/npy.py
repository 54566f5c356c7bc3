"""Read an image from the bytes of a NumPy file (.npy)."""

from __future__ import annotations

import io
import math
from typing import Any, TypeAlias

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from effdet.images.faults import UnreadableError

Array: TypeAlias = NDArray[Any]

_START = b"\x93NUMPY"


def is_npy(data: NDArray[np.uint8]) -> bool:
    """Return whether these bytes begin as a NumPy file does."""
    return data[:6].tobytes() == _START


def read_npy(data: NDArray[np.uint8]) -> Array:
    """Return the array of a NumPy file as (H, W, C).

    Nothing in the file is run: arrays of Python objects are refused.

    Raises:
        UnreadableError: If it is damaged, or holds no numbers (H, W) or (H, W, C).
    """
    file = io.BytesIO(data.tobytes())
    shape, is_fortran, dtype = _header(file)
    rest = len(data) - file.tell()
    if dtype.hasobject or dtype.kind not in "biuf":
        raise UnreadableError(f"is a NumPy file of {dtype}, which are no pixels")
    if len(shape) not in (2, 3) or 0 in shape:
        raise UnreadableError(f"is a NumPy file of the shape {shape}; an image must be (height, width[, channels])")
    if rest < math.prod(shape) * dtype.itemsize:
        raise UnreadableError("is a NumPy file that is truncated")
    flat = np.frombuffer(file.read(math.prod(shape) * dtype.itemsize), dtype=dtype)
    values = flat.reshape(shape, order="F" if is_fortran else "C")
    return values if values.ndim == 3 else values[..., None]


def npy_size(start: bytes) -> tuple[int, int] | None:
    """Return the (height, width) of the image in a NumPy file from its first bytes; None if they do not tell."""
    try:
        shape, _, _ = _header(io.BytesIO(start))
    except UnreadableError:
        return None
    return (int(shape[0]), int(shape[1])) if len(shape) in (2, 3) else None


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy_format.read_magic(file)
        read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
        header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
        return header
    except Exception as error:  # ValueError, SyntaxError, struct.error, ... by what is damaged
        raise UnreadableError("is a NumPy file with a damaged header") from error
