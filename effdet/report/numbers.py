"""The numbers of a report, as plain values: what ``report.json`` holds, and what the page shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from effdet.evaluation.analysis import Analysis
from effdet.evaluation.coco import CocoMetrics


@dataclass(frozen=True, kw_only=True)
class About:
    """What made the detections; everything may be empty."""

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)  # by what they are called
    history: Sequence[Mapping[str, float | None]] = ()  # rows of metrics.csv
    config: str = ""  # YAML
    findings: Sequence[str] = ()  # of the doctor
    anchors: Sequence[tuple[float, float, int, float | None]] = ()  # low, high, boxes, part of them that is reached


def report_numbers(metrics: CocoMetrics, analysis: Analysis, about: About) -> dict[str, Any]:
    """Return all numbers of a report; every one is finite or None."""
    found = analysis.to_dict()
    per_class = [
        {**row, "ap": ap if ap is not None and math.isfinite(ap) else None}
        for row, ap in zip(found.pop("per_class"), metrics.per_class.values(), strict=True)
    ]
    curves = analysis.thresholds
    return {
        "title": about.title,
        "images": analysis.matches.num_images,
        "boxes": int(curves.num_boxes.sum()),
        "coco": coco_numbers(metrics),
        "per_class": per_class,
        **found,
        "curves": {
            "thresholds": curves.thresholds.tolist(),
            "true_positives": curves.true_positives.tolist(),
            "false_positives": curves.false_positives.tolist(),
            "boxes": curves.num_boxes.tolist(),
        },
        "anchors": [
            {"low": low, "high": high if math.isfinite(high) else None, "boxes": boxes, "recall": recall}
            for low, high, boxes, recall in about.anchors
        ],
        "history": [dict(row) for row in about.history],
        "about": {"facts": dict(about.facts), "findings": list(about.findings), "config": about.config},
    }


def coco_numbers(metrics: CocoMetrics) -> dict[str, Any]:
    """Return COCO's 12 numbers by name, None where there is no ground truth to measure, and what computed them."""
    return {name: None if value == -1 else value for name, value in metrics.to_dict().items() if name != "per_class"}
