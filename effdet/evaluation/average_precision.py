"""Average precision of detections that are known to be true or false."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.matching import Matches

COCO_RECALLS = np.linspace(0, 1, 101)  # as pycocotools has them: some differ from n / 100 in their last bit
TIDE_RECALLS = np.arange(101) / 100  # as tidecv has them; it counts where a recall is exactly n / 100


def average_precision(is_true: NDArray[np.bool_], num_boxes: int, recalls: NDArray[np.float64] = COCO_RECALLS) -> float:
    """Return the AP of one class, as COCO computes it: the mean precision at the recalls 0, 0.01, …, 1.

    The precision at a recall is the highest of those that are reached at this recall or a higher one.

    Args:
        is_true: (N,) whether each detection found a box, best score first.
        num_boxes: Boxes of the class; 0 gives 0.
        recalls: Ascending.
    """
    if not num_boxes or not len(is_true):
        return 0.0
    true = np.cumsum(is_true)
    precision = np.maximum.accumulate((true / np.arange(1, len(true) + 1))[::-1])[::-1]
    places = np.searchsorted(true / num_boxes, recalls, side="left")
    return float(precision[places[places < len(true)]].sum() / len(recalls))


def class_aps(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    is_true: NDArray[np.bool_],
    num_boxes: Sequence[int],
    recalls: NDArray[np.float64] = COCO_RECALLS,
) -> NDArray[np.float64]:
    """Return (K,) the AP of each class, 0 where it has no boxes; NaN where it has no detections either.

    Args:
        labels: (N,) of the detections; their order decides between equal scores.
        scores: (N,)
        is_true: (N,)
        num_boxes: K, boxes of each class.
        recalls: Ascending.
    """
    order = np.lexsort((-scores, labels))
    ends = np.searchsorted(labels[order], np.arange(len(num_boxes) + 1))
    aps = np.full(len(num_boxes), np.nan)
    for label, boxes in enumerate(num_boxes):
        rows = order[ends[label] : ends[label + 1]]
        if boxes > 0 or len(rows):
            aps[label] = average_precision(is_true[rows], int(boxes), recalls)
    return aps


def measured_aps(
    matches: Matches, boxes: NDArray[np.bool_] | None = None, detections: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return (K,) the AP of each class at the IoU of the matches; NaN where a class has no boxes.

    Args:
        matches: Detections and boxes.
        boxes: (M,) those that count; a detection that found another box does not count either. None: all.
        detections: (N,) those that count; None: all.
    """
    kept = ~matches.is_ignored if detections is None else ~matches.is_ignored & detections
    boxes = ~matches.is_crowd if boxes is None else ~matches.is_crowd & boxes
    if len(boxes):
        kept = kept & (~matches.is_true | boxes[matches.found_box])
    num_boxes = np.bincount(matches.true_labels[boxes], minlength=matches.num_classes)
    aps = class_aps(matches.labels[kept], matches.scores[kept], matches.is_true[kept], num_boxes.tolist())
    return np.where(num_boxes > 0, aps, np.nan)


def mean_ap(aps: NDArray[np.float64]) -> float:
    """Return the mean over the classes that have an AP; NaN without one."""
    measured = aps[~np.isnan(aps)]
    return float(measured.mean()) if len(measured) else float("nan")
