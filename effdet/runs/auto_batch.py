"""Choose a batch that fits into memory, for ``train.batch_size: auto``."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from effdet.config import AUTO_BATCH, Config
from effdet.runs.folder import config_of
from effdet.runs.step_costs import measure_training, memory_at, memory_there_on
from effdet.runs.training_tiles import num_items

if TYPE_CHECKING:
    from pathlib import Path

    from effdet.data.dataset import Dataset
    from effdet.training.distributed import World

logger = logging.getLogger(__name__)

MOST_IMAGES = 64  # of a step: the batch of the published recipe
STEPS_IN_AN_EPOCH = 16  # or more, so that a small data set has a small batch
SHARE = 0.8  # of the memory that is there, which a step may take
_GIB = 2**30


def with_batch_size(config: Config, train: Dataset, world: World, resumed: Path | None = None) -> Config:
    """Return the config with a number in place of ``train.batch_size: auto``.

    A step is measured with two and with four images of the training, with random weights; memory is taken to grow by
    the same amount with each image. The batch is the largest power of two, times ``train.accumulate`` and the number of
    processes, that takes at most 80 % of the memory that is there, is no more than 64, and leaves 16 steps in an epoch.
    On CUDA the memory is that of the device; else the free memory of the machine, shared by the processes on it.

    Args:
        config: Resolved.
        train: Training images.
        world: The processes of the run; the main one measures.
        resumed: Folder of the run that is continued; its batch stays.

    Raises:
        ConfigError, ValueError, ImageError: As ``effdet.train``.
    """
    if config.train.batch_size != AUTO_BATCH:
        return config
    if resumed is not None:
        return replace(config, train=replace(config.train, batch_size=config_of(resumed).train.batch_size))
    found = world.broadcast(_choose(config, train, world) if world.is_main else None)
    return replace(config, train=replace(config.train, batch_size=found))


def _choose(config: Config, train: Dataset, world: World) -> int:
    measured = measure_training(config, train, world)
    parts = config.train.accumulate * world.size
    most = min(MOST_IMAGES, num_items(config.data, train) // STEPS_IN_AN_EPOCH) // parts
    there = memory_there_on(world.device)
    if there is not None and world.device.type != "cuda":
        there //= world.local_size
    images = largest_batch(lambda count: memory_at(measured, count) or 0.0, there, most)
    needed = memory_at(measured, images)
    why = (
        "as the system does not tell the memory"
        if needed is None
        else f"by {needed / _GIB:.1f} GiB for {images} of them"
    )
    free = "" if there is None else f" and {there / _GIB:.1f} GiB of memory"
    logger.info("train.batch_size=auto: %d images, %s in a process%s", images * parts, why, free)
    return images * parts


def largest_batch(memory_of: Callable[[int], float], there: float | None, most: int) -> int:
    """Return the largest power of two of images that fits, at least 1.

    Args:
        memory_of: Bytes that a step with so many images takes.
        there: Bytes that are there; None: not known, so every batch fits.
        most: Images that it may have; 2 if that is less.
    """
    images = 2 ** int(math.log2(max(2, most)))
    while images > 1 and there is not None and memory_of(images) > SHARE * there:
        images //= 2
    return images
