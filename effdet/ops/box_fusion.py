"""Weighted boxes fusion: one box from those that several passes over an image gave for an object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.ops.nms import hard_nms

Array: TypeAlias = NDArray[Any]
Found: TypeAlias = tuple[Array, Array, Array]  # boxes (D, 4) xyxy, labels (D,), scores (D,)

IOU_THRESHOLD = 0.55  # of the paper


def fuse_boxes(passes: Sequence[Found], *, iou_threshold: float = IOU_THRESHOLD) -> Found:
    """Return the weighted boxes fusion of N passes (Solovyev et al. 2021, §3).

    Boxes of all passes are taken by falling score C. Each joins the cluster of its class whose fused box has the
    largest IoU with it, if that is above the threshold; else it starts a cluster. After each step the fused box of a
    cluster with T boxes is

        X = Σ Cᵢ Xᵢ / Σ Cᵢ  for each coordinate,    C = Σ Cᵢ / T,

    and at the end C becomes C · min(T, N) / N, so that an object which few passes have found scores less.

    Args:
        passes: Boxes (D, 4) finite xyxy pixels, labels (D,), scores (D,) of each pass.
        iou_threshold: A box joins a cluster if their IoU is above this.

    Returns:
        Boxes (D, 4) float32, labels (D,) int64, scores (D,) float32; best score first.
    """
    boxes, labels, scores = (np.concatenate([one[column] for one in passes]) for column in range(3))
    order = np.argsort(-scores, kind="stable")
    weights = scores[order].astype(np.float64)
    fused, classes, fused_scores = _fuse(
        boxes[order].astype(np.float64), labels[order], weights, len(passes), iou_threshold
    )
    best_first = np.argsort(-fused_scores, kind="stable")
    return (
        fused[best_first].astype(np.float32),
        classes[best_first],
        fused_scores[best_first].astype(np.float32),
    )


def without_duplicates(found: Found, *, iou_threshold: float = IOU_THRESHOLD) -> Found:
    """Return the detections of one pass with each object once, by hard NMS in each class.

    Soft-NMS leaves duplicates with lower scores. In a cluster they would lower the mean score of their object.
    """
    boxes, labels, scores = found
    kept = hard_nms(boxes, scores, labels, iou_threshold=iou_threshold, max_detections=max(1, len(boxes)))
    return boxes[kept], labels[kept], scores[kept]


def _fuse(
    boxes: Array, labels: Array, scores: Array, num_passes: int, iou_threshold: float
) -> tuple[Array, Array, Array]:
    """Return fused boxes, labels and scores of boxes (D, 4) that come best first."""
    fused = np.empty_like(boxes)
    classes = np.empty_like(labels)
    corner_sums, score_sums, counts = np.zeros_like(boxes), np.zeros_like(scores), np.zeros(len(boxes), np.int64)
    num_clusters = 0
    for box, label, score in zip(boxes, labels, scores, strict=True):
        overlaps = np.where(classes[:num_clusters] == label, _ious(fused[:num_clusters], box), -1.0)
        cluster = int(overlaps.argmax()) if num_clusters else 0
        if num_clusters == 0 or overlaps[cluster] <= iou_threshold:
            cluster, num_clusters = num_clusters, num_clusters + 1
            classes[cluster] = label
        corner_sums[cluster] += score * box
        score_sums[cluster] += score
        counts[cluster] += 1
        fused[cluster] = corner_sums[cluster] / score_sums[cluster] if score_sums[cluster] > 0 else box
    counts = counts[:num_clusters]
    means = score_sums[:num_clusters] / counts
    return fused[:num_clusters], classes[:num_clusters], means * np.minimum(counts, num_passes) / num_passes


def _ious(boxes: Array, box: Array) -> Array:
    """Return the IoU (D,) of boxes (D, 4) with one box (4,)."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    common = sides.clip(min=0).prod(axis=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - common
    ious: Array = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return ious
