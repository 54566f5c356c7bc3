"""Augmentations that combine several images: mosaic and mixup. They come before those of ``transforms``."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from effdet.data.samples import Array, Sample, keep_visible
from effdet.images.letterbox import pad, resize_linear
from effdet.images.preprocessing import Fit


def mosaic(
    samples: Sequence[Sample],
    image_size: tuple[int, int],
    fill: tuple[int, ...],
    rng: np.random.Generator,
    fit: Fit = "letterbox",
) -> Sample:
    """Put four images around a random point, on a canvas as large as the network input (Bochkovskiy et al. 2020).

    Each image is scaled to fit into the network input, with its aspect ratio or stretched to fill it, so its objects
    are as large as without a mosaic. It is placed so that one of its corners is at the point: the first image above and
    to the left of the point, then above right, below left, below right. The parts outside the canvas are cut off.

    Args:
        samples: Four samples of any sizes.
        image_size: Network input (H, W).
        fill: Level of each channel where no image lies.
        rng: The point is drawn uniformly from the middle half of each side of the canvas.
        fit: How each image is brought into the network input.

    Returns:
        A sample of H × W with the boxes that ``keep_visible`` returns, in the order of the samples.

    Raises:
        ValueError: If there are not four samples.
    """
    if len(samples) != 4:
        raise ValueError(f"a mosaic needs 4 samples, got {len(samples)}")
    height, width = image_size
    one = np.array(fill, samples[0].image.dtype).reshape(1, 1, -1)
    canvas = pad(one, (height, width), fill)  # 50 × faster than numpy's fill
    x, y = (int(rng.integers(side // 4, side - side // 4 + 1)) for side in (width, height))

    parts = []
    for number, sample in enumerate(samples):
        is_right, is_below = number % 2 == 1, number >= 2
        quarter = (height - y if is_below else y, width - x if is_right else x)
        part = _fill_quarter(_fit(sample, image_size, fit), quarter, from_right=not is_right, from_bottom=not is_below)
        left = x if is_right else x - part.image.shape[1]
        top = y if is_below else y - part.image.shape[0]
        canvas[top : top + part.image.shape[0], left : left + part.image.shape[1]] = part.image
        parts.append(part._replace(boxes=part.boxes + np.array([left, top, left, top], dtype=np.float32)))
    return _join(canvas, parts)


def mixup(first: Sample, second: Sample, rng: np.random.Generator, fit: Fit = "letterbox") -> Sample:
    """Blend a second image into the first and keep the boxes of both (Zhang et al. 2019).

    The second image is scaled to fit into the first, as images are into the network input, and placed in its top-left
    corner. Where they overlap, image = r · first + (1 − r) · second with r ~ Beta(8, 8). Elsewhere the first image is
    unchanged.
    """
    height, width = first.image.shape[:2]
    second = _fit(second, (height, width), fit)
    rows, columns = min(height, second.image.shape[0]), min(width, second.image.shape[1])

    ratio = float(rng.beta(8, 8))
    image = first.image.copy()
    mixed = cv2.addWeighted(first.image[:rows, :columns], ratio, second.image[:rows, :columns], 1 - ratio, 0)
    image[:rows, :columns] = mixed.reshape(rows, columns, -1)
    return _join(image, [first, second])


def _fill_quarter(sample: Sample, quarter: tuple[int, int], *, from_right: bool, from_bottom: bool) -> Sample:
    """Crop a sample to its quarter of the mosaic."""
    height, width = sample.image.shape[:2]
    rows, columns = min(height, quarter[0]), min(width, quarter[1])
    left, top = (width - columns if from_right else 0), (height - rows if from_bottom else 0)
    image = sample.image[top : top + rows, left : left + columns]
    offset = np.array([left, top, left, top], dtype=np.float32)
    return keep_visible(sample._replace(image=image, boxes=sample.boxes - offset))


def _fit(sample: Sample, into: tuple[int, int], fit: Fit) -> Sample:
    """Scale a sample to fit into (height, width)."""
    height, width = sample.image.shape[:2]
    scales = into[0] / height, into[1] / width
    if fit == "letterbox":
        scales = min(scales), min(scales)
    size = (max(1, round(height * scales[0])), max(1, round(width * scales[1])))
    image = resize_linear(sample.image, size)
    factors = np.array([size[1] / width, size[0] / height] * 2, dtype=np.float32)
    return sample._replace(image=image, boxes=sample.boxes * factors)


def _join(image: Array, parts: Sequence[Sample]) -> Sample:
    return Sample(
        image,
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.is_crowd for part in parts]),
    )
