"""What the pixels of a data set are: their range of values, and mean and standard deviation of each channel."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet.data.findings import DataError
from effdet.images.faults import ImageError
from effdet.images.pixel_format import PixelFormat
from effdet.images.values import read_values

if TYPE_CHECKING:
    from effdet.config import Config
    from effdet.data.dataset import Dataset

logger = logging.getLogger(__name__)

LOOKED_AT = 16  # images, evenly spread, that are opened to learn whether they have 8-bit levels
MEASURED = 200  # images whose values are measured
_SAMPLES = 100_000  # pixels of each image that count


def with_pixels(config: Config, train: Dataset) -> Config:
    """Return the config with the pixel format of the training images written out; 8-bit RGB changes nothing.

    - ``data.value_range`` becomes that of ``train.pixels``.
    - ``mean`` and ``std`` of ``model.architecture``, where they are null, become those of each channel, in levels of
      0…255. 200 images, evenly spread, are measured.

    Raises:
        DataError: If no image can be read, or a channel has one level everywhere.
        ImageError: If an image has other channels than the network.
    """
    pixels, given = train.pixels or PixelFormat(), config.model.architecture
    if pixels.is_rgb:
        return config
    if given.mean is None or given.std is None:
        mean, std = channel_statistics(train, pixels)
        logger.info("data: mean %s, std %s of the channels", *(_in_short(numbers) for numbers in (mean, std)))
        given = replace(given, in_channels=pixels.channels, mean=given.mean or mean, std=given.std or std)
    data = replace(config.data, value_range=pixels.value_range)
    return replace(config, data=data, model=replace(config.model, architecture=given))


def channels_of(config: Config) -> int:
    """Return how many channels the network of a config takes, which ``model.weights`` may say."""
    from effdet.runs.architecture import architecture_of

    given, model = config.model.architecture.in_channels, config.model
    return architecture_of(model).in_channels if given is None and model.weights and model.name is None else given or 3


def pixels_to_look_at(config: Config, dataset: Dataset) -> PixelFormat:
    """Return the format in which images are looked at without training: that which a training would take.

    Where the config names no channels and the images do not become RGB, it has the images' own channels.

    Raises:
        DataError: If the values have no range; see ``value_range_of``.
    """
    pixels = PixelFormat(channels=channels_of(config), value_range=config.data.value_range or value_range_of(dataset))
    if config.model.architecture.in_channels is not None or config.model.weights:
        return pixels
    found = set()
    for index in _spread(len(dataset), LOOKED_AT):
        try:
            values = read_values(dataset.stored(index))[1]
            found.add(values.shape[2])
            dataset.read_picture(index, pixels.read)
            return pixels
        except (ImageError, OSError):
            continue
    return replace(pixels, channels=found.pop()) if len(found) == 1 else pixels


def channel_statistics(dataset: Dataset, pixels: PixelFormat) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, in levels 0…255; each image counts the same.

    Raises:
        DataError: If no image can be read, or a channel has one level everywhere.
    """
    means, squares = [], []
    for index in _spread(len(dataset), MEASURED):
        try:
            levels = _some(dataset.read_picture(index, pixels.read).pixels).astype(np.float64)
        except OSError:
            continue
        means.append(levels.mean(axis=0))
        squares.append((levels**2).mean(axis=0))
    if not means:
        raise DataError(f"{dataset.annotation_file}: none of the images that were tried can be read")
    mean = np.mean(means, axis=0)
    std = np.sqrt(np.maximum(np.mean(squares, axis=0) - mean**2, 0))
    if not (std > 0).all():
        empty = int(std.argmin())
        raise DataError(
            f"{dataset.annotation_file}: channel {empty} has the level {mean[empty]:g} in all images; leave it out, or "
            "give model.architecture.mean and std"
        )
    return mean.tolist(), std.tolist()


def value_range_of(dataset: Dataset) -> tuple[float, float] | None:
    """Return smallest and largest value of 200 images, evenly spread; None if 16 of them have 8-bit levels.

    Raises:
        DataError: If these are no two finite numbers.
    """
    if not any(values.dtype != np.uint8 for values in _values(dataset, LOOKED_AT)):
        return None
    ends = np.array([(values.min(), values.max()) for values in _values(dataset, MEASURED)], dtype=np.float64)
    low, high = float(ends[:, 0].min()), float(ends[:, 1].max())
    if not (np.isfinite([low, high]).all() and low < high):
        raise DataError(
            f"{dataset.annotation_file}: its images hold values from {low:g} to {high:g}, which is no range; give "
            "data.value_range=[low, high]"
        )
    logger.info("data: values from %g to %g become the levels 0 to 255 (data.value_range)", low, high)
    return low, high


def _values(dataset: Dataset, count: int) -> Any:
    for index in _spread(len(dataset), count):
        try:
            yield read_values(dataset.stored(index))[1]
        except (ImageError, OSError):
            continue  # named elsewhere


def _spread(length: int, count: int) -> list[int]:
    return sorted({round(number) for number in np.linspace(0, length - 1, min(count, length))})


def _some(levels: np.ndarray) -> np.ndarray:
    """Return some pixels of an image, evenly spread, (n, C)."""
    flat = levels.reshape(-1, levels.shape[2])
    return flat[:: max(1, len(flat) // _SAMPLES)]


def _in_short(numbers: list[float]) -> str:
    return "[" + ", ".join(f"{number:.4g}" for number in numbers) + "]"
