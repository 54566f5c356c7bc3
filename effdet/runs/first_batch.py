"""The picture of the first batch of a run, as the network is shown it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.visualize import as_rgb, draw_targets, save_image

if TYPE_CHECKING:
    from effdet.detector.efficientdet import EfficientDet
    from effdet.structures import Batch, Target

MAX_IMAGES = 16
MAX_SIDE = 2600  # pixels of the picture, unless one image is larger


def draw_first_batch(file: Path, model: EfficientDet, batch: Batch) -> None:
    """Draw images of a batch with their boxes in a grid, pixel by pixel: at most 16, and fewer where they are large.

    The images are those that the network receives, normalised, and brought back to levels: so the picture also shows a
    wrong mean or a wrong order of channels. Padding, which is 0 there, has the mean colour.

    Args:
        file: PNG.
        model: Normalises the batch.
        batch: Augmented images with their targets.
    """
    height, width = batch.images.shape[-2:]
    columns, rows = (max(1, min(4, MAX_SIDE // side)) for side in (width, height))
    columns = min(columns, math.ceil(math.sqrt(len(batch.targets))))
    shown = min(len(batch.targets), MAX_IMAGES, columns * rows)
    pictures = [
        _draw(levels, target, model.class_names)
        for levels, target in zip(_levels(model, batch, shown), batch.targets, strict=False)
    ]
    pictures += [np.full_like(pictures[0], 255)] * (-shown % columns)
    lines = [np.concatenate(pictures[first : first + columns], axis=1) for first in range(0, len(pictures), columns)]
    save_image(file, np.concatenate(lines))


@torch.no_grad()
def _levels(model: EfficientDet, batch: Batch, count: int) -> list[NDArray[np.uint8]]:
    """Return the network's input for the first images as (H, W, 3) pictures."""
    normalised = model.normalise(batch.images[:count].to(model.device), batch.content_sizes[:count])
    levels = normalised * model.std.view(-1, 1, 1) + model.mean.view(-1, 1, 1)
    return [as_rgb(image.permute(1, 2, 0).cpu().numpy()) for image in levels]


def _draw(levels: NDArray[np.uint8], target: Target, class_names: Sequence[str]) -> NDArray[np.uint8]:
    boxes = torch.cat([target.boxes, target.crowd_boxes])
    labels = [*target.classes.tolist(), *[len(class_names)] * len(target.crowd_boxes)]
    return draw_targets(levels, boxes, labels, class_names=(*class_names, "crowd"))
