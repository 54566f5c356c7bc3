"""Whether scores are probabilities: of the detections with a score of 0.8, are 80 % true?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from effdet.evaluation.matching import Matches

SMALLEST_SCORE = 0.05  # detections below it are as good as never shown, and far more than all others
NUM_BINS = 10


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The detections whose scores lie between two bounds."""

    low: float
    high: float
    count: int
    mean_score: float  # 0 where there are none
    precision: float  # part of them that are true at IoU 0.5; 0 where there are none


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The reliability diagram, and the expected calibration error (Guo et al. 2017, equation 3).

    ECE = Σ_b (n_b / n) · |precision_b − mean score_b| over bins b of equal width.
    """

    expected_error: float  # in [0, 1]; 0 without detections
    bins: tuple[ReliabilityBin, ...]
    smallest_score: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**vars(self), "bins": [dict(vars(item)) for item in self.bins]}


def calibration(matches: Matches, *, num_bins: int = NUM_BINS, smallest_score: float = SMALLEST_SCORE) -> Calibration:
    """Compare scores with the part of the detections that are true; those in crowds do not count.

    Args:
        matches: Detections and boxes.
        num_bins: Of equal width, from 0 to 1.
        smallest_score: Detections below it do not count.
    """
    kept = ~matches.is_ignored & (matches.scores >= smallest_score)
    scores, is_true = matches.scores[kept], matches.is_true[kept]
    places = np.clip((scores * num_bins).astype(np.int64), 0, num_bins - 1)
    counts = np.bincount(places, minlength=num_bins)
    some = np.maximum(counts, 1)
    means = np.bincount(places, scores, minlength=num_bins) / some
    precisions = np.bincount(places, is_true, minlength=num_bins) / some
    bins = tuple(
        ReliabilityBin(
            low=number / num_bins,
            high=(number + 1) / num_bins,
            count=int(counts[number]),
            mean_score=float(means[number]),
            precision=float(precisions[number]),
        )
        for number in range(num_bins)
    )
    error = float((counts * np.abs(precisions - means)).sum() / max(1, len(scores)))
    return Calibration(expected_error=error, bins=bins, smallest_score=smallest_score)
