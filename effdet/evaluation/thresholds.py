"""Precision, recall and F1 at every score threshold, and the threshold to use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.matching import Matches

GRID = tuple(number / 100 for number in range(101))  # thresholds of the curves


@dataclass(frozen=True, kw_only=True)
class AtThreshold:
    """What detections of at least a score are worth, at IoU 0.5."""

    threshold: float
    true_positives: int
    false_positives: int
    missed: int  # boxes that no such detection found

    @property
    def precision(self) -> float:
        """Part of the detections that are true; 1 without detections."""
        found = self.true_positives + self.false_positives
        return self.true_positives / found if found else 1.0

    @property
    def recall(self) -> float:
        """Part of the boxes that are found; 1 without boxes."""
        boxes = self.true_positives + self.missed
        return self.true_positives / boxes if boxes else 1.0

    @property
    def f1(self) -> float:
        """2 · precision · recall / (precision + recall); 0 where nothing is found."""
        return _f1(self.true_positives, self.false_positives, self.missed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**vars(self), "precision": self.precision, "recall": self.recall, "f1": self.f1}


@dataclass(frozen=True, eq=False, kw_only=True)
class ThresholdCurves:
    """Counts of each class at the thresholds of ``GRID``, and the best threshold of each."""

    thresholds: NDArray[np.float64]  # (T,) ascending
    true_positives: NDArray[np.int64]  # (K, T)
    false_positives: NDArray[np.int64]  # (K, T)
    num_boxes: NDArray[np.int64]  # (K,)
    best: AtThreshold  # of all classes together: the highest F1
    best_by_class: tuple[AtThreshold | None, ...]  # K; None for a class without boxes


def threshold_curves(matches: Matches) -> ThresholdCurves:
    """Return what happens at each threshold; detections in crowds do not count.

    The counts of all classes together are the sums of those of the classes.
    """
    counted = ~matches.is_ignored
    labels, scores, is_true = matches.labels[counted], matches.scores[counted], matches.is_true[counted]
    thresholds, classes = np.array(GRID), range(matches.num_classes)
    true = np.stack([_counts_at(scores[is_true & (labels == label)], thresholds) for label in classes])
    false = np.stack([_counts_at(scores[~is_true & (labels == label)], thresholds) for label in classes])
    num_boxes = matches.num_true_boxes
    return ThresholdCurves(
        thresholds=thresholds,
        true_positives=true,
        false_positives=false,
        num_boxes=num_boxes,
        best=best_threshold(scores, is_true, int(num_boxes.sum())),
        best_by_class=tuple(
            best_threshold(scores[labels == label], is_true[labels == label], int(num_boxes[label]))
            if num_boxes[label]
            else None
            for label in classes
        ),
    )


def best_threshold(scores: NDArray[np.float64], is_true: NDArray[np.bool_], num_boxes: int) -> AtThreshold:
    """Return the threshold with the highest F1; of equals the highest threshold.

    It lies between two scores that occur, and is rounded to as few digits as keep it there.

    Args:
        scores: (N,) of detections in any order.
        is_true: (N,) whether each found a box.
        num_boxes: Boxes that could be found.
    """
    if not is_true.any():
        return AtThreshold(threshold=1.0, true_positives=0, false_positives=0, missed=num_boxes)
    order = np.argsort(-scores, kind="stable")
    scores, true = scores[order], np.cumsum(is_true[order])
    taken = np.arange(1, len(scores) + 1)
    f1 = 2 * true / (taken + num_boxes)
    is_last = np.append(scores[1:] < scores[:-1], True)  # of equal scores, all or none are taken
    place = int(np.argmax(np.where(is_last, f1, -1)))
    below = float(scores[place + 1]) if place + 1 < len(scores) else 0.0
    found = int(true[place])
    return AtThreshold(
        threshold=_short_number_between(below, float(scores[place])),
        true_positives=found,
        false_positives=place + 1 - found,
        missed=num_boxes - found,
    )


def at_threshold(matches: Matches, threshold: float) -> AtThreshold:
    """Return the counts of all classes at one threshold."""
    kept = ~matches.is_ignored & (matches.scores >= threshold)
    true = int(matches.is_true[kept].sum())
    boxes = int(matches.num_true_boxes.sum())
    return AtThreshold(
        threshold=threshold,
        true_positives=true,
        false_positives=int(kept.sum()) - true,
        missed=boxes - true,
    )


def _counts_at(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def _short_number_between(below: float, at_most: float) -> float:
    """Return a number in (below, at_most] with as few digits as possible."""
    for digits in range(1, 8):
        number = float(np.floor(at_most * 10**digits) / 10**digits)
        if below < number <= at_most:
            return number
    return at_most


def _f1(true: int, false: int, missed: int) -> float:
    return 2 * true / (2 * true + false + missed) if true else 0.0
