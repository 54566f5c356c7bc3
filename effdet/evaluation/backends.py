"""The two evaluators that compute COCO's numbers: pycocotools, which is the reference, and hotcoco, which is faster.

Both get the same ground truth and results with contiguous ids. What one of them cannot take (no detections, no
``area``) is completed before, so it breaks neither.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from effdet.evaluation.ground_truth import GroundTruth
from effdet.evaluation.result_columns import Results
from effdet.evaluation.results_file import is_plain_file, read_results
from effdet.install import hint

Backend: TypeAlias = Literal["auto", "pycocotools", "hotcoco"]
ResultsSource: TypeAlias = str | Path | Sequence[dict[str, Any]] | Results

Numbers: TypeAlias = tuple[list[float], np.ndarray]
"""The 12 numbers, and the precision array (10 IoUs, 101 recalls, K, 4 areas, 3 limits)."""


def choose_backend(backend: str) -> str:
    """Return "pycocotools" or "hotcoco"; "auto" is hotcoco when it is installed.

    Raises:
        ValueError: If there is no such backend.
        ImportError: If it is not installed.
    """
    if backend not in ("auto", "pycocotools", "hotcoco"):
        raise ValueError(f"backend must be auto, pycocotools or hotcoco, got '{backend}'")
    installed = importlib.util.find_spec("hotcoco") is not None
    if backend == "hotcoco" and not installed:
        raise ImportError(f"backend hotcoco must be installed: {hint('fast-eval')}, or use pycocotools")
    return ("hotcoco" if installed else "pycocotools") if backend == "auto" else backend


def run_pycocotools(truth: GroundTruth, results: ResultsSource) -> Numbers:
    """Return what pycocotools computes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content, rows = truth.coco, truth.result_rows(*read_results(results))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
        pair = COCO(), COCO()
        for coco, annotations in zip(pair, (content["annotations"], rows), strict=True):
            coco.dataset = {**content, "annotations": annotations}  # loadRes fails on an empty list
            coco.createIndex()
        return _numbers(COCOeval(*pair, "bbox"))


def run_hotcoco(truth: GroundTruth, results: ResultsSource, *, all_images: bool) -> Numbers:
    """Return the same, sooner."""
    import hotcoco

    with contextlib.redirect_stdout(io.StringIO()):
        pair = _read_by_hotcoco(truth, Path(results)) if all_images and isinstance(results, str | Path) else None
        if pair is None:
            columns = truth.columns(*read_results(results))
            table = np.column_stack([columns.image_ids, columns.boxes, columns.scores, columns.category_ids])
            ground_truth = _hotcoco_truth(truth)
            pair = ground_truth, ground_truth.load_res(table if len(table) else [])
        return _numbers(hotcoco.COCOeval(*pair, "bbox"))


def _numbers(evaluation: Any) -> Numbers:
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats], np.asarray(evaluation.eval["precision"])


def _read_by_hotcoco(truth: GroundTruth, results: Path) -> tuple[Any, Any] | None:
    """Let hotcoco read a results file, four times as fast as Python can.

    Returns:
        Ground truth and detections; None for a file that is not plain, or that hotcoco refuses or warns of: our own
        reader then says what is wrong with it.
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
    """Return the ground truth for hotcoco, with ranks as ids or the data set's own."""
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
