"""Cut a large image into overlapping tiles, and bring together what was found in them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]  # (height, width)
Array: TypeAlias = NDArray[Any]
Found: TypeAlias = tuple[Array, Array, Array]  # boxes (D, 4) xyxy, labels (D,), scores (D,)

OVERLAP = 0.2
MAX_OVERLAP = 0.9
CUT_MARGIN = 0.02  # of a tile's side: a box that ends so near to an inner edge of its tile counts as cut by it
CUT_RANK = 0.5  # factor of the score of a cut box where it competes with whole ones


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How images are cut into tiles; plain values, saved with a model that was trained so.

    Raises:
        TypeError: If a side is no whole number.
        ValueError: If a side is below 1, or the overlap is not in [0, 0.9].
    """

    size: Size  # (height, width) of a tile in pixels of the image
    overlap: float = OVERLAP  # share of its side that a tile has in common with its neighbour, at least

    def __post_init__(self) -> None:
        sides = tuple(self.size)
        if len(sides) != 2 or not all(isinstance(s, numbers.Integral) and not isinstance(s, bool) for s in sides):
            raise TypeError(f"a tile must have two whole numbers (height, width), got {self.size!r}")
        if min(sides) < 1:
            raise ValueError(f"a tile must have sides of 1 pixel or more, got {sides}")
        if not (isinstance(self.overlap, numbers.Real) and 0 <= self.overlap <= MAX_OVERLAP):
            raise ValueError(f"overlap must lie in [0, {MAX_OVERLAP}], got {self.overlap!r}")
        object.__setattr__(self, "size", (int(sides[0]), int(sides[1])))

    def boxes(self, image_size: Size) -> Array:
        """Return the tiles of an image, evenly spaced so that they end at its edges.

        A side that is not longer than that of a tile is not cut.

        Args:
            image_size: (height, width).

        Returns:
            (T, 4) int64 xyxy, row by row.
        """
        rows, columns = (_spans(side, tile, self.overlap) for side, tile in zip(image_size, self.size, strict=True))
        return np.array([(left, top, right, bottom) for top, bottom in rows for left, right in columns], dtype=np.int64)


def tiles_from_dict(values: Any) -> Tiles | None:
    """Return the tiles that ``dataclasses.asdict`` turned into plain values; None stays None.

    Raises:
        TypeError, ValueError: If they are no tiles.
    """
    if values is None:
        return None
    if not isinstance(values, dict) or not isinstance(values.get("size"), list | tuple):
        raise TypeError(f"training_tiles must have size and overlap, got {values!r}")
    return Tiles(**values)


def _spans(side: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """Return first pixel and end of each tile along an axis."""
    if side <= tile:
        return [(0, side)]
    step = max(1, math.floor(tile * (1 - overlap)))
    count = math.ceil((side - tile) / step) + 1
    return [(start, start + tile) for start in (round(i * (side - tile) / (count - 1)) for i in range(count))]


def merge_tiles(
    found: Sequence[Found], tiles: Array, image_size: Size, *, iou_threshold: float, class_agnostic: bool = False
) -> Found:
    """Return the detections of all tiles as those of the image: NMS in its pixels, between boxes of different tiles.

    Boxes of one tile do not see each other, because the tile's own NMS has seen them. So a single tile changes nothing.
    A box that ends within 2 % of a side from an edge of its tile, which is not an edge of the image, counts as cut:

    - where boxes compete, it has half its score, so that a whole box of another tile comes first;
    - it is dropped where more than ``iou_threshold`` of its own area lies in a better box, instead of its IoU.

    An object that is larger than the overlap of two tiles may be whole in none, and is then found in pieces.

    Args:
        found: What was found in each tile, in pixels of the tile.
        tiles: (T, 4) xyxy, pixels of the image.
        image_size: (height, width) of the image.
        iou_threshold: A box is dropped when its IoU with a better one of its class is above this.
        class_agnostic: Boxes of different classes see each other too.

    Returns:
        Boxes (D, 4) in pixels of the image, labels (D,), scores (D,); best score first.
    """
    offsets = [tile[[0, 1, 0, 1]].astype(boxes.dtype) for tile, (boxes, _, _) in zip(tiles, found, strict=True)]
    boxes = np.concatenate([boxes + offset for (boxes, _, _), offset in zip(found, offsets, strict=True)])
    labels, scores = (np.concatenate([one[column] for one in found]) for column in (1, 2))
    tile_of = np.repeat(np.arange(len(found)), [len(scores) for _, _, scores in found])

    corners = boxes.astype(np.float64)
    cut = _are_cut(corners, tiles[tile_of], image_size)
    order = np.argsort(-scores.astype(np.float64) * np.where(cut, CUT_RANK, 1.0), kind="stable")
    classes = np.zeros(len(cut), np.int64) if class_agnostic else labels
    kept = order[_keep_best(corners[order], classes[order], tile_of[order], cut[order], iou_threshold)]
    best_first = kept[np.argsort(-scores[kept], kind="stable")]
    return boxes[best_first], labels[best_first], scores[best_first]


def _are_cut(boxes: Array, tiles: Array, image_size: Size) -> Array:
    """Return (D,) whether each box (D, 4) ends at an inner edge of its tile (D, 4)."""
    sides = (tiles[:, 2:] - tiles[:, :2])[:, [0, 1, 0, 1]]
    limits = np.array([0, 0, image_size[1], image_size[0]])
    beyond = np.array([-1, -1, 1, 1]) * (tiles - boxes)  # pixels from the box's edge to the tile's
    cut: Array = ((tiles != limits) & (beyond <= CUT_MARGIN * sides)).any(axis=1)
    return cut


def _keep_best(boxes: Array, classes: Array, tile_of: Array, cut: Array, iou_threshold: float) -> Array:
    """Return the positions (D,) of the boxes that no better one of another tile drops; boxes come best first."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    areas = (x2 - x1) * (y2 - y1)
    alive = np.ones(len(boxes), dtype=bool)
    rivals = _rivals(boxes, tile_of)
    for best in range(len(boxes)):
        if not alive[best]:
            continue
        met = rivals[tile_of[best]]
        met = met[np.searchsorted(met, best) :]
        met = met[alive[met] & (classes[met] == classes[best])]
        met = met[(x1[met] < x2[best]) & (x2[met] > x1[best]) & (y1[met] < y2[best]) & (y2[met] > y1[best])]
        common = np.minimum(x2[met], x2[best]) - np.maximum(x1[met], x1[best])
        common *= np.minimum(y2[met], y2[best]) - np.maximum(y1[met], y1[best])
        whole = np.where(cut[met], areas[met], areas[met] + areas[best] - common)
        alive[met[common > iou_threshold * whole]] = False
    return np.flatnonzero(alive)


def _rivals(boxes: Array, tile_of: Array) -> dict[int, Array]:
    """Return, for each tile, the ascending positions of the boxes of other tiles that boxes of this one may overlap.

    Without this, a large image would take seconds: each box would be compared with all others.
    """
    extents = {
        tile: (*boxes[tile_of == tile, :2].min(axis=0), *boxes[tile_of == tile, 2:].max(axis=0))
        for tile in np.unique(tile_of).tolist()
    }
    rivals = {}
    for tile, (left, top, right, bottom) in extents.items():
        others = [
            other
            for other, (x1, y1, x2, y2) in extents.items()
            if other != tile and x1 < right and x2 > left and y1 < bottom and y2 > top
        ]
        rivals[tile] = np.flatnonzero(np.isin(tile_of, others))
    return rivals
