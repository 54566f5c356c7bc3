"""In which order loaders take the images of a data set, and which process takes which."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

SIZE_STEP = 32  # pixels between the sizes of a run with several
_SIZES = 1  # names the random numbers of the sizes among those of a step


class Place(NamedTuple):
    """Which image is at which position of an epoch: all that a loader process needs to build it."""

    epoch: int
    position: int  # in the epoch, over all processes
    image_index: int  # of the tile; of the image in the data set, where images are not cut
    plain: bool  # no mosaic and mixup
    image_size: tuple[int, int]  # network input (height, width) of its batch


class TrainOrder(Sampler[list[Place]]):
    """Distribute the positions of an epoch over steps and processes; ``TrainLoader.epoch`` sets the epoch."""

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        rank: int,
        world_size: int,
        *,
        image_size: tuple[int, int],
        multi_scale: tuple[float, float] | None = None,
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.image_size = image_size
        self.multi_scale = multi_scale
        self.epoch = 0
        self.start_step = 0
        self.plain = False

    def __len__(self) -> int:
        return self.steps_per_epoch - self.start_step

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, plain = self.epoch, self.plain
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_images)
        for step in range(self.start_step, self.steps_per_epoch):
            first = (step * self.world_size + self.rank) * self.batch_size
            positions = range(first, first + self.batch_size)
            size = self._size_of(step)
            yield [Place(epoch, at, int(order[at % self.num_images]), plain, size) for at in positions]

    def _size_of(self, step: int) -> tuple[int, int]:
        """Return the network input of a step, the same on all processes, so that none waits for another."""
        if self.multi_scale is None:
            return self.image_size
        factor = np.random.default_rng([self.seed, self.epoch, step, _SIZES]).uniform(*self.multi_scale)
        return scaled_size(self.image_size, factor)


def scaled_size(image_size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return a network input whose sides are scaled and rounded to multiples of 32 pixels, at least 32."""
    height, width = (max(SIZE_STEP, SIZE_STEP * round(side * factor / SIZE_STEP)) for side in image_size)
    return height, width


class EvalOrder(Sampler[list[int]]):
    """The images of one process, batch by batch, in the order of the data set."""

    def __init__(self, num_images: int, batch_size: int, rank: int, world_size: int) -> None:
        self.indices = range(rank, num_images, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[first : first + self.batch_size])
