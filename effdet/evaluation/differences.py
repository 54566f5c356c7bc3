"""Which differences between two sets of detections mean something: a paired bootstrap over the images.

Both sets are scored on the same images. Images are drawn anew with replacement many times, the same ones for both. The
interval holds the middle 95 % of the differences that result (Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.matching import Matches

IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
DRAWS = 1000
_WORK = 3e9  # numbers that all draws together may compute; of large data sets fewer draws are made
_AT_ONCE = 4_000_000  # of them in memory


@dataclass(frozen=True, kw_only=True)
class Difference:
    """AP of a second set of detections less that of a first one, with its 95 % interval."""

    name: str  # of the class; "all classes" for their mean
    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """``second`` − ``first``."""
        return self.second - self.first

    @property
    def is_significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The differences of all classes, and how they were drawn."""

    differences: tuple[Difference, ...]  # the mean of all classes first
    num_draws: int
    num_images: int


def compare(
    first: Matches, second: Matches, class_names: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Return the differences in AP, the mean over IoU 0.50:0.95, of each class that has boxes, and of their mean.

    Args:
        first: Detections of one detector.
        second: Of another one on the same boxes.
        class_names: K.
        draws: Bootstrap samples; less where detections are so many that it would take minutes.
        seed: Of the random numbers.

    Raises:
        ValueError: If the boxes are not the same, or there is only one image, which says nothing about others.
    """
    if not _same_boxes(first, second):
        raise ValueError("both sets of detections must be scored on the same boxes; evaluate them on the same data")
    if first.num_images < 2:
        raise ValueError(f"detectors are compared on two or more images, got {first.num_images}; add validation images")
    work = len(IOUS) * (len(first.scores) + len(second.scores))
    draws = int(max(100, min(draws, _WORK / max(1, work))))
    weights = np.ones((draws + 1, first.num_images), dtype=np.float32)  # row 0 is the data set as it is
    weights[1:] = _drawn_images(draws, first.num_images, seed)
    aps = [_weighted_aps(matches, weights) for matches in (first, second)]  # each (draws + 1, K)
    names = list(class_names)
    rows = [_difference("all classes", *(_mean(ap) for ap in aps))]
    rows += [
        _difference(name, *(ap[:, label] for ap in aps))
        for label, name in enumerate(names)
        if first.num_true_boxes[label]
    ]
    return Comparison(differences=tuple(rows), num_draws=draws, num_images=first.num_images)


def _same_boxes(first: Matches, second: Matches) -> bool:
    return (
        first.num_images == second.num_images
        and np.array_equal(first.true_labels, second.true_labels)
        and np.array_equal(first.true_images, second.true_images)
        and np.array_equal(first.true_boxes, second.true_boxes)
    )


def _drawn_images(draws: int, num_images: int, seed: int) -> NDArray[np.float32]:
    """Return (draws, I) how often each image is in each sample."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=draws).astype(np.float32)


def _weighted_aps(matches: Matches, weights: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (draws, K) the AP of each class in each sample; NaN where the sample has no box of the class."""
    total = np.zeros((len(weights), matches.num_classes))
    boxes = ~matches.is_crowd
    for iou in IOUS:
        at_iou = matches.at_iou(iou)
        order = np.lexsort((-at_iou.scores, at_iou.labels))
        order = order[~at_iou.is_ignored[order]]
        ends = np.searchsorted(at_iou.labels[order], np.arange(matches.num_classes + 1))
        for label in range(matches.num_classes):
            rows = order[ends[label] : ends[label + 1]]
            true_images = matches.true_images[boxes & (matches.true_labels == label)]
            if len(true_images):
                total[:, label] += _class_aps(at_iou.images[rows], at_iou.is_true[rows], true_images, weights)
            else:
                total[:, label] = np.nan
    return total / len(IOUS)


def _class_aps(
    images: NDArray[np.int64],
    is_true: NDArray[np.bool_],
    true_images: NDArray[np.int64],
    weights: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return (draws,) the AP of one class at one IoU; an image that is drawn twice counts twice."""
    per_image = np.bincount(true_images, minlength=weights.shape[1])
    num_boxes = weights @ per_image
    if not is_true.any():
        return np.where(num_boxes > 0, 0.0, np.nan)
    last = int(np.flatnonzero(is_true)[-1]) + 1  # false detections behind the last true one change nothing
    images, is_true = images[:last], is_true[:last]
    step = max(1, _AT_ONCE // last)
    parts = [
        _sampled_ap(weights[first : first + step, images], is_true, num_boxes[first : first + step])
        for first in range(0, len(weights), step)
    ]
    return np.concatenate(parts)


def _sampled_ap(
    counts: NDArray[np.float32], is_true: NDArray[np.bool_], num_boxes: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return (draws,) the mean precision at the 101 recalls, from how often each detection is drawn, (draws, N)."""
    true_counts = np.cumsum(counts[:, is_true], axis=1, dtype=np.float64)  # (draws, true detections)
    all_counts = np.cumsum(counts, axis=1, dtype=np.float64)[:, is_true]
    precision = true_counts / np.maximum(all_counts, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true_counts / np.maximum(num_boxes, 1)[:, None]
    passed = np.floor(100 * recall + 1e-9) + 1  # how many of the recalls 0, 0.01, …, 1 are reached
    passed[true_counts == 0] = 0
    newly = np.diff(passed, axis=1, prepend=0)
    aps = (precision * newly).sum(axis=1) / 101
    return np.where(num_boxes > 0, aps, np.nan)


def _mean(aps: NDArray[np.float64]) -> NDArray[np.float64]:
    measured = ~np.isnan(aps)
    return np.where(measured, aps, 0).sum(axis=1) / np.maximum(1, measured.sum(axis=1))


def _difference(name: str, first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    drawn = (second - first)[1:]
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (float("nan"),) * 2
    return Difference(name=name, first=float(first[0]), second=float(second[0]), low=float(low), high=float(high))
