"""From values of any kind, in memory or in a file, to 8-bit RGB.

What the values mean:

- uint8: levels 0…255. bool: 0 and 255.
- uint16: the smallest of 8, 10, 12, 14 and 16 bits that holds the largest value of the image is taken as its range, so
  that the 12 bits of a camera in a 16-bit file use all 256 levels.
- float in [0, 1]: times 255; what a resize overshoots is clipped.
- of files only: float in [0, 255]: levels; integers of 32 bits in 0…65535: as uint16.

Everything else (negative values, larger ones, NaN) has no agreed range and is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.images.faults import UnreadableError
from effdet.images.tensors import is_tensor, tensor_values

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = NDArray[Any]

_BIT_DEPTHS = (8, 10, 12, 14, 16)  # of cameras and scanners
_OVERSHOOT = 0.5  # of a bicubic resize of floats in [0, 1]


def to_rgb(image: Image.Image | Array | Tensor) -> Array:
    """Return an image held in memory as RGB.

    A Pillow image keeps its pixels as they are held (its EXIF orientation is not applied), so that boxes fit the image
    that the caller holds. The module says how values become levels.

    Args:
        image: Pillow image of any mode; array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; or tensor (C, H, W)
            or (H, W) with the same channels. uint8, bool, uint16 or float in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB, contiguous; it shares memory with the input where nothing had to change.

    Raises:
        TypeError: If it is none of these types.
        ValueError: If the shape or the range of values does not fit, or the image has no pixels.
    """
    if isinstance(image, Image.Image):
        return pillow_to_rgb(image)
    if is_tensor(image):
        if image.ndim == 3:
            _check_channels(image.shape[0], "a tensor image must be (C, H, W) with C = 1, 3 or 4", image.shape)
        image = tensor_values(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image must be a Pillow image, an array or a tensor, got {type(image).__name__}")

    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3:
        raise ValueError(f"an image must have 2 or 3 dimensions, got shape {tuple(image.shape)}")
    _check_channels(pixels.shape[2], "an image array must be (H, W) or (H, W, C) with C = 1, 3 or 4", image.shape)
    if pixels.size == 0:
        raise ValueError(f"an image must have pixels, got shape {tuple(image.shape)}")
    pixels = _to_levels(pixels)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3])


def pillow_to_rgb(image: Image.Image) -> Array:
    """Return a Pillow image of any mode as (H, W, 3) uint8 RGB.

    Raises:
        UnreadableError: If its values have no agreed range.
    """
    if image.mode in ("1", "L"):
        return to_rgb(np.asarray(image))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image.load()
        return stored_to_rgb(np.asarray(image))
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns if a palette with transparency becomes RGB at once
    return np.array(image.convert("RGB"))


def stored_to_rgb(values: Array) -> Array:
    """Return the values of a file, (H, W) or (H, W, C) of any type, as (H, W, 3) uint8 RGB.

    Raises:
        UnreadableError: If they have no agreed range.
    """
    if values.dtype in (np.uint8, np.uint16, np.bool_):
        return to_rgb(values)
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise UnreadableError(f"its values must be integers or floats, got {values.dtype}; convert it to 8 bits")
    low, high = values.min(), values.max()
    if np.issubdtype(values.dtype, np.integer):
        if low < 0 or high > 65535:
            raise UnreadableError(
                f"its integers must lie in 0…65535, got {_range(values)} ({values.dtype}); scale it to 8 bits"
            )
        return to_rgb(values.astype(np.uint16))
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return to_rgb(values)
    if not (low >= 0 and high <= 255):  # also true for NaN
        raise UnreadableError(
            f"its floats must lie in [0, 1] or [0, 255], got {_range(values)} ({values.dtype}); scale it to 8 bits"
        )
    return to_rgb(np.rint(values).astype(np.uint8))


def _range(values: Array) -> str:
    if np.isnan(values).any():
        return "NaN among them"
    return f"{values.min():g}…{values.max():g}"


def _to_levels(pixels: Array) -> Array:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return (pixels >> (_bits(int(pixels.max())) - 8)).astype(np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(
            f"an image must be uint8, uint16, bool or float in [0, 1], got {pixels.dtype}; convert it to uint8"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # also true for NaN
        raise ValueError(
            f"a float image must lie in [0, 1], got [{low:g}, {high:g}]; divide by 255, or convert it to uint8"
        )
    return np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)


def _bits(largest: int) -> int:
    return next(bits for bits in _BIT_DEPTHS if largest < 2**bits)


def _check_channels(channels: int, must: str, shape: Sequence[int]) -> None:
    if channels not in (1, 3, 4):
        raise ValueError(f"{must}, got {tuple(shape)}")
