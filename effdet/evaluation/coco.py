"""Detections against ground truth in COCO's 12 numbers, equal to those of pycocotools bit for bit.

metrics = evaluate_coco("annotations.json", "results.json")
metrics.ap, metrics.per_class["person"]
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from effdet.data.dataset import Dataset
from effdet.data.formats.coco import parse_coco, read_coco
from effdet.evaluation.backends import Backend, ResultsSource, choose_backend, run_hotcoco, run_pycocotools
from effdet.evaluation.ground_truth import GroundTruth

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CocoMetrics:
    """COCO's 12 numbers, in [0, 1]; -1 where there is no ground truth to measure, as in pycocotools.

    AP and AR are means over IoU 0.50:0.05:0.95, over all areas and at most 100 detections an image unless the name
    says otherwise. Small objects are below 32² pixels, large ones above 96².
    """

    ap: float
    ap50: float  # at IoU 0.50
    ap75: float  # at IoU 0.75
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float  # at most 1 detection an image
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float]  # AP by class name, in the order of category ids; NaN without ground truth
    backend: str

    def numbers(self) -> tuple[float, ...]:
        """Return the 12 numbers in pycocotools' order."""
        return tuple(getattr(self, item.name) for item in fields(self)[:12])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the AP of a class without ground truth is None."""
        per_class = {name: None if math.isnan(ap) else ap for name, ap in self.per_class.items()}
        return {**asdict(self), "per_class": per_class}


def evaluate_coco(
    truth: Dataset | str | Path | dict[str, Any],
    results: ResultsSource,
    *,
    backend: Backend = "auto",
    image_ids: Collection[Any] | None = None,
) -> CocoMetrics:
    """Score detections against ground truth by the COCO protocol for boxes.

    Args:
        truth: A data set, or COCO ground truth as a JSON file or its content. A missing ``area`` is width × height, a
            missing ``iscrowd`` is 0. Crowd regions need not be found, and detections inside them are not false.
        results: COCO results, a JSON file or its rows ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``,
            or the same in columns.
        backend: "auto" is hotcoco when it is installed, else pycocotools. The numbers are the same.
        image_ids: Only these images count; None: all.

    Returns:
        The numbers. Without detections they are 0 where there is ground truth.

    Raises:
        FileNotFoundError: If the results file does not exist.
        DataError: If ``truth`` is a file or content that is not there, is not COCO or has errors, or no box to measure.
        ValueError: If the results are not JSON, a row is malformed or not finite, or an image or category is unknown.
        ImportError: If the backend that was asked for is not installed.
    """
    chosen = choose_backend(backend)
    ground_truth = GroundTruth(truth if isinstance(truth, Dataset) else read_truth(truth), image_ids)
    if chosen == "pycocotools":
        stats, precision = run_pycocotools(ground_truth, results)
    else:
        stats, precision = run_hotcoco(ground_truth, results, all_images=image_ids is None)

    names = [item.name for item in fields(CocoMetrics)[:12]]
    per_class = {
        name: _mean_where_measured(precision[:, :, label, 0, -1]) for label, name in enumerate(ground_truth.class_names)
    }
    return CocoMetrics(**dict(zip(names, stats, strict=True)), per_class=per_class, backend=chosen)


def read_truth(annotations: str | Path | dict[str, Any]) -> Dataset:
    """Return the ground truth of a COCO file or its content, without its images; warnings about it are logged.

    Raises:
        DataError: If it is not there, is not COCO, or has errors.
    """
    if isinstance(annotations, str | Path):
        dataset = read_coco(annotations, [])
    else:
        dataset = parse_coco(annotations, Path("annotations"))
    for finding in dataset.require_usable().findings:
        if finding.severity == "warning" and "width and height" not in finding.text:  # scoring needs no sizes
            logger.warning("%s: %s", dataset.annotation_file, finding)
    return dataset


def _mean_where_measured(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan
