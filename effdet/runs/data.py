"""The images of a run: training and validation split, as far as they can be read."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effdet.data.findings import DataError
from effdet.data.formats import find_train_and_val
from effdet.images.pixel_format import PixelFormat
from effdet.images.remote_files import is_address
from effdet.runs.evaluate import leave_out_unreadable
from effdet.runs.pixel_statistics import value_range_of

if TYPE_CHECKING:
    from effdet.config import DataConfig
    from effdet.data.dataset import Dataset

logger = logging.getLogger(__name__)


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
    train, val = _at_most(config.max_train_images, train), _at_most(config.max_val_images, val)
    value_range = config.value_range or value_range_of(train)
    pixels = PixelFormat(channels=channels, value_range=value_range)
    train, val = replace(train, pixels=pixels), replace(val, pixels=pixels)
    (train, _), (val, _) = leave_out_unreadable(train), leave_out_unreadable(val)
    logger.info("data: %d images to train, %d to validate, %d classes", len(train), len(val), train.num_classes)
    return train, val


def _at_most(number: int | None, dataset: Dataset) -> Dataset:
    """Return that many images of a data set, drawn at random but always the same ones, in their order."""
    if number is None or number >= len(dataset):
        return dataset
    return dataset.without(np.random.default_rng(0).permutation(len(dataset))[number:])
