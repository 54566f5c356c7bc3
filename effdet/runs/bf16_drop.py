"""Measure the AP that bf16 costs in OpenVINO on labelled photos, before a model is exported."""

from __future__ import annotations

import logging
from pathlib import Path

from effdet.data.dataset import Dataset
from effdet.deployment.detector import DeployedDetector
from effdet.deployment.export import ExportOptions, describe, onnx_bytes
from effdet.deployment.runtimes import OpenVino
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.data import dataset_of, leave_out_unreadable
from effdet.runs.evaluate import check_measurable, evaluate_dataset

logger = logging.getLogger(__name__)


def measure_bf16_drop(model: EfficientDet, data: Dataset | str | Path, options: ExportOptions | None = None) -> float:
    """Return the AP (0…1) that OpenVINO loses on a val split when it computes in bf16; below 0 where AP rises.

    ``ExportOptions(bf16_drop=...)`` writes it into a file, for ``effdet.load(file, precision="auto")``.

    Args:
        model: The detector.
        data: A data set, as ``effdet.evaluate`` takes it.
        options: Those of the export.

    Raises:
        ImportError: If OpenVINO or the exporter is not installed.
        ValueError: If the data has no val split, or no boxes of the model's classes.
    """
    options = options or ExportOptions()
    dataset, _ = leave_out_unreadable(dataset_of(data, "val"))
    check_measurable(model, dataset)
    description = describe(model, options)
    graph = onnx_bytes(model, description)

    def average_precision(*, bf16: bool) -> float:
        detector = DeployedDetector(description, OpenVino(graph, bf16=bf16))
        return evaluate_dataset(detector, dataset, batch_size=options.batch or 1, workers=0).ap

    exact, rounded = average_precision(bf16=False), average_precision(bf16=True)
    logger.info("AP on %d images: %.4f in fp32, %.4f in bf16", len(dataset), exact, rounded)
    return exact - rounded
