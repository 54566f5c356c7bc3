"""A contact sheet: annotated images as they are, and as augmentation shows them to the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from effdet.config import AugmentConfig
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.mixing import mixup, mosaic
from effdet.data.samples import Augmented, Sample
from effdet.data.transforms import RGB, TrainTransform, build_train_transform
from effdet.fonts import drawable_text, font_for
from effdet.images.faults import ImageError
from effdet.images.pixel_format import PixelFormat
from effdet.images.preprocessing import Fit
from effdet.visualize import as_rgb, draw_targets

Array = NDArray[Any]

COLUMNS = ("as annotated", "augmented", "augmented again", "mosaic", "mixup")
_GAP, _HEADING = 8, 30  # pixels


class Augmentation(NamedTuple):
    """What turns images into those that the network is shown."""

    augment: AugmentConfig
    image_size: tuple[int, int]  # network input, height and width
    fill: tuple[int, ...]  # level of each channel of the padding
    fit: Fit = "letterbox"
    seed: int = 0
    pixels: PixelFormat = RGB


class Row(NamedTuple):
    """An image in its columns."""

    name: str
    pictures: tuple[Array, ...]  # of each of COLUMNS, (h, w, 3) uint8 with boxes


def contact_rows(dataset: Dataset, augmentation: Augmentation, count: int, *, width: int = 400) -> list[Row]:
    """Return images, evenly spread over those with boxes, as annotated and as augmented; unreadable ones are skipped.

    Args:
        dataset: The images.
        augmentation: What a training does to them. Mosaic and mixup are shown also where the config leaves them out.
        count: Images.
        width: Pixels of each picture.

    Raises:
        DataError: If no image can be read.
    """
    samples = _Samples(dataset)
    transform = build_train_transform(
        augmentation.augment, augmentation.image_size, augmentation.fill, augmentation.fit, augmentation.pixels
    )
    rows = []
    for index in samples.spread(count):
        pictures: list[Sample | Augmented] = [samples[index], *_augmented(samples, index, augmentation, transform)]
        drawn = tuple(_draw(picture, dataset.class_names, width) for picture in pictures)
        rows.append(Row(dataset.names[index], drawn))
    if not rows:
        raise DataError(f"{dataset.annotation_file}: must have an image that can be read, got none")
    return rows


class _Samples:
    """The images of a data set with their boxes; those that cannot be read are left out."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        has_box = np.flatnonzero(np.diff(dataset.offsets) > 0)
        self.indices = has_box if len(has_box) else np.arange(len(dataset))

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.dataset.read(index), *self.dataset.annotations(index))

    def spread(self, count: int) -> list[int]:
        """Return numbers of readable images, evenly spread."""
        chosen: list[int] = []
        parts = np.array_split(self.indices, min(count, len(self.indices)) or 1)
        for part in parts:
            chosen += next(([index] for index in part.tolist() if self._is_readable(index)), [])
        return chosen

    def others(self, rng: np.random.Generator, count: int) -> list[Sample]:
        """Return readable images drawn at random, with repeats."""
        found: list[Sample] = []
        while len(found) < count:
            index = int(rng.choice(self.indices))
            if self._is_readable(index):
                found.append(self[index])
        return found

    def _is_readable(self, index: int) -> bool:
        try:
            self.dataset.read(index)
        except (ImageError, OSError):
            return False
        return True


def _augmented(
    samples: _Samples, index: int, augmentation: Augmentation, transform: TrainTransform
) -> Iterator[Augmented]:
    _, size, fill, fit, seed, _ = augmentation
    rng = np.random.default_rng([seed, index])
    sample = samples[index]
    yield transform(*sample, seed=int(rng.integers(2**63)))
    yield transform(*sample, seed=int(rng.integers(2**63)))
    yield transform(*mosaic([sample, *samples.others(rng, 3)], size, fill, rng, fit), seed=int(rng.integers(2**63)))
    yield transform(*mixup(sample, samples.others(rng, 1)[0], rng, fit), seed=int(rng.integers(2**63)))


def _draw(sample: Sample | Augmented, class_names: Sequence[str], width: int) -> Array:
    height = max(1, round(sample.image.shape[0] * width / sample.image.shape[1]))
    scale = np.array([width / sample.image.shape[1], height / sample.image.shape[0]] * 2)
    resized = np.array(Image.fromarray(as_rgb(sample.image)).resize((width, height), Image.Resampling.BILINEAR))
    return draw_targets(resized, sample.boxes * scale, sample.labels, class_names=class_names, is_crowd=sample.is_crowd)


def draw_contact_sheet(rows: Sequence[Row], columns: Sequence[str] = COLUMNS) -> Array:
    """Return one picture, (H, W, 3) uint8, of all rows with headings and the names of the files."""
    width = rows[0].pictures[0].shape[1]
    strips = [_text_strip(columns, width, size=20)]
    for row in rows:
        strips += [_side_by_side(row.pictures), _text_strip([row.name, *[""] * (len(columns) - 1)], width, size=14)]
    return np.concatenate(strips)


def _side_by_side(pictures: Sequence[Array]) -> Array:
    height = max(picture.shape[0] for picture in pictures)
    padded = [
        np.pad(picture, ((0, height - len(picture)), (0, _GAP), (0, 0)), constant_values=255) for picture in pictures
    ]
    return np.concatenate(padded, axis=1)


def _text_strip(texts: Sequence[str], width: int, *, size: int) -> Array:
    strip = Image.new("RGB", (len(texts) * (width + _GAP), _HEADING), "white")
    draw = ImageDraw.Draw(strip)
    for column, text in enumerate(texts):
        shown = drawable_text(text)
        draw.text(
            (column * (width + _GAP) + 2, _HEADING / 2), shown, fill="black", font=font_for(shown, size), anchor="lm"
        )
    return np.array(strip)
