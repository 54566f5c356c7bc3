"""Everything that can be said about detections beyond COCO's numbers, in one value.

analysis = analyse(dataset, results)
analysis.thresholds.best.threshold, analysis.errors.costs["location"]
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset
from effdet.evaluation.average_precision import measured_aps
from effdet.evaluation.backends import ResultsSource
from effdet.evaluation.by_shape import Group, by_aspect_ratio, by_size
from effdet.evaluation.calibration import Calibration, calibration
from effdet.evaluation.confusion import confusion_matrix
from effdet.evaluation.error_kinds import NAMES, ErrorCosts, ErrorKind, Errors, cost_of_errors, find_errors
from effdet.evaluation.ground_truth import GroundTruth
from effdet.evaluation.matching import Matches, match
from effdet.evaluation.thresholds import ThresholdCurves, threshold_curves
from effdet.evaluation.worst_images import ImageScores, Suspects, score_images, suspected_labels


@dataclass(frozen=True, eq=False, kw_only=True)
class Analysis:
    """What a detector gets right and wrong on a data set; detections are matched at IoU 0.5."""

    class_names: tuple[str, ...]
    indices: NDArray[np.int64]  # (I,) number in the data set of each image of ``matches``
    matches: Matches
    ap50_by_class: NDArray[np.float64]  # (K,) NaN without boxes
    thresholds: ThresholdCurves
    error_of: Errors
    errors: ErrorCosts
    confusion: NDArray[np.int64]  # (K + 1, K + 1) at the best threshold
    calibration: Calibration
    by_size: tuple[Group, ...]
    by_aspect_ratio: tuple[Group, ...]
    image_scores: ImageScores  # at the best threshold
    suspects: Suspects

    def error_counts(self) -> dict[str, int]:
        """Return how often each kind of error happens among the detections of the best threshold; crowds apart."""
        kept = (self.matches.scores >= self.image_scores.threshold) & ~self.matches.is_ignored
        counts = np.bincount(self.error_of.kinds[kept], minlength=len(ErrorKind))
        missed = int(self.image_scores.missed.sum())
        return {name: missed if kind is ErrorKind.missed else int(counts[kind]) for kind, name in NAMES.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain values for JSON."""
        best = self.thresholds.best_by_class
        return {
            "recommended_threshold": self.thresholds.best.to_dict(),
            "per_class": [
                {
                    "name": name,
                    "boxes": int(self.thresholds.num_boxes[label]),
                    "ap50": _number(self.ap50_by_class[label]),
                    "best_threshold": None if (at := best[label]) is None else at.to_dict(),
                }
                for label, name in enumerate(self.class_names)
            ],
            "errors": self.errors.to_dict(),
            "error_counts": self.error_counts(),
            "confusion": {"classes": [*self.class_names, "background"], "matrix": self.confusion.tolist()},
            "calibration": self.calibration.to_dict(),
            "by_size": [_group(group) for group in self.by_size],
            "by_aspect_ratio": [_group(group) for group in self.by_aspect_ratio],
        }


def analyse(dataset: Dataset, results: ResultsSource, *, image_ids: Collection[Any] | None = None) -> Analysis:
    """Return errors, curves, thresholds and calibration of detections.

    The confusion matrix and the numbers of each image count detections above the threshold with the best F1.

    Args:
        dataset: The images and boxes.
        results: A results file, its rows, or columns.
        image_ids: Only these images count; None: all.

    Raises:
        FileNotFoundError, ValueError: As ``evaluate_coco``.
    """
    truth = GroundTruth(dataset, image_ids)
    matches = match(truth, results)
    thresholds, error_of = threshold_curves(matches), find_errors(matches)
    threshold = thresholds.best.threshold
    return Analysis(
        class_names=tuple(truth.class_names),
        indices=truth.indices,
        matches=matches,
        ap50_by_class=measured_aps(matches),
        thresholds=thresholds,
        error_of=error_of,
        errors=cost_of_errors(matches, error_of),
        confusion=confusion_matrix(matches, threshold),
        calibration=calibration(matches),
        by_size=by_size(matches),
        by_aspect_ratio=by_aspect_ratio(matches),
        image_scores=score_images(matches, threshold),
        suspects=suspected_labels(matches, error_of, threshold),
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _group(group: Group) -> dict[str, Any]:
    return {**vars(group), "high": _number(group.high)}
