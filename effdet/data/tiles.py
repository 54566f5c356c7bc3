"""Cut the images of a data set into tiles to train on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset
from effdet.data.samples import MIN_SIDE, Sample
from effdet.ops.tiles import Tiles

Array: TypeAlias = NDArray[Any]

MIN_INSIDE = 0.5  # part of a box's area that must lie in a tile for it to be an object of the tile


@dataclass(frozen=True, eq=False)
class TileTable:
    """All tiles of a data set: image by image, and row by row in each. An image that is not cut is one tile."""

    images: NDArray[np.int64]  # (T,) number of the image
    boxes: NDArray[np.int64]  # (T, 4) xyxy; zeros where the size of the image is not known: all of it

    @classmethod
    def of(cls, dataset: Dataset, tiles: Tiles | None) -> TileTable:
        """Return the tiles of a data set; None: its images as they are."""
        sizes, kind_of = np.unique(dataset.sizes, axis=0, return_inverse=True)
        kinds = [_tiles_of_size((int(height), int(width)), tiles) for height, width in sizes]
        counts = np.array([len(kind) for kind in kinds], dtype=np.int64)[kind_of.reshape(-1)]
        images = np.repeat(np.arange(len(dataset)), counts)
        boxes = [kinds[kind] for kind in kind_of.reshape(-1).tolist()] if tiles else [np.zeros((len(dataset), 4))]
        return cls(images, np.concatenate(boxes).astype(np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def first_of(self, image: int) -> int:
        """Return the number of the first tile of an image."""
        return int(np.searchsorted(self.images, image))

    def cut(self, sample: Sample, index: int) -> Sample:
        """Return tile number ``index`` of its image, with the boxes in pixels of the tile.

        A box of which at least half the area lies in the tile is an object of the tile, cut off at its edges. Of other
        boxes, what lies in the tile becomes a crowd: a region where training neither expects an object nor background.
        """
        left, top, right, bottom = self.boxes[index].tolist()
        if right <= left:
            return sample
        boxes = sample.boxes - np.array([left, top, left, top], dtype=np.float32)
        limits = np.array([right - left, bottom - top] * 2, dtype=np.float32)
        clipped = np.clip(boxes, 0, limits)
        inside = (clipped[:, 2:] - clipped[:, :2]).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        kept = ((clipped[:, 2:] - clipped[:, :2]) >= np.minimum(MIN_SIDE, boxes[:, 2:] - boxes[:, :2])).all(axis=1)
        is_crowd = sample.is_crowd | (inside < MIN_INSIDE)
        image = sample.image[top:bottom, left:right]
        return Sample(image, clipped[kept], sample.labels[kept], is_crowd[kept])


def _tiles_of_size(size: tuple[int, int], tiles: Tiles | None) -> Array:
    if tiles is None or 0 in size:
        return np.zeros((1, 4), dtype=np.int64)
    return tiles.boxes(size)
