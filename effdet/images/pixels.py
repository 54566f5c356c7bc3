"""Images in memory, of any kind and range of values, to 8-bit RGB arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Array: TypeAlias = NDArray[Any]


def to_rgb(image: Image.Image | Array | Tensor) -> Array:
    """Return an image held in memory as RGB.

    A Pillow image keeps its pixels as they are held (its EXIF orientation is not applied), so that boxes fit the image
    that the caller holds.

    Args:
        image: Pillow image of any mode; array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; or tensor (C, H, W)
            or (H, W) with the same channels. uint8, bool, uint16 (the high byte is used) or float in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB, contiguous; it shares memory with the input where nothing had to change.

    Raises:
        TypeError: If it is none of these types.
        ValueError: If the shape or the range of values does not fit, or the image has no pixels.
    """
    if isinstance(image, Image.Image):
        return pillow_to_rgb(image)
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        if tensor.ndim == 3:
            _check_channels(tensor.shape[0], "a tensor image must be (C, H, W) with C = 1, 3 or 4", tensor.shape)
            tensor = tensor.permute(1, 2, 0)
        image = tensor.numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image must be a Pillow image, an array or a tensor, got {type(image).__name__}")

    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3:
        raise ValueError(f"an image must have 2 or 3 dimensions, got shape {tuple(image.shape)}")
    _check_channels(pixels.shape[2], "an image array must be (H, W) or (H, W, C) with C = 1, 3 or 4", image.shape)
    if pixels.size == 0:
        raise ValueError(f"an image must have pixels, got shape {tuple(image.shape)}")
    pixels = _to_uint8(pixels)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3])


def pillow_to_rgb(image: Image.Image) -> Array:
    """Return a Pillow image of any mode as (H, W, 3) uint8 RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image.load()
        values = np.asarray(image)
        if image.mode != "F":  # 16-bit gray; older Pillow opens it as 32-bit "I"
            values = np.clip(values, 0, 65535).astype(np.uint16)
        return to_rgb(values)
    return np.array(image.convert("RGB"))


def _to_uint8(pixels: Array) -> Array:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(
            f"an image must be uint8, uint16, bool or float in [0, 1], got {pixels.dtype}; convert it to uint8"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -0.5 and high <= 1.5):  # a bicubic resize overshoots a little; also false for NaN
        raise ValueError(
            f"a float image must lie in [0, 1], got [{low:g}, {high:g}]; divide by 255, or convert it to uint8"
        )
    return np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)


def _check_channels(channels: int, must: str, shape: Sequence[int]) -> None:
    if channels not in (1, 3, 4):
        raise ValueError(f"{must}, got {tuple(shape)}")
