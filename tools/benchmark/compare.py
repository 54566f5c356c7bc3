"""Check that the raw outputs and the detections of several runners agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_IOU = 0.999
LARGEST_SCORE_DIFFERENCE = 1e-3


def same_outputs(files: Sequence[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Return for every runner the largest differences of its scores and deltas from those of the first."""
    if not files:
        return {}
    reference = np.load(files[0][1])
    found = {}
    for name, file in files[1:]:
        outputs = np.load(file)
        found[name] = {
            "score": float(np.abs(_sigmoid(outputs["logits"]) - _sigmoid(reference["logits"])).max()),
            "delta": float(np.abs(outputs["deltas"] - reference["deltas"]).max()),
        }
    return found


def agreement(reference: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how far the detections of some images agree with reference detections.

    A reference detection counts as found if a detection of the same label has IoU ≥ 0.999 with it and a score within
    1e-3. Each detection is used once. Detections with a score within 1e-3 of the last one of an image are ignored,
    because rounding decides which of them are within the limit on the number of detections.

    Returns:
        ``found``: part of the reference detections that were found. ``surplus``: number of detections per image beyond
        the number in the reference. ``iou`` and ``score``: smallest IoU and largest difference of scores between each
        reference detection and the nearest detection, over pairs with IoU above ½.
    """
    again, total, surplus = 0, 0, 0
    ious: list[float] = [1.0]
    differences: list[float] = [0.0]
    for whole, other in zip(reference, found, strict=True):
        one = _above_the_cut(whole)
        total += len(one["scores"])
        surplus += len(other["scores"]) - len(whole["scores"])
        matches = _match(one, other)
        ious += [iou for iou, _ in matches]
        differences += [difference for _, difference in matches]
        again += sum(iou >= LEAST_IOU and difference <= LARGEST_SCORE_DIFFERENCE for iou, difference in matches)
    return {
        "found": again / max(1, total),
        "surplus": surplus / max(1, len(reference)),
        "iou": min(ious),
        "score": max(differences),
    }


def _above_the_cut(detections: dict[str, Any]) -> dict[str, Any]:
    cut = min(detections["scores"], default=0.0) + LARGEST_SCORE_DIFFERENCE
    kept = [index for index, score in enumerate(detections["scores"]) if score > cut]
    return {key: [detections[key][index] for index in kept] for key in ("boxes", "labels", "scores")}


def _match(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[float, float]]:
    """Return the IoU and the difference of scores of each pair of nearest detections, best score first."""
    free = np.ones(len(other["scores"]), dtype=bool)
    labels, scores = np.asarray(other["labels"]), np.asarray(other["scores"], dtype=float)
    boxes = np.asarray(other["boxes"], dtype=float).reshape(-1, 4)
    pairs = []
    for box, label, score in zip(one["boxes"], one["labels"], one["scores"], strict=True):
        candidates = np.flatnonzero(free & (labels == label))
        if not len(candidates):
            continue
        ious = _iou(np.asarray(box, dtype=float), boxes[candidates])
        differences = np.abs(scores[candidates] - score)
        nearest = int(np.lexsort((differences, -ious.round(6)))[0])
        if ious[nearest] > 0.5:
            pairs.append((float(ious[nearest]), float(differences[nearest])))
            free[candidates[nearest]] = False
    return pairs


def _iou(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    intersection = sides.clip(min=0).prod(axis=1)
    areas = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(intersection / np.maximum(areas - intersection, 1e-9))


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-x)))
