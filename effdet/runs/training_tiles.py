"""Which tiles a run trains on, and which tiles show objects as large as they were in training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from effdet.config import AUTO_TILES
from effdet.data.dataset import clip_boxes
from effdet.data.tiles import TileTable
from effdet.detector.views import PLAIN, Views
from effdet.ops.tiles import OVERLAP, Tiles

if TYPE_CHECKING:
    from effdet.config import DataConfig
    from effdet.data.dataset import Dataset
    from effdet.images.preprocessing import Preprocessing

SMALL_OBJECT = 32  # pixels of the network input, COCO's limit of small objects: nine in ten are at least so large
LARGE_OBJECT = 0.95  # quantile of the longer sides, which the overlap must hold
LEAST_OVERLAP, MOST_OVERLAP = 0.1, 0.5


def tiles_of(data: DataConfig) -> Tiles | None:
    """Return the tiles that a resolved config says; None: images are not cut."""
    if data.tiles is None:
        return None
    assert data.tiles != AUTO_TILES, "resolve() fills in the tiles"
    side = data.tiles
    overlap = OVERLAP if data.tile_overlap is None else data.tile_overlap
    return Tiles(size=(side, side) if isinstance(side, int) else (side[0], side[1]), overlap=overlap)


def num_items(data: DataConfig, train: Dataset) -> int:
    """Return how many items an epoch of a resolved config shows: images, or tiles of them."""
    tiles = tiles_of(data)
    return len(train) if tiles is None else len(TileTable.of(train, tiles))


def validation_views(data: DataConfig) -> Views:
    """Return how a run looks at its validation images: in the tiles that it trains on."""
    tiles = tiles_of(data)
    return PLAIN if tiles is None else Views(tiles=tiles.size, overlap=tiles.overlap)


def auto_tiles(image_size: tuple[int, int], train: Dataset) -> Tiles | None:
    """Return tiles in which nine objects in ten are at least 32 pixels large in the network input.

    The size of an object is the root of its area. A tile has the shape of the input and is at least twice as long as
    nineteen objects in twenty; the overlap is as long as these, so that they are whole in a tile.

    Args:
        image_size: Network input (height, width).
        train: Training images; crowds do not count.

    Returns:
        The tiles; None if there are no boxes, or every image fits into one tile.
    """
    sides, _ = object_sides(train)
    if len(sides) == 0:
        return None
    small = float(np.quantile(np.sqrt(sides.prod(axis=1)), 0.1))
    large = float(np.quantile(sides.max(axis=1), LARGE_OBJECT))
    scale = max(small / SMALL_OBJECT, 2 * large / min(image_size))
    size = (max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale)))
    if (train.sizes <= np.array(size)).all():
        return None
    return Tiles(size=size, overlap=_overlap(large, size))


def tiles_like_training(image_size: tuple[int, int], preprocessing: Preprocessing, train: Dataset) -> Tiles | None:
    """Return tiles that show objects at the scale at which a run on whole images has shown them.

    It is the median over the objects.

    Args:
        image_size: Network input (height, width).
        preprocessing: How images become the network input.
        train: Training images.
    """
    sides, images = object_sides(train)
    if len(sides) == 0:
        return None
    sizes, kind_of = np.unique(train.sizes[images], axis=0, return_inverse=True)
    scales = np.array([preprocessing.content_size((int(h), int(w)), image_size)[1] for h, w in sizes])
    across, down = np.median(scales[kind_of.reshape(-1)], axis=0)
    size = (max(1, round(image_size[0] / down)), max(1, round(image_size[1] / across)))
    return Tiles(size=size, overlap=_overlap(float(np.quantile(sides.max(axis=1), LARGE_OBJECT)), size))


def object_sides(train: Dataset) -> tuple[Any, Any]:
    """Return (M, 2) widths and heights of the boxes that are no crowds, inside their images, and (M,) their images."""
    images = train.image_of_box
    boxes, has_area = clip_boxes(train.boxes_xywh, train.sizes[images])
    counts = has_area & ~train.is_crowd & (train.sizes[images] > 0).all(axis=1)
    return (boxes[:, 2:] - boxes[:, :2])[counts], images[counts]


def _overlap(length: float, size: tuple[int, int]) -> float:
    return round(min(MOST_OVERLAP, max(LEAST_OVERLAP, length / min(size))), 3)
