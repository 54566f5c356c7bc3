"""The anchors of an architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from effdet.models.architecture import Architecture
from effdet.ops.anchors import level_sizes, make_anchor_array

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def anchors_of(
    architecture: Architecture, image_size: tuple[int, int], device: torch.device | str | None = None
) -> Tensor:
    """Return the (N, 4) float32 xyxy anchors in pixels of a network input (height, width) as a tensor."""
    import torch

    return torch.from_numpy(anchor_array_of(architecture, image_size)).to(device)


def anchor_array_of(architecture: Architecture, image_size: tuple[int, int]) -> NDArray[Any]:
    """Return the (N, 4) float32 xyxy anchors in pixels of a network input (height, width) as an array."""
    return make_anchor_array(
        image_size,
        level_sizes(image_size, architecture.min_level, architecture.max_level),
        scale=architecture.anchor_scale,
        scales_per_octave=architecture.scales_per_octave,
        aspect_ratios=architecture.aspect_ratios,
    )
