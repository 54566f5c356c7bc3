"""Choose the network input by what becomes of photos and boxes in it, and by what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import clip_boxes
from effdet.data.doctor.anchor_fit import REACHED, Network, best_overlap

if TYPE_CHECKING:
    from effdet.config import Config
    from effdet.data.dataset import Dataset
    from effdet.images.preprocessing import Fit
    from effdet.models.architecture import Architecture

Array: TypeAlias = NDArray[Any]
Size: TypeAlias = tuple[int, int]

SMALL_OBJECT = 16  # pixels of the network input: a smaller object has less than two cells of the finest level per side
MAX_OBJECTS = 4_000  # that are looked at, drawn from all
MAX_COMPARED = 500  # of them that are compared with the anchors of every candidate

# A candidate's price in octaves of pixels, that is doublings of the time of a step.
PHOTO_OCTAVE = 6.0  # price of a photo that is shown half as long as data.long_side says
BOX_OCTAVE = 8.0  # price of a box of half SMALL_OBJECT
REACH = 2.0  # worth of an anchor with IoU 0.5 for each box


@dataclass(frozen=True)
class Objects:
    """The boxes that choose an input, or the photos where there are no boxes."""

    sizes: Array  # (M, 2) float64 height, width of the photo, or tile, of each
    boxes: Array  # (M, 4) float64 x, y, width, height in its pixels; (0, 4) where there are no boxes

    @classmethod
    def of(cls, train: Dataset, tile: Size | None = None) -> Objects:
        """Return the boxes that training learns, at most ``MAX_OBJECTS`` of them, in the photos or in tiles of them."""
        rows = _draw(np.arange(len(train.boxes_xywh)), 4 * MAX_OBJECTS)  # some may not count
        sizes = train.sizes[train.image_of_box[rows]].astype(float)
        corners, has_area = clip_boxes(train.boxes_xywh[rows], sizes)
        kept = _draw(np.flatnonzero(has_area & ~train.is_crowd[rows] & (sizes > 0).all(axis=1)), MAX_OBJECTS)
        if not len(kept):
            return cls.of_photos(train.sizes, tile)
        sizes, corners = sizes[kept], corners[kept]
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return cls(sizes, boxes) if tile is None else cls(*_in_tiles(sizes, boxes, tile))

    @classmethod
    def of_photos(cls, sizes: Array, tile: Size | None = None) -> Objects:
        """Return photos in place of boxes.

        Args:
            sizes: (I, 2) heights and widths; those with a 0 are not known, and left out.
            tile: (height, width) of the tiles into which they are cut.
        """
        known = np.asarray(sizes, dtype=float)
        known = known[_draw(np.flatnonzero((known > 0).all(axis=1)), MAX_OBJECTS)]
        return cls(known if tile is None else np.minimum(known, tile), np.zeros((0, 4)))

    def part(self, count: int) -> Objects:
        """Return at most ``count`` of the boxes."""
        rows = _draw(np.arange(len(self.boxes)), count)
        return Objects(self.sizes[rows], self.boxes[rows])

    def scales(self, image_size: Size, fit: str) -> Array:
        """Return (M, 2) the network pixels per pixel of the photo, along y and along x."""
        scales = np.array(image_size) / self.sizes
        return scales if fit == "stretch" else np.repeat(scales.min(axis=1, keepdims=True), 2, axis=1)


@dataclass(frozen=True)
class InputFit:
    """What becomes of photos and boxes in a network input."""

    image_size: Size
    num_boxes: int  # that were looked at
    small: float  # 10th percentile of the roots of their areas, pixels of the input; NaN without boxes
    reached: float  # share of the boxes that an anchor reaches with IoU 0.5; NaN without boxes
    padding: float  # share of the input that is padding, in the mean


def network_of(config: Config, image_size: Size) -> Network:
    """Return the anchors of the network of a config, and how photos fit into its input.

    Raises:
        ConfigError: If there is no such architecture.
    """
    from effdet.runs.architecture import architecture_of

    architecture = architecture_of(config.model)
    name = architecture.name if config.model.weights is None else str(config.model.weights)
    network = with_anchors_of(architecture, name=name, image_size=image_size, fit=config.data.resize.value)
    return replace(network, max_detections=config.eval.max_detections)


def with_anchors_of(architecture: Architecture, *, name: str, image_size: Size, fit: Fit) -> Network:
    """Return the anchors of an architecture in a network input, and how photos fit into it."""
    return Network(
        name=name,
        image_size=image_size,
        fit=fit,
        min_level=architecture.min_level,
        max_level=architecture.max_level,
        anchor_scale=architecture.anchor_scale,
        scales_per_octave=architecture.scales_per_octave,
        aspect_ratios=architecture.aspect_ratios,
    )


def fit_of(image_size: Size, objects: Objects, network: Network) -> InputFit:
    """Return what becomes of objects in a network input."""
    scales = objects.scales(image_size, network.fit)
    padding = float(1 - ((objects.sizes * scales).prod(axis=1) / math.prod(image_size)).mean()) if len(scales) else 0.0
    if not len(objects.boxes):
        return InputFit(image_size, 0, math.nan, math.nan, padding)
    sides = np.sqrt((objects.boxes[:, 2:] * scales[:, ::-1]).prod(axis=1))
    return InputFit(
        image_size, len(sides), float(np.quantile(sides, 0.1)), _reached(image_size, objects, network), padding
    )


def choose_input(long_side: int, limit: int | None, objects: Objects, network: Network) -> Size:
    """Return the network input (height, width) that shows photos and boxes well for its pixels.

    The input with the least price is taken. In octaves of pixels (doublings of the time) it is, in the mean over the
    boxes,

        log₂(H·W) + 6·max(0, log₂(long_side / s)) + 8·max(0, log₂(16 / b)) - 2·r

    with s the longer side of the box's photo in the input, b the root of the box's area there, and r 1 where an anchor
    reaches the box with IoU 0.5 as the assignment measures it, else 0. So photos are shown ``long_side`` pixels long
    where more than a sixth of the boxes gains by it, the input grows for boxes under 16 pixels, and also for more
    anchors that fit.

    Args:
        long_side: Longer side of the input, pixels; a photo is shown smaller only if that saves much.
        limit: Pixels up to which the longer side may grow; None: it does not.
        objects: Boxes, or photos.
        network: Its anchors, and how photos fit into its input.
    """
    if not len(objects.sizes):
        return long_side, long_side
    candidates = list(_candidates(long_side, limit or long_side))
    prices = np.array([_price(size, long_side, objects, network) for size in candidates])
    if not len(objects.boxes):
        return candidates[int(prices.argmin())]
    compared = objects.part(MAX_COMPARED)
    best, chosen = math.inf, candidates[0]
    for place in np.argsort(prices, kind="stable"):
        if prices[place] - REACH >= best:
            break  # even with an anchor for each box, none of the others is better
        price = prices[place] - REACH * _reached(candidates[place], compared, network)
        if price < best:
            best, chosen = price, candidates[place]
    return chosen


def fit_input(long_side: int, sizes: Any) -> Size:
    """Return the network input (height, width) of a long side that wastes little of itself on padding.

    It is that of ``choose_input`` for photos without boxes: where nine in ten have one shape, it has that shape; a
    mixture of wide and high photos gets a square. The shorter side is a multiple of 32.

    Args:
        long_side: Longer side of the input, pixels.
        sizes: (I, 2) heights and widths of the images.
    """
    network = Network(name="", image_size=(long_side, long_side), aspect_ratios=())
    return choose_input(long_side, None, Objects.of_photos(sizes), network)


def _candidates(long_side: int, limit: int) -> Iterator[Size]:
    """Yield inputs, the smallest first among those of one longer side."""
    longer = [long_side, *(side for side in _sides(limit) if long_side < side)]
    for side in longer:
        for short in [*(other for other in _sides(side) if other < side), side]:
            yield short, side
            if short < side:
                yield side, short


def _sides(limit: int) -> Iterator[int]:
    """Yield lengths up to a limit: multiples of 32, and from 1,024 on coarser ones."""
    side = 32
    while side <= limit:
        yield side
        side += 32 * 2 ** max(0, int(math.log2(side)) - 9)


def _price(image_size: Size, long_side: int, objects: Objects, network: Network) -> float:
    """Return the price of an input without the anchors."""
    scales = objects.scales(image_size, network.fit)
    shown = objects.sizes.max(axis=1) * scales.min(axis=1) / long_side
    price = math.log2(math.prod(image_size)) - PHOTO_OCTAVE * np.log2(np.minimum(1, shown)).mean()
    if len(objects.boxes):
        sides = np.sqrt((objects.boxes[:, 2:] * scales).prod(axis=1)) / SMALL_OBJECT
        price -= BOX_OCTAVE * np.log2(np.minimum(1, sides)).mean()
    return float(price)


def _reached(image_size: Size, objects: Objects, network: Network) -> float:
    boxes = objects.boxes * np.tile(objects.scales(image_size, network.fit)[:, ::-1], 2)
    return float((best_overlap(boxes, replace(network, image_size=image_size)) >= REACHED).mean())


def _draw(rows: Array, count: int) -> Array:
    """Return at most ``count`` of the rows, always the same ones, in their order."""
    if len(rows) <= count:
        return rows
    drawn = np.random.default_rng(0).integers(len(rows), size=count)
    return rows[np.unique(drawn)]


def _in_tiles(sizes: Array, boxes: Array, tile: Size) -> tuple[Array, Array]:
    """Return sizes of tiles and boxes in them, for boxes that are no larger than a tile as if none were cut."""
    shown = np.minimum(sizes, tile)
    sides = np.minimum(boxes[:, 2:], shown[:, ::-1])
    corners = np.minimum(boxes[:, :2] % shown[:, ::-1], shown[:, ::-1] - sides)
    return shown, np.concatenate([corners, sides], axis=1)
