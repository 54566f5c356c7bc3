"""In which order loaders take the images of a data set, and which process takes which."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


class Place(NamedTuple):
    """Which image is at which position of an epoch: all that a loader process needs to build it."""

    epoch: int
    position: int  # in the epoch, over all processes
    image_index: int  # of the tile; of the image in the data set, where images are not cut
    plain: bool  # no mosaic and mixup


class TrainOrder(Sampler[list[Place]]):
    """Distribute the positions of an epoch over steps and processes; ``TrainLoader.epoch`` sets the epoch."""

    def __init__(
        self, num_images: int, batch_size: int, steps_per_epoch: int, seed: int, rank: int, world_size: int
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
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
            yield [Place(epoch, position, int(order[position % self.num_images]), plain) for position in positions]


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
