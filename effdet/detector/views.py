"""Detect objects in several views of an image: its tiles, its mirror image, and other sizes of the network input."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.detector.batches import stack_images
from effdet.images.letterbox import Letterbox
from effdet.ops.box_fusion import fuse_boxes, without_duplicates
from effdet.ops.tiles import OVERLAP, Tiles, merge_tiles
from effdet.structures import Detections

if TYPE_CHECKING:
    from effdet.detector.prediction import Detector

Array: TypeAlias = NDArray[Any]
Found: TypeAlias = tuple[Array, Array, Array]  # boxes (D, 4), labels (D,), scores (D,) of one image
TileChoice: TypeAlias = int | tuple[int, int] | Literal["auto"] | None

AUTO = "auto"
STRIDE = 32  # sides of the network input at another scale are multiples of it
MAX_SCALE = 8.0


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which views of an image go through the network.

    A pass is one scale of the network input, with or without the mirror image; in each pass all tiles are looked at.
    What the tiles of a pass show is brought together by NMS (``effdet.ops.tiles.merge_tiles``), and what several passes
    show by weighted boxes fusion (``effdet.ops.box_fusion.fuse_boxes``).

    Args:
        tiles: Side, or (height, width), of a tile in pixels of the image; "auto": tiles in which objects are as large
            in the network input as they were in training; None: the whole image.
        overlap: Share of its side that a tile has in common with its neighbour. None: 0.2, or what goes with "auto".
        flip: Look at the mirror image (left to right) too.
        scales: Factors of the network input, each a pass.

    Raises:
        TypeError: If a value has a wrong type.
        ValueError: If a value is out of range, or an overlap is given without tiles.
    """

    tiles: TileChoice = None
    overlap: float | None = None
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.tiles is None and self.overlap is not None:
            raise ValueError(f"overlap goes with tiles, got overlap={self.overlap!r} without them; give tiles too")
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip must be True or False, got {self.flip!r}")
        if self.tiles not in (None, AUTO):
            self._given_tiles()
        if isinstance(self.scales, str) or not isinstance(self.scales, Sequence):
            raise TypeError(f"scales must be a list of numbers, got {self.scales!r}")
        good = [isinstance(scale, numbers.Real) and 0 < scale <= MAX_SCALE for scale in self.scales]
        if not good or not all(good) or len(set(self.scales)) < len(self.scales):
            raise ValueError(
                f"scales must be different numbers above 0 and up to {MAX_SCALE:g}, one or more, got {self.scales!r}"
            )
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))

    @property
    def is_plain(self) -> bool:
        """Whether an image is looked at once, as a whole."""
        return self.tiles is None and not self.flip and self.scales == (1.0,)

    def check(self, detector: Detector) -> None:
        """Raise ``ValueError`` if these views do not suit the detector."""
        self.tiles_for(detector)
        self.inputs_for(detector)

    def tiles_for(self, detector: Detector) -> Tiles | None:
        """Return the tiles; those of "auto" are what the detector was trained with.

        Raises:
            ValueError: If "auto" is asked of a detector that does not know how large its objects were.
        """
        if self.tiles is None:
            return None
        if self.tiles != AUTO:
            return self._given_tiles()
        own = detector.training_tiles
        if own is None:
            raise ValueError(
                f"tiles must be a number of pixels for {detector.name}, got 'auto', which needs a model that was "
                "trained by this version or a later one; give the size in which training images were shown"
            )
        return own if self.overlap is None else replace(own, overlap=self.overlap)

    def _given_tiles(self) -> Tiles:
        given: Any = self.tiles
        if isinstance(given, str):
            raise ValueError(f"tiles must be a number of pixels, (height, width) or 'auto', got {given!r}")
        if isinstance(given, numbers.Integral) and not isinstance(given, bool):
            given = (given, given)
        if not isinstance(given, Sequence):
            raise TypeError(f"tiles must be a number of pixels, (height, width) or 'auto', got {given!r}")
        return Tiles(size=(*given,), overlap=OVERLAP if self.overlap is None else self.overlap)

    def inputs_for(self, detector: Detector) -> list[tuple[int, int]]:
        """Return the network input (height, width) of each scale; sides of other scales than 1 are multiples of 32.

        Raises:
            ValueError: If the detector takes one size only, and another is asked for.
        """
        own = detector.image_size
        sizes = [own if scale == 1 else _scaled(own, scale) for scale in self.scales]
        if not detector.takes_any_size and any(size != own for size in sizes):
            raise ValueError(
                f"scales must be (1,) for a file that takes inputs of {own} only, got {self.scales}; export it with "
                "--dynamic-size"
            )
        return sizes


PLAIN = Views()


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    height, width = (max(STRIDE, STRIDE * round(side * scale / STRIDE)) for side in size)
    return height, width


def detect_views(detector: Detector, image: Array, views: Views, batch_size: int) -> Detections:
    """Return the detections of an image, in its pixels, from all its views.

    At most ``max_detections`` of the settings count in each tile.

    Args:
        detector: What detects.
        image: (H, W, 3) as the detector's letterbox takes it, at full size.
        views: The views.
        batch_size: Views that go through the network together.

    Raises:
        ValueError: If the views do not suit the detector.
    """
    size = (image.shape[0], image.shape[1])
    chosen = views.tiles_for(detector)
    tiles = np.array([[0, 0, size[1], size[0]]]) if chosen is None else chosen.boxes(size)
    passes = []
    for image_size in views.inputs_for(detector):
        letterbox = replace(detector.letterbox, image_size=image_size)
        for mirrored in (False, True) if views.flip else (False,):
            found = list(_detect_tiles(detector, image, tiles, letterbox, mirrored, batch_size))
            passes.append(_merge(found, tiles, size, detector))
    merged = passes[0] if len(passes) == 1 else fuse_boxes([without_duplicates(found) for found in passes])
    limit = detector.settings.max_detections * len(tiles)
    boxes, labels, scores = (column[:limit] for column in merged)
    return Detections(boxes, labels, scores, detector.class_names, detector.category_ids, size)


def _merge(found: Sequence[Found], tiles: Array, size: tuple[int, int], detector: Detector) -> Found:
    if len(tiles) == 1:
        return found[0]
    settings = detector.settings
    return merge_tiles(found, tiles, size, iou_threshold=settings.iou_threshold, class_agnostic=settings.class_agnostic)


def _detect_tiles(
    detector: Detector, image: Array, tiles: Array, letterbox: Letterbox, mirrored: bool, batch_size: int
) -> Iterator[Found]:
    """Yield what is found in each tile, in pixels of the tile."""
    for first in range(0, len(tiles), batch_size):
        crops = [image[top:bottom, left:right] for left, top, right, bottom in tiles[first : first + batch_size]]
        shown = [np.ascontiguousarray(crop[:, ::-1] if mirrored else crop) for crop in crops]
        detected = detector.detect(stack_images([("", view) for view in shown], letterbox))
        for crop, one in zip(crops, detected, strict=True):
            boxes, labels, scores = one.numpy()
            yield (mirror_boxes(boxes, crop.shape[1]) if mirrored else boxes), labels, scores


def mirror_boxes(boxes: Array, width: int) -> Array:
    """Return boxes (D, 4) xyxy of an image that is this wide as they are in its mirror image, left to right."""
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)
