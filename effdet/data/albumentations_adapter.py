"""Transforms of albumentations on samples; only this module uses it.

The import takes 3 s, so it happens only if it is used.
"""

from __future__ import annotations

import difflib
import inspect
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from effdet.config import ConfigError
from effdet.data.samples import MIN_SIDE, MIN_VISIBLE, Sample

LIGHT = 0.4  # largest change of brightness and contrast


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


def build_adapter(
    color: float, specs: Sequence[dict[str, Any]], image_size: tuple[int, int]
) -> AlbumentationsAdapter | None:
    """Return the colour changes and the transforms of a config; None if there are none.

    Args:
        color: Strength of the colour changes, in [0, 1].
        specs: ``data.augment.transforms``.
        image_size: Network input (height, width), on which each transform is tried.

    Raises:
        ConfigError: As ``build_train_transform``.
    """
    if not color and not specs:
        return None
    transforms = [_color_jitter(color)] if color else []
    for position, spec in enumerate(specs):
        transforms.append(_build_one(spec, image_size, f"data.augment.transforms[{position}]"))
    return AlbumentationsAdapter(transforms)


def _color_jitter(strength: float) -> Any:
    amount = LIGHT * strength
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
