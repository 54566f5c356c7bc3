"""Augment training images: the published recipe, colour changes, and any transform of albumentations.

Every random choice is a pure function of the seed that the caller gives. An epoch is therefore the same in whichever
process it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from effdet.config import AugmentConfig, ConfigError
from effdet.data.albumentations_adapter import LIGHT, AlbumentationsAdapter, build_adapter
from effdet.data.samples import Augmented, Sample, keep_visible
from effdet.images.letterbox import Letterbox, pad, resize_linear
from effdet.images.pixel_format import PixelFormat
from effdet.images.preprocessing import Fit, Preprocessing, Scales

Array: TypeAlias = NDArray[Any]

RGB = PixelFormat()


def build_train_transform(
    augment: AugmentConfig,
    image_size: tuple[int, int],
    fill: tuple[int, ...],
    fit: Fit = "letterbox",
    pixels: PixelFormat = RGB,
) -> TrainTransform:
    """Build the augmentation of one image (mosaic and mixup happen before it).

    ``image_size`` is the network input, ``fill`` the level of each channel of its padding, ``pixels`` what images are:
    of other images than 8-bit RGB, ``augment.color`` changes brightness and contrast.

    Raises:
        ConfigError: If ``augment.transforms`` names a transform or an argument that does not exist, a value does not
            fit, or the transform does not work on uint8 images with boxes; or if images are not 8-bit RGB.
    """
    if augment.transforms and not pixels.is_rgb:
        raise ConfigError(
            f"data.augment.transforms must be empty for images that are not 8-bit RGB, got {len(augment.transforms)}; "
            "leave them out"
        )
    color = augment.color if pixels.is_rgb else 0.0
    return TrainTransform(
        image_size=image_size,
        fill=fill,
        fit=fit,
        horizontal_flip=augment.horizontal_flip,
        vertical_flip=augment.vertical_flip,
        scale=(augment.scale[0], augment.scale[1]),
        safe_crop=augment.safe_crop,
        content_transforms=build_adapter(color, augment.transforms, image_size),
        light=0.0 if pixels.is_rgb else augment.color,
    )


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """The augmentation recipe, in this order:

    1. With probability ``safe_crop``, a random crop that keeps every box whole.
    2. Scale jitter: f is drawn from U(scale), and the image is resized to fit into f times the network input: with its
       aspect ratio, or stretched to fill it. If the result is larger than the network input, it is cropped at a random
       offset. (For speed the crop happens first. After a safe crop f is at most 1, so that this step cuts no box.)
    3. Horizontal and vertical flip.
    4. Colour changes, then the albumentations transforms of the config, on the image without padding.
    5. Padding at the bottom and on the right.
    """  # noqa: D415

    image_size: tuple[int, int]
    fill: tuple[int, ...]
    fit: Fit = "letterbox"
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    scale: tuple[float, float] = (0.1, 2.0)
    safe_crop: float = 0.0
    content_transforms: AlbumentationsAdapter | None = None
    light: float = 0.0  # strength of changes of brightness and contrast, for images that are not 8-bit RGB

    def __call__(
        self, image: Array, boxes: Array, labels: Array, is_crowd: Array, seed: int, *, out: Array | None = None
    ) -> Augmented:
        """Augment one image; the result is a pure function of the arguments.

        Args:
            image: (H, W, C) levels in 0…255 of any size.
            boxes: (M, 4) float32 xyxy pixels.
            labels: (M,) int64.
            is_crowd: (M,) bool.
            seed: Any integer in [0, 2⁶⁴).
            out: Contiguous (H, W, C) array of ``image_size`` and the type of the image, for example a slice of a batch.
                The image is written into it.
        """
        rng = np.random.default_rng(seed)
        sample = Sample(image, boxes, labels, is_crowd)

        is_safe = rng.random() < self.safe_crop
        if is_safe:
            sample = random_safe_crop(sample, rng)
        factor = rng.uniform(*self.scale)
        factor = min(factor, 1.0) if is_safe else factor
        sample, scales = random_resized_crop(sample, self.image_size, factor, rng, self.fit)

        flip_x, flip_y = rng.random(2) < (self.horizontal_flip, self.vertical_flip)
        sample = flip(sample, horizontal=bool(flip_x), vertical=bool(flip_y))
        if self.content_transforms is not None:
            sample = self.content_transforms(sample, int(rng.integers(2**32)))
        if self.light:
            sample = sample._replace(image=change_light(sample.image, self.light, rng))

        sample, content_size, (shrink_x, shrink_y) = self._pad(sample, out)
        return Augmented(*sample, content_size, (scales[0] * shrink_x, scales[1] * shrink_y))

    def _pad(self, sample: Sample, out: Array | None) -> tuple[Sample, tuple[int, int], Scales]:
        """Pad an image to the network input. Shrink it first if a transform, for example a rotation, made it larger."""
        height, width = sample.image.shape[:2]
        if height <= self.image_size[0] and width <= self.image_size[1]:
            padded = pad(sample.image, self.image_size, self.fill, out=out)
            return sample._replace(image=padded), (height, width), (1.0, 1.0)
        letterbox = Letterbox(
            image_size=self.image_size, mean=self.fill, std=(1, 1, 1), preprocessing=Preprocessing(fit=self.fit)
        )
        image, content_size, scales = letterbox(sample.image)
        if out is not None:
            out[:] = image
        factors = np.array([content_size[1] / width, content_size[0] / height] * 2, dtype=np.float32)
        return sample._replace(image=image, boxes=sample.boxes * factors), content_size, scales


def change_light(image: Array, strength: float, rng: np.random.Generator) -> Array:
    """Multiply the levels of an image, then their distance from the mean, each by a factor in 1 ± 0.4 · strength."""
    brightness, contrast = rng.uniform(1 - LIGHT * strength, 1 + LIGHT * strength, 2)
    levels = image.astype(np.float32) * np.float32(brightness)
    mean = levels.mean(axis=(0, 1), keepdims=True)
    changed = ((levels - mean) * np.float32(contrast) + mean).clip(0, 255)
    return changed if image.dtype != np.uint8 else np.rint(changed).astype(np.uint8)


def random_safe_crop(sample: Sample, rng: np.random.Generator) -> Sample:
    """Crop an image at random without cutting a box. An image without boxes keeps 30 to 100 % of each side."""
    height, width = sample.image.shape[:2]
    if len(sample.boxes):
        left, top = np.floor(sample.boxes[:, :2].min(axis=0)).clip(0)
        right, bottom = np.ceil(sample.boxes[:, 2:].max(axis=0)).clip(max=(width, height))
    else:
        sides = rng.uniform(0.3, 1.0, 2) * (width, height)
        left, top = rng.uniform(0, (width, height) - sides)
        right, bottom = left + sides[0], top + sides[1]
    x1, y1 = rng.integers(0, (int(left) + 1, int(top) + 1))
    x2, y2 = rng.integers((int(right), int(bottom)), (width + 1, height + 1))
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    offset = np.array([x1, y1, x1, y1], dtype=np.float32)
    return sample._replace(image=sample.image[y1:y2, x1:x2], boxes=sample.boxes - offset)


def random_resized_crop(
    sample: Sample, image_size: tuple[int, int], factor: float, rng: np.random.Generator, fit: Fit = "letterbox"
) -> tuple[Sample, Scales]:
    """Resize an image to fit into ``factor`` · ``image_size``; then crop it to ``image_size``.

    It keeps its aspect ratio, or is stretched to fill that size. The offset of the crop is random.

    Returns:
        The sample, at most ``image_size`` large, with the boxes that ``keep_visible`` returns; and the scales.
    """
    sides = sample.image.shape[:2]
    targets = (max(1, int(factor * image_size[0])), max(1, int(factor * image_size[1])))
    scales = [float(np.float32(target) / np.float32(side)) for target, side in zip(targets, sides, strict=True)]
    if fit == "letterbox":
        scales = [min(scales)] * 2
        targets = (_scaled(sides[0], scales[0]), _scaled(sides[1], scales[0]))

    # The crop is made of whole source pixels, so only the visible part is resized. This rounds the scale of each axis a
    # little, so the boxes are multiplied by the factors that the pixels were really resized by.
    (top, rows, height), (left, columns, width) = (
        _visible_span(*axis, rng) for axis in zip(sides, scales, targets, image_size, strict=True)
    )
    visible = sample.image[top : top + rows, left : left + columns]
    image = resize_linear(visible, (height, width))
    offset = np.array([left, top, left, top], dtype=np.float32)
    factors = np.array([width / columns, height / rows] * 2, dtype=np.float32)
    return keep_visible(sample._replace(image=image, boxes=(sample.boxes - offset) * factors)), (scales[1], scales[0])


def _scaled(side: int, scale: float) -> int:
    return max(1, int(np.float32(side) * np.float32(scale)))


def _visible_span(side: int, scale: float, resized: int, limit: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Return, for one axis, the first source pixel, the number of source pixels, and their number after the resize."""
    if resized <= limit:
        return 0, side, resized
    length = min(side, max(1, round(limit / scale)))
    return int(rng.integers(side - length + 1)), length, limit


def flip(sample: Sample, *, horizontal: bool, vertical: bool) -> Sample:
    """Flip an image and its boxes horizontally, vertically, both, or not at all."""
    if not (horizontal or vertical):
        return sample
    height, width = sample.image.shape[:2]
    boxes = sample.boxes.copy()
    if horizontal:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    if vertical:
        boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
    code = -1 if horizontal and vertical else int(horizontal)
    image = cv2.flip(sample.image, code).reshape(sample.image.shape)  # OpenCV drops the axis of a single channel
    return sample._replace(image=image, boxes=boxes)
