"""Images that a detector understands worst, and labels that look wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.error_kinds import BACKGROUND_IOU, ErrorKind, Errors
from effdet.evaluation.matching import Matches


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageScores:
    """The detections of each image that reach a threshold, at IoU 0.5."""

    threshold: float
    true_positives: NDArray[np.int64]  # (I,) by rank of the image id
    false_positives: NDArray[np.int64]  # (I,)
    missed: NDArray[np.int64]  # (I,)

    @property
    def f1(self) -> NDArray[np.float64]:
        """(I,) F1 of each image; 1 where nothing is to be found and nothing is detected."""
        wrong = self.false_positives + self.missed
        return np.where(wrong == 0, 1.0, 2 * self.true_positives / np.maximum(1, 2 * self.true_positives + wrong))

    def worst_first(self) -> NDArray[np.int64]:
        """(I,) images by F1, the lowest first; of equals the one with more errors."""
        return np.lexsort((-(self.false_positives + self.missed), self.f1))


@dataclass(frozen=True, eq=False, kw_only=True)
class Suspects:
    """Rows of detections and boxes that hint at a wrong label, the most suspicious first."""

    unlabelled: NDArray[np.int64]  # detections with a high score where nothing is labelled
    misnamed: NDArray[np.int64]  # detections with a high score on a box of another class
    unseen: NDArray[np.int64]  # boxes that no detection of any class comes near, the largest first


def score_images(matches: Matches, threshold: float) -> ImageScores:
    """Return the counts of each image at a threshold; detections in crowds do not count."""
    kept = (matches.scores >= threshold) & ~matches.is_ignored
    true = np.bincount(matches.images[kept & matches.is_true], minlength=matches.num_images)
    boxes = np.bincount(matches.true_images[~matches.is_crowd], minlength=matches.num_images)
    return ImageScores(
        threshold=threshold,
        true_positives=true,
        false_positives=np.bincount(matches.images[kept & ~matches.is_true], minlength=matches.num_images),
        missed=boxes - true,
    )


def hardest_false_positives(matches: Matches) -> NDArray[np.int64]:
    """Return rows of the detections that are false, the highest score first."""
    rows = np.flatnonzero(~matches.is_true & ~matches.is_ignored)
    return rows[np.argsort(-matches.scores[rows], kind="stable")]


def hardest_misses(matches: Matches, threshold: float) -> NDArray[np.int64]:
    """Return rows of the boxes that no detection of the threshold found, the largest first: the easiest to see."""
    found = matches.found_box[matches.is_true & (matches.scores >= threshold)]
    missed = ~matches.is_crowd
    missed[found] = False
    rows = np.flatnonzero(missed)
    return rows[np.argsort(-matches.true_boxes[rows, 2:].prod(axis=1), kind="stable")]


def suspected_labels(matches: Matches, errors: Errors, threshold: float, *, weak: float = 0.05) -> Suspects:
    """Return what may be faults of the labels and not of the detector.

    Args:
        matches: At IoU 0.5.
        errors: Of these.
        threshold: Detections of at least this score and at least 0.5 are confident.
        weak: A box is unseen if no detection of at least this score overlaps it with IoU 0.1 or more.
    """
    confident = (matches.scores >= max(threshold, 0.5)) & ~matches.is_ignored

    def of_kind(kind: ErrorKind) -> NDArray[np.int64]:
        rows = np.flatnonzero(confident & (errors.kinds == kind))
        return rows[np.argsort(-matches.scores[rows], kind="stable")]

    pairs = matches.pairs
    near = pairs[(pairs.ious >= BACKGROUND_IOU) & (matches.scores[pairs.detections] >= weak)]
    unseen = ~matches.is_crowd
    unseen[near.boxes] = False
    rows = np.flatnonzero(unseen)
    return Suspects(
        unlabelled=of_kind(ErrorKind.background),
        misnamed=of_kind(ErrorKind.classification),
        unseen=rows[np.argsort(-matches.true_boxes[rows, 2:].prod(axis=1), kind="stable")],
    )
