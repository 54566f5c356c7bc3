"""Checks of the boxes and classes of one split, and of the splits together. What reading a file finds comes before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset, clip_boxes
from effdet.data.findings import Finding, found

# (M, 4) float32 xyxy boxes in pixels of the network input -> (M,) IoU with the best anchor
AnchorOverlap = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_TINY = 4.0  # pixels, shorter side
_HUGE = 0.95  # of the image's area
_REACHED = 0.5  # IoU from which an anchor counts as a match
_MAX_ANCHOR_BOXES = 5000  # boxes compared with the anchors, spread over the set


def class_counts(dataset: Dataset) -> dict[str, int]:
    """Return the number of boxes of every class, unused ones included."""
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    result: Counter[str] = Counter()
    for name, count in zip(dataset.class_names, counts.tolist(), strict=True):
        result[name] += count
    return dict(result)


def check_annotations(dataset: Dataset) -> Iterator[Finding]:
    """Yield what is odd about the images, classes and boxes of a split."""
    names = dataset.names.tolist()
    yield from found("warning", "files are listed twice", _repeated(names))
    yield from found("warning", "class names are given twice", _repeated(dataset.class_names))
    unused = [name for name, count in class_counts(dataset).items() if count == 0]
    yield from found("warning", "classes have no boxes", unused)
    empty = [names[index] for index in np.flatnonzero(np.diff(dataset.offsets) == 0)]
    if len(empty) > 0.5 * len(dataset):
        yield from found("warning", "more than half of the images have no boxes", empty)
    yield from _check_boxes(dataset)
    yield from _check_repeated_boxes(dataset)


def _repeated(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _box_names(dataset: Dataset, rows: Iterable[int]) -> list[str]:
    images = dataset.image_of_box
    return [f"annotation {dataset.annotation_ids[row]} of {dataset.names[int(images[row])]}" for row in rows]


def _check_boxes(dataset: Dataset) -> Iterator[Finding]:
    boxes, sizes = dataset.boxes_xywh, dataset.sizes[dataset.image_of_box]
    clipped, is_inside = clip_boxes(boxes, sizes)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    reaches_out = (np.abs(clipped - corners) > 1).any(axis=1)
    area, image_area = boxes[:, 2] * boxes[:, 3], sizes.prod(axis=1)
    kinds = {
        "boxes reach out of their image": (is_inside & reaches_out, "they are clipped to it"),
        f"boxes are narrower than {_TINY:g} pixels": (is_inside & (boxes[:, 2:].min(axis=1) < _TINY), ""),
        f"boxes cover more than {_HUGE:.0%} of their image": (is_inside & (area > _HUGE * image_area) & (area > 0), ""),
    }
    for text, (which, advice) in kinds.items():
        known = which & (image_area > 0) if "cover" in text else which
        yield from found("warning", text, _box_names(dataset, np.flatnonzero(known)), advice)


def _check_repeated_boxes(dataset: Dataset) -> Iterator[Finding]:
    table = np.column_stack([dataset.image_of_box, dataset.labels, dataset.boxes_xywh])
    _, group, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(counts[group.reshape(-1)] > 1)
    yield from found("warning", "boxes are there more than once, with the same class", _box_names(dataset, rows))


# --- the network input ---------------------------------------------------------------------------------------------


def check_network_input(
    dataset: Dataset, image_size: tuple[int, int], anchor_overlap: AnchorOverlap | None
) -> Iterator[Finding]:
    """Compare the boxes, letterboxed into the network input, with its pixels and its anchors."""
    sizes = dataset.sizes[dataset.image_of_box]
    rows = np.flatnonzero((sizes > 0).all(axis=1) & (dataset.boxes_xywh[:, 2:] > 0).all(axis=1))
    scale = np.minimum(image_size[0] / sizes[rows, 0], image_size[1] / sizes[rows, 1])
    boxes = dataset.boxes_xywh[rows] * scale[:, None]
    size = f"{image_size[0]}×{image_size[1]}"
    tiny = rows[boxes[:, 2:].min(axis=1, initial=np.inf) < _TINY]
    text = f"boxes are narrower than {_TINY:g} pixels once the image is resized to {size}"
    yield from found("warning", text, _box_names(dataset, tiny))
    if anchor_overlap is None or len(boxes) == 0:
        return
    sample = np.unique(np.linspace(0, len(boxes) - 1, _MAX_ANCHOR_BOXES).astype(int))
    corners = np.concatenate([boxes[sample, :2], boxes[sample, :2] + boxes[sample, 2:]], axis=1)
    overlap = anchor_overlap(corners.astype(np.float32))
    missed = np.flatnonzero(overlap < _REACHED)
    named = _box_names(dataset, rows[sample[missed]])
    examples = [f"{name}, best IoU {overlap[place]:.2f}" for name, place in zip(named, missed, strict=True)]
    text = f"of {len(sample):,} boxes, these are reached by no anchor with IoU {_REACHED} at {size}"
    severity = "warning" if len(missed) > 0.05 * len(sample) else "note"
    yield from found(severity, text, examples, "each still gets its best anchor")  # type: ignore[arg-type]


# --- the splits together -------------------------------------------------------------------------------------------


def check_same_classes(train: Dataset, other: Dataset, split: str) -> Iterator[Finding]:
    """Compare the categories of a split with those of train, which a model learns. Names decide, else ids."""
    if _known(train, other):
        if train.category_ids != other.category_ids or train.class_names != other.class_names:
            text = f"categories of train and {split} have other ids or are not the same"
            yield Finding("note", text, "they are matched by name")
    else:
        unknown = [name for name in other.class_names if _folded(name) not in set(map(_folded, train.class_names))]
        text = f"categories of {split} are not among those of train"
        yield from found("error", text, unknown or other.class_names, "a model finds only what train lists")
    learned = class_counts(train)
    unlearned = [
        f"{name} ({count} boxes)"
        for name, count in class_counts(other).items()
        if count and name in learned and not learned[name]
    ]
    yield from found("warning", f"classes have boxes in {split} but none in train", unlearned)


def _known(train: Dataset, other: Dataset) -> bool:
    """Whether every category of a split is one of train."""
    if any([str(i) for i in part.category_ids] == list(part.class_names) for part in (train, other)):
        return set(other.category_ids) <= set(train.category_ids)
    return set(map(_folded, other.class_names)) <= set(map(_folded, train.class_names))


def _folded(name: str) -> str:
    return name.strip().casefold()
