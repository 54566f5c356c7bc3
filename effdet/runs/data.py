"""The images of a run: training and validation split, as far as they can be read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.data.findings import DataError
from effdet.data.formats import find_train_and_val
from effdet.runs.evaluate import leave_out_unreadable

if TYPE_CHECKING:
    from effdet.config import DataConfig
    from effdet.data.dataset import Dataset

logger = logging.getLogger(__name__)


def read_data(config: DataConfig) -> tuple[Dataset, Dataset]:
    """Return training and validation images that can be read; the log names those that cannot.

    Raises:
        DataError: If the data is missing or cannot be used.
    """
    root = Path(config.root).expanduser()
    if root.name == "demo" and not root.exists():
        raise DataError(f"the demo data {root} does not exist; draw it with: tools/data.py demo --root {root}")
    train, val = find_train_and_val(
        root,
        train_annotations=config.train_annotations,
        train_images=config.train_images,
        val_annotations=config.val_annotations,
        val_images=config.val_images,
    )
    (train, _), (val, _) = leave_out_unreadable(train), leave_out_unreadable(val)
    logger.info("data: %d images to train, %d to validate, %d classes", len(train), len(val), train.num_classes)
    return train, val
