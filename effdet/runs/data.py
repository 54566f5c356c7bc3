"""The images of a run or an evaluation, as far as they can be read."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet.config import Config, load_config
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import Split, find_dataset, find_train_and_val
from effdet.data.formats.values import look_up
from effdet.data.formats.yolo_layouts import is_data_yaml
from effdet.data.unreadable_images import drop_unreadable
from effdet.images.pixel_format import PixelFormat
from effdet.images.remote_files import is_address
from effdet.runs.pixel_statistics import channels_of, value_range_of, with_pixels

if TYPE_CHECKING:
    from effdet.config import DataConfig

logger = logging.getLogger(__name__)

MAX_UNREADABLE = 0.1  # of the images; an evaluation that leaves out more would not be one of this data set


def read_data(config: DataConfig, *, channels: int = 3) -> tuple[Dataset, Dataset]:
    """Return training and validation images that can be read, as many as the config allows; the log names the others.

    They are read in the format that a network of ``channels`` takes: with the range of values that the config says, or,
    if the training images do not have 8-bit levels, with theirs.

    Raises:
        DataError: If the data is missing or cannot be used.
    """
    root = Path(config.root).expanduser()
    if not is_address(config.root) and root.name == "demo" and not root.exists():
        raise DataError(f"the demo data {root} does not exist; draw it with: tools/data.py demo --root {root}")
    train, val = find_train_and_val(
        config.root,
        train_annotations=config.train_annotations,
        train_images=config.train_images,
        val_annotations=config.val_annotations,
        val_images=config.val_images,
        keep_parent=config.keep_parent,
    )
    train, val = at_most(config.max_train_images, train), at_most(config.max_val_images, val)
    value_range = config.value_range or value_range_of(train)
    pixels = PixelFormat(channels=channels, value_range=value_range)
    train, val = replace(train, pixels=pixels), replace(val, pixels=pixels)
    (train, _), (val, _) = leave_out_unreadable(train), leave_out_unreadable(val)
    logger.info("data: %d images to train, %d to validate, %d classes", len(train), len(val), train.num_classes)
    return train, val


def read_for_training(config: Config) -> tuple[Config, Dataset, Dataset]:
    """Return training and validation images as ``read_data`` does, and the config with their pixel format in it.

    Raises:
        DataError, ImageError: As ``read_data`` and ``with_pixels``.
    """
    train, val = read_data(config.data, channels=channels_of(config))
    return with_pixels(config, train), train, val


def is_config_file(path: str | Path) -> bool:
    """Return whether a path names a config, whose section ``data`` names the data; else it is the data itself."""
    return str(path).endswith((".yaml", ".yml")) and not is_data_yaml(Path(path))


def dataset_of(data: Dataset | Config | str | Path, split: Split) -> Dataset:
    """Return a data set from any of the forms that ``evaluate`` takes.

    Raises:
        ConfigError: If the config file is wrong.
        DataError: If the data is not there or has errors.
    """
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, Config):
        if not is_config_file(data):
            return find_dataset(data, split)
        data = load_config(data)
    section = data.data
    annotations, images = (getattr(section, f"{split}_{part}", None) for part in ("annotations", "images"))
    return find_dataset(section.root, split, annotations=annotations, images=images)


def leave_out_unreadable(dataset: Dataset) -> tuple[Dataset, list[str]]:
    """Return a data set without the images that cannot be read, and file and reason of each, which are logged too.

    Raises:
        DataError: If more than a tenth of the images cannot be read.
    """
    dataset, unreadable = drop_unreadable(dataset, max_fraction=MAX_UNREADABLE)
    for problem in unreadable:
        logger.warning("left out: %s", problem)
    return dataset, unreadable


def select_images(dataset: Dataset, image_ids: Iterable[Any]) -> Dataset:
    """Return the images with these ids of a data set, in its order.

    Raises:
        ValueError: If it has no image with such an id.
    """
    number_of = {image_id: number for number, image_id in enumerate(dataset.image_ids.tolist())}
    chosen = set()
    for image_id in image_ids:
        number = look_up(image_id.item() if isinstance(image_id, np.generic) else image_id, number_of)
        if number is None:
            raise ValueError(f"image_ids must be images of {dataset.annotation_file}, got {image_id!r}")
        chosen.add(number)
    return dataset.without(set(number_of.values()) - chosen)


def at_most(number: int | None, dataset: Dataset) -> Dataset:
    """Return that many images of a data set, drawn at random but always the same ones, in their order."""
    if number is None or number >= len(dataset):
        return dataset
    return dataset.without(np.random.default_rng(0).permutation(len(dataset))[number:])
