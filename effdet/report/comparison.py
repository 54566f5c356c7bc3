"""The numbers of several detectors side by side, and which differences mean something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effdet.evaluation.analysis import Analysis
from effdet.evaluation.coco import CocoMetrics
from effdet.evaluation.differences import compare
from effdet.report.numbers import coco_numbers


@dataclass(frozen=True, eq=False, kw_only=True)
class Candidate:
    """One of the detectors that are compared."""

    name: str
    metrics: CocoMetrics
    analysis: Analysis
    history: Sequence[Mapping[str, float | None]] = ()  # rows of metrics.csv


def comparison_numbers(candidates: Sequence[Candidate], *, seed: int = 0) -> dict[str, Any]:
    """Return the numbers of all, and for each but the first its differences from the first.

    Args:
        candidates: Two or more that detect on the same images.
        seed: Of the bootstrap over images.

    Raises:
        ValueError: If there is only one, or they were not scored on the same boxes.
    """
    if len(candidates) < 2:
        raise ValueError(f"there must be two or more detectors to compare, got {len(candidates)}")
    first = candidates[0]
    comparisons = [
        compare(first.analysis.matches, other.analysis.matches, first.analysis.class_names, seed=seed)
        for other in candidates[1:]
    ]
    return {
        "title": f"Comparison of {', '.join(candidate.name for candidate in candidates)}",
        "images": first.analysis.matches.num_images,
        "draws": comparisons[0].num_draws,
        "candidates": [_numbers(candidate) for candidate in candidates],
        "differences": [
            {
                "first": first.name,
                "second": other.name,
                "rows": [
                    {**vars(row), "difference": row.difference, "is_significant": row.is_significant}
                    for row in comparison.differences
                ],
            }
            for other, comparison in zip(candidates[1:], comparisons, strict=True)
        ],
    }


def _numbers(candidate: Candidate) -> dict[str, Any]:
    analysis = candidate.analysis
    return {
        "name": candidate.name,
        "coco": coco_numbers(candidate.metrics),
        "recommended_threshold": analysis.thresholds.best.to_dict(),
        "errors": analysis.errors.to_dict(),
        "expected_calibration_error": analysis.calibration.expected_error,
        "history": [dict(row) for row in candidate.history],
    }
