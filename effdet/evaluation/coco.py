"""Detections against ground truth in COCO's 12 numbers, equal to pycocotools' to the last digit.

    metrics = evaluate_coco("annotations.json", "results.json")
    metrics.ap, metrics.per_class["person"]

pycocotools is the reference; hotcoco does the same sums many times faster and is used when it is installed.
Both get the same cleaned input, so that what breaks one of them (no detections, no ``area``) breaks neither.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from effdet.evaluation.results import Results, is_plain_file, join_results
from effdet.evaluation.rows import GroundTruth
from effdet.install import hint

if TYPE_CHECKING:  # scoring a results file needs no torch
    from effdet.structures import Detections

Backend = Literal["auto", "pycocotools", "hotcoco"]


@dataclass(frozen=True, kw_only=True)
class CocoMetrics:
    """COCO's 12 numbers, in [0, 1]; -1 where there is no ground truth to measure (as pycocotools says it).

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
    annotations: str | Path | dict[str, Any],
    results: str | Path | Sequence[dict[str, Any]] | Results,
    *,
    backend: Backend = "auto",
    image_ids: Collection[Any] | None = None,
) -> CocoMetrics:
    """Score detections against ground truth by the COCO protocol for boxes.

    Args:
        annotations: COCO ground truth, a JSON file or its content, which stays as it is. A missing ``area`` is
            width x height, a missing ``iscrowd`` is 0. Crowd regions are never missed and swallow what they cover.
        results: COCO results, a JSON file or its rows ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``,
            or the same in columns.
        backend: "auto" is hotcoco when it is installed, else pycocotools. The numbers are the same.
        image_ids: Only these images count; None: all.

    Returns:
        The numbers. Without detections they are 0 where there is ground truth.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is not JSON, a row is malformed or not finite, or an image or category is unknown.
        ImportError: If the backend that was asked for is not installed.
    """
    chosen = _choose(backend)
    truth = GroundTruth(annotations, image_ids)
    if chosen == "pycocotools":
        stats, precision = _run_pycocotools(truth.dataset, truth.clean_results(results))
    else:
        stats, precision = _run_hotcoco(truth, results, all_images=image_ids is None)

    names = [item.name for item in fields(CocoMetrics)[:12]]
    per_class = {
        name: _mean_where_measured(precision[:, :, label, 0, -1]) for label, name in enumerate(truth.class_names)
    }
    return CocoMetrics(**dict(zip(names, stats, strict=True)), per_class=per_class, backend=chosen)


def to_results(detections: Sequence[Detections], image_ids: Sequence[int]) -> Results:
    """Return the detections of several images in columns.

    Args:
        detections: One per image, xyxy pixels of the original image.
        image_ids: The data set's own id of each image.

    Raises:
        ValueError: If there is not one id per image.
    """
    if len(detections) != len(image_ids):
        raise ValueError(f"there must be one image id per image: got {len(image_ids)} ids, {len(detections)} images")
    return join_results(
        [_image_results(found, image_id) for found, image_id in zip(detections, image_ids, strict=True)]
    )


def to_coco_results(detections: Sequence[Detections], image_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the detections of several images as rows of one COCO results file; arguments as for ``to_results``."""
    return to_results(detections, image_ids).to_rows()


def _image_results(found: Detections, image_id: int) -> Results:
    boxes = found.boxes.double().cpu().numpy()  # (D, 4) xyxy
    return Results(
        image_ids=np.full(len(boxes), int(image_id), dtype=np.int64),
        category_ids=np.array([found.category_id(label) for label in found.labels.tolist()], dtype=np.int64),
        boxes=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),  # (D, 4) x, y, w, h
        scores=found.scores.double().cpu().numpy(),
    )


def _choose(backend: str) -> str:
    if backend not in ("auto", "pycocotools", "hotcoco"):
        raise ValueError(f"backend must be auto, pycocotools or hotcoco, got '{backend}'")
    installed = importlib.util.find_spec("hotcoco") is not None
    if backend == "hotcoco" and not installed:
        raise ImportError(f"backend hotcoco must be installed: {hint('fast-eval')}, or use pycocotools")
    return ("hotcoco" if installed else "pycocotools") if backend == "auto" else backend


def _run_pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]]) -> tuple[list[float], np.ndarray]:
    """Return the 12 numbers and the precision array (10 IoUs, 101 recalls, K, 4 areas, 3 limits)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
        pair = COCO(), COCO()
        for coco, rows in zip(pair, (truth["annotations"], detections), strict=True):
            coco.dataset = {**truth, "annotations": rows}  # loadRes would stumble over an empty list
            coco.createIndex()
        evaluation = COCOeval(*pair, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    accumulated: dict[str, Any] = evaluation.eval
    return [float(value) for value in evaluation.stats], accumulated["precision"]


def _run_hotcoco(
    truth: GroundTruth, results: str | Path | Sequence[dict[str, Any]] | Results, *, all_images: bool
) -> tuple[list[float], np.ndarray]:
    """Return the same as ``_run_pycocotools``, sooner."""
    import hotcoco

    with contextlib.redirect_stdout(io.StringIO()):
        pair = _read_by_hotcoco(truth, Path(results)) if all_images and isinstance(results, str | Path) else None
        if pair is None:
            columns = truth.columns(results)
            table = np.column_stack([columns.image_ids, columns.boxes, columns.scores, columns.category_ids])
            found = _hotcoco_truth(truth)
            pair = found, found.load_res(table if len(table) else [])
        evaluation: Any = hotcoco.COCOeval(pair[0], pair[1], "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    accumulated: dict[str, Any] = evaluation.eval or {}
    return [float(value) for value in evaluation.stats], np.asarray(accumulated["precision"])


def _read_by_hotcoco(truth: GroundTruth, results: Path) -> tuple[Any, Any] | None:
    """Let hotcoco read a results file, four times as fast as Python can; None if it needs our own look.

    Of files that are not plain, or that it refuses or warns of, our own reader tells what is wrong.
    """
    own_ids = truth.own_ids()
    if own_ids is None or not results.is_file() or not is_plain_file(results):
        return None
    ground_truth = _hotcoco_truth(truth, own_ids)
    try:
        detections = ground_truth.load_res(str(results))
    except ValueError:
        return None
    return None if detections.load_warnings else (ground_truth, detections)


def _hotcoco_truth(truth: GroundTruth, own_ids: tuple[np.ndarray, np.ndarray] | None = None) -> Any:
    """Return the ground truth for hotcoco, with ranks as ids or those of the file."""
    import hotcoco

    columns, images, categories = truth.annotations, truth.images, truth.categories
    image_ids, category_ids = columns.image_ids, columns.category_ids
    if own_ids is not None:
        images = [{"id": value} for value in own_ids[0].tolist()]
        categories = [{"id": value, "name": str(value)} for value in own_ids[1].tolist()]
        image_ids, category_ids = own_ids[0][image_ids], own_ids[1][category_ids]
    return hotcoco.COCO.from_arrays(
        images,
        categories,
        image_ids,
        category_ids,
        columns.boxes,
        ids=columns.ids,
        area=columns.areas,
        iscrowd=columns.is_crowd,
    )


def _mean_where_measured(precision: np.ndarray) -> float:
    measured = precision[precision > -1]
    return float(measured.mean()) if measured.size else math.nan
