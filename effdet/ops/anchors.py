"""Anchors: the boxes that predictions are relative to, for any input size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Array: TypeAlias = NDArray[Any]
AspectRatios: TypeAlias = Sequence[float | tuple[float, float]]


def level_sizes(image_size: tuple[int, int], min_level: int = 3, max_level: int = 7) -> list[tuple[int, int]]:
    """Return the (height, width) in cells of the feature maps P``min_level`` … P``max_level``, fine to coarse.

    Every level halves the one below, rounded up: a side of 320 pixels has 3 cells on P7.

    Raises:
        ValueError: If a side is not positive or ``min_level`` is above ``max_level``.
    """
    height, width = image_size
    if min(height, width) < 1:
        raise ValueError(f"image_size must be two positive numbers (height, width), got {tuple(image_size)}")
    if not 0 <= min_level <= max_level:
        raise ValueError(f"levels must satisfy 0 <= min_level <= max_level, got {min_level} and {max_level}")
    # Halving l times, rounded up each time, is one division by 2^l rounded up.
    return [(-(-height // 2**level), -(-width // 2**level)) for level in range(min_level, max_level + 1)]


def make_anchors(
    image_size: tuple[int, int],
    feature_sizes: Sequence[tuple[int, int]],
    *,
    scale: float = 4.0,
    scales_per_octave: int = 3,
    aspect_ratios: AspectRatios = (1.0, 2.0, 0.5),
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the anchors of every level as a tensor (N, 4) on a device; see ``make_anchor_array``."""
    import torch

    anchors = make_anchor_array(
        image_size, feature_sizes, scale=scale, scales_per_octave=scales_per_octave, aspect_ratios=aspect_ratios
    )
    return torch.from_numpy(anchors).to(device)


def make_anchor_array(
    image_size: tuple[int, int],
    feature_sizes: Sequence[tuple[int, int]],
    *,
    scale: float = 4.0,
    scales_per_octave: int = 3,
    aspect_ratios: AspectRatios = (1.0, 2.0, 0.5),
) -> Array:
    """Return the anchors of every level, fine to coarse, as one list.

    The stride of a level is image side / feature side for each axis, a fraction where the image is not a multiple
    of it. The anchor at row i, column j is centred on pixel ((j + ½)·stride_x, (i + ½)·stride_y). With aspect ratio r
    and base = ``scale`` · stride · 2^(octave / ``scales_per_octave``), it is base·√r wide and base/√r high. A pair of
    factors (1.4, 0.7) in place of r makes it 1.4·base wide and 0.7·base high.

    Args:
        image_size: Network input (height, width) in pixels; any size.
        feature_sizes: (height, width) in cells of each level, fine to coarse, as ``level_sizes`` returns them.
        scale: Side of a level's smallest square anchor in strides.
        scales_per_octave: Number of anchor sizes between one level and the next.
        aspect_ratios: Width / height of each shape, or its (width, height) factors.

    Returns:
        (N, 4) float32 xyxy pixels, ordered by level, row, column, octave, aspect ratio.
        Anchors may reach beyond the image.
    """
    shapes = _cell_shapes(scale, scales_per_octave, aspect_ratios)  # (A, 2)
    levels = [_level_anchors(image_size, size, shapes) for size in feature_sizes]
    return np.concatenate(levels).astype(np.float32)


def _cell_shapes(scale: float, scales_per_octave: int, aspect_ratios: AspectRatios) -> Array:
    """Return (A, 2) float64: width and height in strides of a cell's anchors, ordered by octave, aspect ratio."""
    octaves = np.arange(scales_per_octave, dtype=np.float64) / scales_per_octave
    pairs = [r if isinstance(r, tuple) else (math.sqrt(r), 1 / math.sqrt(r)) for r in aspect_ratios]
    sides = scale * 2**octaves
    return (sides[:, None, None] * np.array(pairs, dtype=np.float64)).reshape(-1, 2)


def _level_anchors(image_size: tuple[int, int], feature_size: tuple[int, int], shapes: Array) -> Array:
    """Return (rows · columns · A, 4) float64 xyxy anchors of one level."""
    rows, columns = feature_size
    stride_y, stride_x = image_size[0] / rows, image_size[1] / columns
    y = (np.arange(rows, dtype=np.float64) + 0.5) * stride_y
    x = (np.arange(columns, dtype=np.float64) + 0.5) * stride_x

    centres = np.stack(np.meshgrid(x, y, indexing="xy"), axis=-1)  # (rows, columns, 2) x, y
    centres = centres[:, :, None]  # (rows, columns, 1, 2)
    half_sides = shapes * np.array([stride_x, stride_y]) / 2  # (A, 2)
    corners = np.concatenate([centres - half_sides, centres + half_sides], axis=-1)  # (rows, columns, A, 4)
    return corners.reshape(-1, 4)
