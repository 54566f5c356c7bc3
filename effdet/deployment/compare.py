"""Compare an export with the PyTorch model that it came from, on photos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from effdet.deployment.detector import DeployedDetector
from effdet.detector.batches import make_batch
from effdet.detector.efficientdet import EfficientDet
from effdet.detector.prediction import Detector
from effdet.ops.boxes import iou_matrix
from effdet.structures import Detections

AT_LEAST = 10  # best detections of each image that are compared in fp32, however low their scores are


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far an export may be from PyTorch.

    Two overlapping boxes may have nearly the same score. Rounding then decides which of them NMS keeps, so the boxes of
    PyTorch and of the export differ by the IoU of the two.
    """

    min_score: float  # detections below it are not compared
    score: float  # largest difference of the scores of one detection
    iou: float  # smallest overlap of its boxes
    at_least: int = 1  # best detections of an image that are compared, however low their scores are


TOLERANCES = {
    "fp32": Tolerance(min_score=0.1, score=1e-3, iou=0.99, at_least=AT_LEAST),
    "fp16": Tolerance(min_score=0.3, score=0.02, iou=0.75),
    "bf16": Tolerance(min_score=0.3, score=0.1, iou=0.6),
    "int8": Tolerance(min_score=0.3, score=0.35, iou=0.4),
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One detection of PyTorch, and the nearest that the export has."""

    source: str
    class_name: str
    box: tuple[float, float, float, float]
    score: float
    other_score: float  # 0 if the export does not have it
    iou: float

    @property
    def score_difference(self) -> float:
        """How far the two scores are apart."""
        return abs(self.score - self.other_score)

    def __str__(self) -> str:
        box = ", ".join(f"{value:.1f}" for value in self.box)
        return (
            f"{self.class_name} at ({box}) in {self.source}: score {self.score:.4f} in PyTorch, "
            f"{self.other_score:.4f} in the export, IoU {self.iou:.4f}"
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How an export agrees with PyTorch."""

    images: int
    detections: int  # of PyTorch, those that were compared
    max_score_difference: float
    min_iou: float
    worst: Difference | None  # None where nothing was detected

    def check(self, tolerance: Tolerance, file: str) -> None:
        """Raise ValueError if the worst detection is beyond a tolerance."""
        if self.max_score_difference > tolerance.score or self.min_iou < tolerance.iou:
            raise ValueError(
                f"{file} must agree with PyTorch within {tolerance.score:g} in score and {tolerance.iou:g} in IoU; "
                f"worst is {self.worst}"
            )

    def __str__(self) -> str:
        if self.worst is None:
            return f"nothing is detected on {self.images} images, in PyTorch as in the export"
        return (
            f"{self.detections} detections on {self.images} images: largest score difference "
            f"{self.max_score_difference:.2g}, smallest IoU {self.min_iou:.4f}"
        )


def compare(
    ours: Detector,
    export: Detector,
    images: Iterable[tuple[str, np.ndarray]],
    *,
    min_score: float = 0.1,
    at_least: int = AT_LEAST,
) -> Comparison:
    """Return how an export agrees with PyTorch: each detection with the nearest of its class, in both directions.

    Args:
        ours: The PyTorch model, with the settings of the export.
        export: The exported one.
        images: (name, (H, W, 3) uint8 RGB).
        min_score: Detections below it are not compared.
        at_least: But this many of each image are, however low their scores are.
    """
    num_images = num_detections = 0
    differences: list[Difference] = []
    for name, image in images:
        batch = make_batch([(name, image)], ours.letterbox)
        found, other = ours.detect(batch)[0], export.detect(batch)[0]
        forth, back = (_differences(*pair, name, min_score, at_least) for pair in ((found, other), (other, found)))
        differences += forth + [replace(one, score=one.other_score, other_score=one.score) for one in back]
        num_images, num_detections = num_images + 1, num_detections + len(forth)
    return Comparison(
        images=num_images,
        detections=num_detections,
        max_score_difference=max((one.score_difference for one in differences), default=0.0),
        min_iou=min((one.iou for one in differences), default=1.0),
        worst=max(differences, key=lambda one: one.score_difference + 1 - one.iou, default=None),
    )


@torch.inference_mode()
def raw_difference(model: EfficientDet, export: DeployedDetector, images: Iterable[tuple[str, np.ndarray]]) -> float:
    """Return how far class logits and box deltas of an export are from those of PyTorch.

    Args:
        model: The PyTorch model, with the input size of the export.
        export: A file without NMS.
        images: (name, (H, W, 3) uint8 RGB), one or more.

    Returns:
        The largest absolute difference on any image, divided by the standard deviation of PyTorch's output there.
    """
    found = []
    for image in images:
        batch = make_batch([image] * (export.description.batch or 1), model.letterbox)
        expected = model.network(model.network_input(batch)).float()
        outputs = export.runtime.run(np.ascontiguousarray(export.network_input(batch)))
        for ours, theirs in zip((expected.class_logits, expected.box_deltas), outputs, strict=True):
            difference = (ours.cpu() - torch.from_numpy(theirs).float()).abs().max()
            found.append(float(difference / ours.std()))
    return max(found)


def _differences(
    found: Detections, other: Detections, source: str, min_score: float, at_least: int
) -> list[Difference]:
    """Return, for each detection that scores enough, how far the nearest of the other detections is.

    Where few do, the best ``at_least`` are compared all the same.
    """
    found = found.above(min([min_score, *found.scores[:at_least][-1:].tolist()]))
    ious = iou_matrix(found.boxes, other.boxes)  # (D, D')
    gaps = (found.scores[:, None] - other.scores).abs() + 1 - ious
    gaps[found.labels[:, None] != other.labels] = 2.0  # as far as none
    result = []
    for row, detection in enumerate(found):
        nearest = int(gaps[row].argmin()) if len(other) else -1
        is_there = nearest >= 0 and float(gaps[row, nearest]) < 2 and float(ious[row, nearest]) > 0
        result.append(
            Difference(
                source=source,
                class_name=detection.class_name,
                box=detection.box,
                score=detection.score,
                other_score=float(other.scores[nearest]) if is_there else 0.0,
                iou=float(ious[row, nearest]) if is_there else 0.0,
            )
        )
    return result
