"""Augment training images: the published recipe, colour changes, and any transform of albumentations.

Every random choice is a pure function of the seed that the caller gives. An epoch is therefore the same in whichever
process it is computed. Only this module uses albumentations. The import takes 3 s, so it happens only if it is used.
"""

from __future__ import annotations

import difflib
import inspect
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from effdet.config import AugmentConfig, ConfigError
from effdet.images.letterbox import Letterbox, pad, resize_linear
from effdet.images.pixel_format import PixelFormat
from effdet.images.preprocessing import Fit, Preprocessing, Scales

Array: TypeAlias = NDArray[Any]

MIN_VISIBLE = 0.1  # smallest part of a box's area that must remain in the image after a crop
RGB = PixelFormat()
_LIGHT = 0.4  # largest change of brightness and contrast
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
        content_transforms=_build_albumentations(color, augment.transforms, image_size),
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
    brightness, contrast = rng.uniform(1 - _LIGHT * strength, 1 + _LIGHT * strength, 2)
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


class AlbumentationsAdapter:
    """Apply transforms of albumentations 2.0.8 to a ``Sample``.

    The adapter sets the seed at every call, because otherwise every loader process and every epoch would draw the same
    random numbers. It passes an index with each box instead of a label, because labels would be returned as floats. It
    clips the boxes and drops those with less than 10 % of their area, or less than one pixel, inside the image.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        albumentations = _import_albumentations()
        self._moves_boxes = any("bboxes" in transform.available_keys for transform in transforms)
        boxes = albumentations.BboxParams(
            format="pascal_voc",
            label_fields=["rows"],
            clip=True,  # without it, a box that extends beyond the image or has no width is an error
            filter_invalid_bboxes=True,
            min_visibility=MIN_VISIBLE,
            min_width=MIN_SIDE,
            min_height=MIN_SIDE,
        )
        # Compose warns if it gets box parameters and no transform uses boxes.
        self._compose = albumentations.Compose(list(transforms), bbox_params=boxes if self._moves_boxes else None)

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Transform a sample; ``seed`` lies in [0, 2³²).

        Raises:
            ConfigError: If a transform fails on this image, for example a crop that is larger than the image.
        """
        self._compose.set_random_seed(seed)
        inputs = {"bboxes": sample.boxes, "rows": np.arange(len(sample.boxes))} if self._moves_boxes else {}
        try:
            result = self._compose(image=sample.image, **inputs)
        except Exception as error:  # each transform raises its own kinds: ValueError, cv2.error, ...
            shape = "×".join(str(side) for side in sample.image.shape[:2])
            raise ConfigError(f"data.augment.transforms fail on a {shape} image: {_in_one_line(error)}") from error
        if not self._moves_boxes:
            return sample._replace(image=np.ascontiguousarray(result["image"]))
        rows = np.asarray(result["rows"], dtype=np.int64)
        boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        return Sample(np.ascontiguousarray(result["image"]), boxes, sample.labels[rows], sample.is_crowd[rows])


def _import_albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # must be set first: the import looks for updates online
    import albumentations

    return albumentations


def _build_albumentations(
    color: float, specs: Sequence[dict[str, Any]], image_size: tuple[int, int]
) -> AlbumentationsAdapter | None:
    if not color and not specs:
        return None
    transforms = [_color_jitter(color)] if color else []
    for position, spec in enumerate(specs):
        transforms.append(_build_one(spec, image_size, f"data.augment.transforms[{position}]"))
    return AlbumentationsAdapter(transforms)


def _color_jitter(strength: float) -> Any:
    amount = _LIGHT * strength
    return _import_albumentations().ColorJitter(
        brightness=(1 - amount, 1 + amount),
        contrast=(1 - amount, 1 + amount),
        saturation=(1 - amount, 1 + amount),
        hue=(-0.05 * strength, 0.05 * strength),
        p=1.0,
    )


def _build_one(spec: dict[str, Any], image_size: tuple[int, int], where: str) -> Any:
    """Build a transform from {name: …, argument: value, …}; ``transforms`` of OneOf and others is a list of these."""
    albumentations = _import_albumentations()
    arguments: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in spec.items()}
    name = arguments.pop("name", None)
    kinds = (albumentations.BasicTransform, albumentations.BaseCompose)
    known = {key for key, value in vars(albumentations).items() if inspect.isclass(value) and issubclass(value, kinds)}
    if name not in known:
        raise ConfigError(f"{where}: name must be a transform of albumentations, got {name!r}{_nearest(name, known)}")

    transform_class = getattr(albumentations, str(name))
    accepted = set(inspect.signature(transform_class.__init__).parameters) - {"self"}
    for key in arguments:
        if key not in accepted:
            raise ConfigError(f"{where}: {name} has no argument '{key}'{_nearest(key, accepted)}")
    if isinstance(spec.get("transforms"), list):
        arguments["transforms"] = [
            _build_one(inner, image_size, f"{where}.transforms[{position}]")
            for position, inner in enumerate(spec["transforms"])
        ]
    return _checked(transform_class, arguments, image_size, f"{where}: {name}")


def _checked(transform_class: Any, arguments: dict[str, Any], image_size: tuple[int, int], where: str) -> Any:
    """Build a transform and apply it once, so that a mistake is found before the first epoch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("error", message=".*not valid", category=UserWarning)  # albumentations only warns
        try:
            transform = transform_class(**arguments)
            trial = AlbumentationsAdapter([transform_class(**{**arguments, "p": 1.0})])
            image = np.random.default_rng(0).integers(0, 256, (*image_size, 3), dtype=np.uint8)
            box = np.array([[0, 0, image_size[1] / 2, image_size[0] / 2]], dtype=np.float32)
            result = trial(Sample(image, box, np.zeros(1, np.int64), np.zeros(1, bool)), 0)
        except Exception as error:  # each transform raises its own kinds: pydantic's, ValueError, ...
            raise ConfigError(f"{where}: {_in_one_line(error)}") from error
    if result.image.dtype != np.uint8 or result.image.ndim != 3 or result.image.shape[2] != 3:
        raise ConfigError(
            f"{where}: must keep images (H, W, 3) uint8, made {result.image.shape} {result.image.dtype}; "
            "normalising and batching happen elsewhere"
        )
    return transform


def _nearest(word: object, known: set[str]) -> str:
    near = difflib.get_close_matches(str(word), sorted(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
