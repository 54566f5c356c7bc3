"""A training image with its boxes, while it is augmented."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.images.preprocessing import Scales

Array: TypeAlias = NDArray[Any]

MIN_VISIBLE = 0.1  # smallest part of a box's area that must remain in the image after a crop
MIN_SIDE = 1.0  # pixels; a thinner box counts as degenerate


class Sample(NamedTuple):
    """An image with its boxes, in pixels of that image."""

    image: Array  # (H, W, C) levels in 0…255, uint8 or float32
    boxes: NDArray[np.float32]  # (M, 4) xyxy
    labels: NDArray[np.int64]  # (M,)
    is_crowd: NDArray[np.bool_]  # (M,)


class Augmented(NamedTuple):
    """A sample in pixels of the network input. The resized image is in the top-left corner; the rest is padding."""

    image: Array  # (H, W, C) levels in 0…255, uint8 or float32
    boxes: NDArray[np.float32]  # (M, 4) xyxy
    labels: NDArray[np.int64]  # (M,)
    is_crowd: NDArray[np.bool_]  # (M,)
    content_size: tuple[int, int]  # (height, width) of the image without padding
    scales: Scales  # network pixels per original pixel, along x and along y


def keep_visible(sample: Sample) -> Sample:
    """Clip the boxes to the image and drop those that are mostly outside.

    A box is kept if at least 10 % of its area lies inside the image and the clipped box is at least one pixel wide and
    high. (The published recipe keeps clipped boxes of any size, and the model then learns to find objects in noise.)
    A clipped crowd box needs only the width and height of one pixel, because it only marks anchors to ignore.
    """
    height, width = sample.image.shape[:2]
    boxes = np.clip(sample.boxes, 0, np.array([width, height, width, height], dtype=np.float32))
    sides = boxes[:, 2:] - boxes[:, :2]
    visible = sides.prod(axis=1) >= MIN_VISIBLE * (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(axis=1)
    keep = (sides >= MIN_SIDE).all(axis=1) & (visible | sample.is_crowd)
    return Sample(sample.image, boxes[keep], sample.labels[keep], sample.is_crowd[keep])
