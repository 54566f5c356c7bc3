"""The anchors of an architecture."""

from __future__ import annotations

import torch
from torch import Tensor

from effdet.models.architecture import Architecture
from effdet.ops.anchors import level_sizes, make_anchors


def anchors_of(
    architecture: Architecture, image_size: tuple[int, int], device: torch.device | str | None = None
) -> Tensor:
    """Return the (N, 4) float32 xyxy anchors in pixels of a network input (height, width); see ``make_anchors``."""
    return make_anchors(
        image_size,
        level_sizes(image_size, architecture.min_level, architecture.max_level),
        scale=architecture.anchor_scale,
        scales_per_octave=architecture.scales_per_octave,
        aspect_ratios=architecture.aspect_ratios,
        device=device,
    )
