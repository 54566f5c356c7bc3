"""Post-processing on the CPU, in NumPy: from the raw outputs of a network to boxes in pixels of the original images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.ops.nms import hard_nms, select_candidates, soft_nms
from effdet.ops.settings import MAX_COORDINATE, PostprocessSettings

Array: TypeAlias = NDArray[Any]
Found: TypeAlias = tuple[Array, Array, Array]  # boxes (D, 4) float32 xyxy, labels (D,) int64, scores (D,) float32


def postprocess_arrays(
    class_logits: Array,
    box_deltas: Array,
    anchors: Array,
    *,
    scales: Array,
    original_sizes: Sequence[tuple[int, int]],
    settings: PostprocessSettings,
    image_size: tuple[int, int] | None = None,
) -> list[Found]:
    """Return the detections of every image: what ``ops.postprocess.postprocess`` does for tensors.

    Args:
        class_logits: (B, N, K) float32 or float64.
        box_deltas: (B, N, 4) floats.
        anchors: (N, 4) float32 xyxy pixels of the network input.
        scales: (B, 2) network pixels per original pixel along x and y.
        original_sizes: B pairs (height, width).
        settings: Limits and thresholds.
        image_size: (height, width) of the network input; needed by ``clip="network"`` only.

    Returns:
        For each image boxes (D, 4) float32 xyxy in pixels of the original, labels (D,) int64 and scores (D,) float32.
    """
    results = []
    for logits, deltas, factors, size in zip(class_logits, box_deltas, scales, original_sizes, strict=True):
        candidates = _candidates(logits, deltas, anchors, settings)
        if settings.clip == "before":
            candidates = _clip(candidates, (size[0] * float(factors[1]), size[1] * float(factors[0])), settings)
        elif settings.clip == "network" and image_size is not None:
            candidates = _clip(candidates, (image_size[0] - 1, image_size[1] - 1), settings)
        boxes, labels, scores = _suppress(*candidates, settings)
        found = boxes / np.tile(factors, 2).astype(np.float32), labels, scores
        results.append(_clip(found, size, settings) if settings.clip == "after" else found)
    return results


def decode_arrays(deltas: Array, anchors: Array) -> Array:
    """Return the boxes that deltas (C, 4) describe relative to anchors (C, 4): what ``ops.boxes.decode`` computes."""
    x1, y1, x2, y2 = anchors.T
    anchor_w, anchor_h = x2 - x1, y2 - y1
    dx, dy, dw, dh = deltas.T
    with np.errstate(over="ignore", invalid="ignore"):  # very large deltas make infinite boxes, and NaN of these
        x, y = dx * anchor_w + (x1 + anchor_w / 2), dy * anchor_h + (y1 + anchor_h / 2)
        half_w, half_h = _exact_exp(dw) * anchor_w / 2, _exact_exp(dh) * anchor_h / 2
        return np.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=1)


def _exact_exp(values: Array) -> Array:
    """Return the exponential in float32, as PyTorch rounds it; NumPy's own differs in the last bit of two in five."""
    return np.exp(values.astype(np.float64)).astype(np.float32)


def clip_box_array(boxes: Array, size: tuple[float, float]) -> Array:
    """Return boxes (D, 4) cut at the borders of an image of (height, width)."""
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def _candidates(logits: Array, deltas: Array, anchors: Array, settings: PostprocessSettings) -> Found:
    """Return boxes (C, 4) in network pixels, labels (C,) and scores (C,) of the best (anchor, class) pairs."""
    eligible = logits.max(axis=1, keepdims=True) if settings.best_class_only else logits
    indices, scores = select_candidates(
        eligible, score_threshold=settings.score_threshold, max_candidates=settings.max_candidates
    )
    num_classes = eligible.shape[-1]
    chosen = indices // num_classes
    labels = logits[chosen].argmax(axis=1) if settings.best_class_only else indices - chosen * num_classes
    boxes = decode_arrays(deltas[chosen].astype(np.float32, copy=False), anchors[chosen])
    return _keep(boxes.clip(-MAX_COORDINATE, MAX_COORDINATE), labels, scores, with_empty=not settings.drop_empty)


def _clip(found: Found, size: tuple[float, float], settings: PostprocessSettings) -> Found:
    """Return boxes cut at the borders of (height, width), with their labels and scores."""
    boxes, labels, scores = found
    return _keep(clip_box_array(boxes, size), labels, scores, with_empty=not settings.drop_empty)


def _suppress(boxes: Array, labels: Array, scores: Array, settings: PostprocessSettings) -> Found:
    """Return boxes, labels and scores of the candidates that remain, best first."""
    groups = None if settings.class_agnostic else labels
    if settings.nms == "hard":
        keep = hard_nms(
            boxes, scores, groups, iou_threshold=settings.iou_threshold, max_detections=settings.max_detections
        )
        return boxes[keep], labels[keep], scores[keep]
    keep, scores = soft_nms(
        boxes,
        scores,
        groups,
        sigma=settings.sigma,
        score_threshold=settings.score_threshold,
        max_detections=settings.max_detections,
    )
    return boxes[keep], labels[keep], scores


def _keep(boxes: Array, labels: Array, scores: Array, *, with_empty: bool) -> Found:
    """Return the arguments without boxes that have no area; ``with_empty`` removes only boxes that are not finite."""
    x1, y1, x2, y2 = boxes.T
    good = np.isfinite(boxes).all(axis=1) if with_empty else (x2 > x1) & (y2 > y1)  # also false for NaN
    return (boxes, labels, scores) if good.all() else (boxes[good], labels[good], scores[good])
