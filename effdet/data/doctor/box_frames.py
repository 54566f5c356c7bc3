"""Boxes in the wrong unit or order: recognised by what they would be if they were read in another way.

Four numbers of a box may be a corner and a size, two corners, or a centre and a size; x and y may be exchanged; the
unit may be pixels or parts of the image. A wrong reading shows in boxes that have no area or reach out of their
image, while another reading puts all of them inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset
from effdet.data.findings import Finding, Severity, found_at
from effdet.data.formats.values import are_percent

Array = NDArray[Any]

CORNER_AND_SIZE, TWO_CORNERS, CENTRE_AND_SIZE = "x, y, width, height", "x1, y1, x2, y2", "centre x, y, width, height"
_SWAPPED_SIZE, _SWAPPED_CORNERS = "y, x, height, width", "y1, x1, y2, x2"

EXCHANGED_CORNERS, PARTS, PIXELS = "x2, y2, x1, y1", "parts of the image", "pixels"
PERCENT = "percent of the image"
THOUSANDTHS = "thousandths of the image"

# What a single box may hold, by what the format has; other readings are too often right by chance.
_OF_SINGLE_BOXES = {
    CORNER_AND_SIZE: (PARTS, TWO_CORNERS),
    TWO_CORNERS: (PARTS, PIXELS, CORNER_AND_SIZE, EXCHANGED_CORNERS),
    CENTRE_AND_SIZE: (PIXELS,),
}

# What the four numbers of a format are; and the formats whose numbers are parts of the image.
NATIVE = {"coco": CORNER_AND_SIZE, "yolo": CENTRE_AND_SIZE, "voc": TWO_CORNERS, "csv": TWO_CORNERS}
NATIVE |= {"openimages": TWO_CORNERS}
RELATIVE = ("yolo", "openimages")

# What readers say of a whole set, as training must not start on it.
FOUND_BY_READERS = (
    "all boxes lie in [0, 1]",
    "bbox holds two corners",
    "boxes are in pixels",
    "boxes are in percent of the image",
)

MAX_BOXES = 200_000  # that are looked at to judge the whole set, spread over it

_FEWEST_IMAGES = 5  # that say something about all
_NEARLY_ALL = 99  # percentile that tells the size of images which boxes were drawn on
_FEWEST = 20  # boxes that say something about the whole set
_WRONG = 0.01  # part of the boxes that must be wrong in the format's own reading
_SURE = 0.2  # the same, for training to be refused
_MANY_WRONG = 0.1  # the same, for boxes to be taken as thousandths
_RIGHT = 0.998  # part of the boxes that must be right in another one
_SLACK = 0.02  # of the image's sides, by which annotators draw over its edge
_FAR_OUT = 0.1  # of the image's sides; a single box that reaches out by less is only clipped
_LARGER_THAN_PERCENT = 150  # pixels: boxes in images that are smaller lie in [0, 100] anyway
_SMALL_PART = 0.6  # of both sides; if no box goes beyond it, the images have another size


@dataclass(frozen=True)
class Misread:
    """Boxes that are right when their numbers are taken as something else."""

    rows: Array  # (n,) int64: number of each such box
    boxes: Array  # (n, 4) float64: what they then are, x, y, width, height in pixels
    meant: str  # what the numbers are
    is_whole_set: bool  # so that the set, not single boxes, is wrong
    num_impossible: int  # boxes that are impossible as the format has them


def check_box_frames(dataset: Dataset, format: str, name: Callable[[int], str]) -> Iterator[Finding]:
    """Yield in what other unit or order boxes seem to be.

    Args:
        dataset: The split.
        format: Name of the format that it was read in.
        name: Gives the name of the box of a row.
    """
    native = NATIVE.get(format, CORNER_AND_SIZE)
    has_error = any(finding.text in FOUND_BY_READERS for finding in dataset.findings)
    misread_boxes = find_misread(dataset, format)
    for misread in misread_boxes:
        if misread.is_whole_set and has_error:
            continue
        if misread.is_whole_set:
            text = f"boxes hold {misread.meant}, where the format has {native}"
            is_sure = misread.num_impossible > _SURE * len(misread.rows)
            severity: Severity = "error" if is_sure else "warning"
            yield from found_at(severity, text, misread.rows, name, "convert them; --fix does")
        else:
            text = f"single boxes seem to hold {misread.meant}, where the format has {native}"
            yield from found_at(
                "warning", text, misread.rows, name, "convert them, or remove them; --fix converts them"
            )
    if not (has_error or any(misread.is_whole_set for misread in misread_boxes)):
        yield from _check_larger_images(dataset, name)
    yield from _check_size_of_images(dataset, name)


def _check_size_of_images(dataset: Dataset, name: Callable[[int], str]) -> Iterator[Finding]:
    sizes = dataset.sizes[dataset.image_of_box][:, ::-1]
    known = np.flatnonzero((sizes > 0).all(axis=1))
    if len(known) < _FEWEST:
        return
    boxes = dataset.boxes_xywh[known]
    ends = (boxes[:, :2] + boxes[:, 2:]) / sizes[known]
    num_images = len(np.unique(dataset.image_of_box[known]))
    if (ends.max(axis=0) < _SMALL_PART).all() and num_images >= _FEWEST_IMAGES:
        right, bottom = ends.max(axis=0)
        text = f"all boxes lie in the upper left {right:.0%} × {bottom:.0%} of their images"
        advice = "they seem to be drawn for images of another size; scale them, or use those images"
        if are_percent(boxes):
            advice = f"they seem to be {PERCENT}; multiply them by its width and height / 100"
        yield from found_at("warning", text, known, name, advice)


def _check_larger_images(dataset: Dataset, name: Callable[[int], str]) -> Iterator[Finding]:
    """Yield that many boxes reach far out of their images, at the right and at the bottom, as if these were larger."""
    sizes = dataset.sizes[dataset.image_of_box][:, ::-1]
    known = np.flatnonzero((sizes > 0).all(axis=1))
    ends = (dataset.boxes_xywh[known, :2] + dataset.boxes_xywh[known, 2:]) / sizes[known]
    outside = known[(ends > 1 + _FAR_OUT).any(axis=1)]
    if len(outside) >= max(_FEWEST, _SURE * len(known)):
        right, bottom = np.percentile(ends, _NEARLY_ALL, axis=0)
        text = f"boxes lie outside of their images, and reach up to {right:.1f} × {bottom:.1f} of width and height"
        advice = "they seem to be drawn for images of another size; scale them, or use those images"
        yield from found_at("error", text, outside, name, advice)


def find_misread(dataset: Dataset, format: str) -> list[Misread]:
    """Return the boxes whose numbers are in another unit or order than the format's; see ``check_box_frames``.

    Whether the whole set is, is judged by at most 200,000 boxes, spread over it.
    """
    sizes = dataset.sizes[dataset.image_of_box]
    known = np.flatnonzero((sizes > 0).all(axis=1) & ~dataset.is_crowd)
    if not len(known):
        return []
    sample = known[np.unique(np.linspace(0, len(known) - 1, MAX_BOXES).astype(int))]
    judged = _Readings(dataset, sizes, sample, format)
    fits = {meant: _fits(boxes, judged.limits, _SLACK) for meant, boxes in judged.boxes.items()}
    fits[judged.native] &= (judged.boxes[judged.native][:, 2:] * judged.pixels > 1).any(axis=1)
    if whole := _whole_set(fits, judged.native):
        share = float((~fits[judged.native]).mean())
        boxes = _Readings(dataset, sizes, known, format).in_pixels(whole)
        return [Misread(known, boxes, whole, True, round(share * len(known)))]
    return _single_boxes(dataset, sizes, known, format)


class _Readings:
    """What the boxes of some rows may be: (M, 4) x, y, width, height in the unit of the file, by what is meant."""

    def __init__(self, dataset: Dataset, sizes: Array, rows: Array, format: str) -> None:
        width_height = sizes[rows][:, ::-1].astype(np.float64)
        ones: Array = np.ones((len(rows), 2))
        self.native = NATIVE.get(format, CORNER_AND_SIZE)
        self.limits: Array = ones if format in RELATIVE else width_height
        self.pixels: Array = width_height if format in RELATIVE else ones
        numbers = _NUMBERS[self.native](dataset.boxes_xywh[rows] / np.tile(self.pixels, 2))
        self.boxes = _readings(numbers, self.native, self.limits, self.pixels)

    def in_pixels(self, meant: str) -> Array:
        """Return the boxes, (M, 4) x, y, width, height in pixels, where ``meant`` is what the numbers are."""
        return np.asarray(self.boxes[meant] * np.tile(self.pixels, 2))


def _whole_set(fits: dict[str, Array], native: str) -> str | None:
    """Return the reading that suits the whole set better than that of the format."""
    right = fits[native]
    num_wrong = int((~right).sum())
    if len(right) < _FEWEST or num_wrong < max(3, _WRONG * len(right)):
        return None
    if num_wrong < _MANY_WRONG * len(right):  # almost all boxes fit once they are made smaller
        fits = {meant: fit for meant, fit in fits.items() if meant != THOUSANDTHS}
    best = max((meant for meant in fits if meant != native), key=lambda meant: fits[meant].mean())
    return best if fits[best].mean() >= max(_RIGHT, right.mean()) else None


def _single_boxes(dataset: Dataset, sizes: Array, known: Array, format: str) -> list[Misread]:
    """Return the boxes that are far from possible, by the first reading that makes them right."""
    boxes, limits = dataset.boxes_xywh[known], sizes[known][:, ::-1]
    sides = boxes[:, 2:]
    far_out = (boxes[:, :2] < -_FAR_OUT * limits) | (boxes[:, :2] + sides > (1 + _FAR_OUT) * limits)
    rows = known[(far_out | (sides < 0)).any(axis=1) | (sides <= 1).all(axis=1)]
    if not len(rows):
        return []
    readings = _Readings(dataset, sizes, rows, format)
    left, found = np.ones(len(rows), bool), []
    for meant in _OF_SINGLE_BOXES[readings.native]:
        if meant in readings.boxes:
            chosen = np.flatnonzero(left & _fits(readings.boxes[meant], readings.limits, _SLACK))
            left[chosen] = False
            found += [Misread(rows[chosen], readings.in_pixels(meant)[chosen], meant, False, len(chosen))]
    return [misread for misread in found if len(misread.rows)]


def _fits(boxes: Array, limits: Array, slack: float) -> Array:
    """Return (M,) whether each box has an area, and lies inside its image but for a part of its sides."""
    ends = boxes[:, :2] + boxes[:, 2:]
    inside = (boxes[:, :2] >= -slack * limits) & (ends <= (1 + slack) * limits)
    return np.asarray((inside & (boxes[:, 2:] > 0)).all(axis=1))


# --- readings: (M, 4) numbers of the file, in its unit -> (M, 4) x, y, width, height in that unit --------------------


def _readings(numbers: Array, native: str, limits: Array, pixels: Array) -> dict[str, Array]:
    """Return the boxes by what the numbers may be.

    Args:
        numbers: (M, 4) as in the file.
        native: What they are in its format.
        limits: (M, 2) width and height of the image in the file's unit.
        pixels: (M, 2) pixels in that unit.
    """
    swapped = numbers[:, [1, 0, 3, 2]]
    by_order = {
        TWO_CORNERS: _from_corners(numbers),
        CORNER_AND_SIZE: numbers,
        CENTRE_AND_SIZE: _from_centre(numbers),
        _SWAPPED_CORNERS: _from_corners(swapped),
        _SWAPPED_SIZE: swapped,
    }
    if native == TWO_CORNERS:
        by_order[EXCHANGED_CORNERS] = _from_corners(numbers[:, [2, 3, 0, 1]])
    if (limits == 1).all():
        percent = {PERCENT: _from_percent(by_order[native], pixels)}
        return {**percent, PIXELS: _if_large(by_order[native]) / np.tile(pixels, 2), **by_order}
    parts = _if_small(numbers)
    in_order, scale = {CORNER_AND_SIZE: parts, TWO_CORNERS: _from_corners(parts)}[native], np.tile(limits, 2)
    by_unit = {
        PARTS: in_order * scale,
        f"{PARTS} as {CENTRE_AND_SIZE}": _from_centre(parts) * scale,
    }
    return {**by_unit, **by_order, THOUSANDTHS: _from_thousandths(by_order[native], limits)}


def _if_small(numbers: Array) -> Array:
    """Return the rows of which no number is above 1, and zeros for the others."""
    return np.where((np.abs(numbers) <= 1).all(axis=1, keepdims=True), numbers, 0)


def _if_large(boxes: Array) -> Array:
    """Return the boxes that are at least 2 units large, and zeros for the others."""
    return np.where((boxes[:, 2:] >= 2).all(axis=1, keepdims=True), boxes, 0)


def _from_thousandths(boxes: Array, limits: Array) -> Array:
    """Return boxes that were drawn on a square of 1,000; none, if no image is smaller or no box lies beyond 700."""
    fits = (limits < 990).any() and (boxes[:, :2] + boxes[:, 2:]).max(initial=0) > 700
    return boxes * np.tile(limits, 2) / 1000 if fits else np.zeros_like(boxes)


def _from_percent(boxes: Array, pixels: Array) -> Array:
    """Return boxes whose numbers lie in [0, 100]; none, if most images are hardly larger than 100 pixels."""
    is_percent = are_percent(boxes) and np.median(pixels) > _LARGER_THAN_PERCENT
    return boxes / 100 if is_percent else np.zeros_like(boxes)


def _from_corners(numbers: Array) -> Array:
    return np.concatenate([numbers[:, :2], numbers[:, 2:] - numbers[:, :2]], axis=1)


def _from_centre(numbers: Array) -> Array:
    return np.concatenate([numbers[:, :2] - numbers[:, 2:] / 2, numbers[:, 2:]], axis=1)


_NUMBERS: dict[str, Callable[[Array], Array]] = {  # (M, 4) x, y, width, height -> what the file holds
    CORNER_AND_SIZE: lambda boxes: boxes,
    TWO_CORNERS: lambda boxes: np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
    CENTRE_AND_SIZE: lambda boxes: np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1),
}
