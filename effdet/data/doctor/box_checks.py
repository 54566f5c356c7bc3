"""Checks of the boxes of one split. What reading a file finds comes before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset, clip_boxes
from effdet.data.findings import Finding, Severity, found_at

Array = NDArray[Any]

_TINY = 4.0  # pixels, shorter side
_HUGE = 0.95  # of the image's area
_THIN = 20.0  # longer side / shorter side
_MANY = 0.05  # of the boxes: more than that are seldom meant so
_FEW = 0.01  # of the boxes: a slip in so many is usual, and harmless
_SAME = 0.9  # IoU from which two boxes are one
_EMPTY = 0.5  # part of the images without boxes that is seldom meant so


def namer(dataset: Dataset) -> Callable[[int], str]:
    """Return a function that gives what messages call the box of a row."""
    has_ids = dataset.annotation_file.suffix.lower() == ".json"  # other formats number no boxes

    def name(row: int) -> str:
        image = int(np.searchsorted(dataset.offsets, row, side="right")) - 1
        if not has_ids:
            return f"box {row - int(dataset.offsets[image]) + 1} of {dataset.names[image]}"
        return f"annotation {dataset.annotation_ids[row]} of {dataset.names[image]}"

    return name


def check_boxes(dataset: Dataset) -> Iterator[Finding]:
    """Yield what is odd about the boxes of a split."""
    yield from _check_images(dataset)
    yield from _check_shapes(dataset)
    yield from _check_repeated(dataset)


def check_number_of_boxes(dataset: Dataset, max_detections: int) -> Iterator[Finding]:
    """Yield the images that have more boxes than detections are kept."""
    counts = np.bincount(dataset.image_of_box[~dataset.is_crowd], minlength=len(dataset))
    crowded = np.flatnonzero(counts > max_detections)
    advice = (
        f"the others cannot be found: eval.max_detections={counts.max(initial=0)} keeps more, though COCO's AP counts "
        "100 for each image; or cut the images into tiles"
    )
    text = f"images have more boxes than the {max_detections:,} detections that are kept of an image"
    yield from found_at(
        "warning", text, crowded, lambda index: f"{dataset.names[index]} ({counts[index]:,} boxes)", advice
    )


def _check_images(dataset: Dataset) -> Iterator[Finding]:
    names = dataset.names
    twice = _rows_of_repeated(names.tolist())
    advice = "join their boxes in one entry; --fix does"
    yield from found_at("warning", "files are listed twice", twice, names.__getitem__, advice)
    empty = np.flatnonzero(np.diff(dataset.offsets) == 0).tolist()
    advice = "they teach what is background; if they were not labelled yet, take them out"
    if len(empty) > _EMPTY * len(dataset):
        yield from found_at("warning", "more than half of the images have no boxes", empty, names.__getitem__, advice)
    else:
        yield from found_at("note", "images have no boxes", empty, names.__getitem__, advice)


def _rows_of_repeated(names: list[str]) -> list[int]:
    """Return for each name that comes again the row where it does so first."""
    first: dict[str, int] = {}
    again: dict[str, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            again.setdefault(name, row)
    return list(again.values())


def _check_shapes(dataset: Dataset) -> Iterator[Finding]:
    boxes, sizes = dataset.boxes_xywh, dataset.sizes[dataset.image_of_box]
    clipped, is_inside = clip_boxes(boxes, sizes)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    reaches_out = is_inside & (np.abs(clipped - corners) > 1).any(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    advice = "they are clipped to it; draw them inside of it"
    yield from found_at("warning", "boxes reach out of their image", _rows(reaches_out), namer(dataset), advice)

    sides, image_area = np.clip(boxes[:, 2:], 0, None), sizes.prod(axis=1)
    area, shorter = sides.prod(axis=1), sides.min(axis=1)
    has_area = area > 0
    areas_fit = (dataset.areas <= area * 1.01 + 1) & (dataset.areas > 0)
    kinds = (
        (f"boxes are narrower than {_TINY:g} pixels", shorter < _TINY, "look whether they show an object"),
        (f"boxes are more than {_THIN:g} times as long as wide", sides.max(axis=1) > _THIN * shorter, _FEW_ANCHORS),
        (f"boxes cover more than {_HUGE:.0%} of their image", (area > _HUGE * image_area) & (image_area > 0), _WHOLE),
        ("areas of objects are 0, or larger than their boxes", ~areas_fit, "COCO's AP by size counts by area"),
    )
    for text, which, advice in kinds:
        rows = _rows(which & is_inside & has_area)
        yield from found_at(_by_share(rows, dataset), text, rows, namer(dataset), advice)


_FEW_ANCHORS = "look whether they show an object; no anchor has such a shape"
_WHOLE = "look whether each surrounds one object, and not a picture that was never labelled"


def _rows(which: Array) -> Array:
    return np.flatnonzero(which)


def _by_share(rows: Array, dataset: Dataset, share: float = _MANY) -> Severity:
    return "warning" if len(rows) > share * len(dataset.boxes_xywh) else "note"


def _check_repeated(dataset: Dataset) -> Iterator[Finding]:
    """Yield boxes of one image that are the same, or nearly so."""
    one, other = nearly_same(dataset)
    exact = (dataset.boxes_xywh[one] == dataset.boxes_xywh[other]).all(axis=1)
    alike = dataset.labels[one] == dataset.labels[other]
    keep = "keep one of each; --fix does"
    kinds: tuple[tuple[float, str, Array, str], ...] = (
        (0.0, "boxes are there more than once, with the same class", alike & exact, keep),
        (_FEW, "boxes are nearly the same as another one of their class", alike & ~exact, keep),
        (_FEW, "boxes are the same as one of another class", ~alike, "an object should have one class"),
    )
    for share, text, which, advice in kinds:
        rows = np.unique(other[which])
        yield from found_at(_by_share(rows, dataset, share), text, rows, namer(dataset), advice)


def nearly_same(dataset: Dataset) -> tuple[Array, Array]:
    """Return (P,) and (P,) the rows of pairs of boxes of one image whose IoU is 0.9 or more, the earlier one first.

    Two boxes of such an IoU have areas that differ by at most a tenth, so of the boxes of an image, by area, only near
    ones are compared. Crowds are left out.
    """
    boxes = dataset.boxes_xywh
    areas = np.clip(boxes[:, 2:], 0, None).prod(axis=1)
    usable = np.flatnonzero((areas > 0) & ~dataset.is_crowd)
    order = usable[np.lexsort((areas[usable], dataset.image_of_box[usable]))]
    images, sorted_areas = dataset.image_of_box[order], areas[order]
    pairs: list[tuple[Array, Array]] = []
    first, step = np.arange(len(order)), 1
    while len(first):
        first = first[first + step < len(order)]
        second = first + step
        near = (images[first] == images[second]) & (sorted_areas[first] >= _SAME * sorted_areas[second])
        first, second = first[near], second[near]  # what is not near at one distance is not at a larger one
        same = _iou(boxes[order[first]], boxes[order[second]]) >= _SAME
        pairs.append((order[first[same]], order[second[same]]))
        step += 1
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    one, other = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return np.minimum(one, other), np.maximum(one, other)


def _iou(one: Array, other: Array) -> Array:
    """Return (M,) the IoU of boxes (M, 4) x, y, width, height, pair by pair."""
    low = np.maximum(one[:, :2], other[:, :2])
    high = np.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    return shared / (one[:, 2:].prod(axis=1) + other[:, 2:].prod(axis=1) - shared)
