"""Select candidates from the scores of all anchors, and apply non-maximum suppression to them, in NumPy.

Suppression is greedy: it handles one box after the other, so it runs on the CPU, in float64. No PyTorch is needed: a
detector in another runtime answers without importing it. ``ops.batched_postprocess`` does the same on a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]

CHUNK = 16  # values that one reduction replaces by their maximum
WINDOW = 256  # number of best candidates that hard NMS tries first
MATRIX = 512  # boxes whose overlaps hard NMS computes at once, in 2 MB
MIN_AREA = 1e-12  # square pixels added to the area of a box, so that two crossing lines have an IoU of 0 instead of NaN


def select_candidates(logits: Array, *, score_threshold: float, max_candidates: int) -> tuple[IndexArray, Array]:
    """Return the best (anchor, class) pairs of one image, where score = sigmoid(logit).

    The function avoids a sigmoid and a sort of all logits. It computes the maxima of chunks of logits, and the maxima
    of chunks of these. The ``max_candidates``-th best of the last maxima is a lower bound of the candidates, so only
    chunks that reach it are searched. The result is exact.

    Args:
        logits: (N, K) float32 or float64. NaN counts as a score of 0.
        score_threshold: Smallest score that is kept, in [0, 1].
        max_candidates: Largest number of pairs; fewer are normal.

    Returns:
        Flat indices anchor · K + class, (C,) int64, and scores, (C,) float32, best first; of equal logits the
        lower index comes first.
    """
    values = logits.reshape(-1)
    indices = _largest(values, max_candidates, floor=_inverse_sigmoid(score_threshold))
    scores = _sigmoid(values[indices])
    count = int((scores >= score_threshold).sum())  # scores are sorted, so these come first
    return indices[:count], scores[:count]


def hard_nms(
    boxes: Array, scores: Array, labels: Array | None, *, iou_threshold: float, max_detections: int
) -> IndexArray:
    """Return the boxes that remain when each one removes all worse boxes of its class that overlap it too much.

    Args:
        boxes: (C, 4) finite xyxy pixels.
        scores: (C,).
        labels: (C,) int64; boxes of different labels do not see each other. ``None``: all see each other.
        iou_threshold: A box is dropped when its IoU with a better one is above this.
        max_detections: Largest number of boxes to return.

    Returns:
        (D,) int64 indices, best score first; of equal scores the lower index comes first.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_boxes = boxes[order].astype(np.float64)
    groups = np.zeros(len(order), np.int64) if labels is None else labels[order]

    # Which of the best n boxes remain does not depend on the other boxes. So more are tried only if too few remain.
    window = max(WINDOW, max_detections)
    while True:
        kept = _kept_by_group(sorted_boxes[:window], groups[:window], iou_threshold)
        if len(kept) >= max_detections or window >= len(order):
            return order[kept[:max_detections]]
        window *= 4


def soft_nms(
    boxes: Array, scores: Array, labels: Array | None, *, sigma: float, score_threshold: float, max_detections: int
) -> tuple[IndexArray, Array]:
    """Return the boxes in the order of Gaussian soft-NMS (Bodla et al., 2017), with their decayed scores.

    In each step the best box b is picked, and the scores of all other boxes of its class decay:
    sᵢ ← sᵢ · exp(−IoU(b, i)² / σ).

    All classes are processed together. This gives the same result as one class after the other and a final sort by
    score, because scores decay only within a class and no pick of a class has a higher score than the one before.

    Args:
        boxes: (C, 4) finite xyxy pixels.
        scores: (C,).
        labels: (C,) int64; boxes of different labels do not see each other. ``None``: all see each other.
        sigma: Width of the Gaussian.
        score_threshold: Boxes whose decayed score is below this are dropped.
        max_detections: Largest number of boxes to return.

    Returns:
        Indices, (D,) int64, and decayed scores, (D,) of the dtype of ``scores``, best first; of equal scores the
        lower index comes first.
    """
    order, sorted_boxes, sorted_scores = _sorted_apart(boxes, scores, labels)
    floor = float(scores.dtype.type(score_threshold))  # rounded to the type of the scores
    picks, pick_scores = _pick_and_decay(sorted_boxes, sorted_scores, sigma, floor, max_detections)
    return order[np.array(picks, dtype=np.int64)], np.array(pick_scores, dtype=scores.dtype)


def _kept_by_group(boxes: FloatArray, groups: IndexArray, iou_threshold: float) -> IndexArray:
    """Return the ascending positions (D,) of the boxes (C, 4), best first, that no better one of its group drops."""
    if len(boxes) <= MATRIX:
        return np.flatnonzero(_alive(boxes, iou_threshold, groups))
    by_group = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[by_group])) + 1
    kept = [members[_kept(boxes[members], iou_threshold)] for members in np.split(by_group, ends)]
    return np.sort(np.concatenate(kept))


def _kept(boxes: FloatArray, iou_threshold: float) -> IndexArray:
    """Return the positions (D,) of the boxes (C, 4) of one group, best first, that no better one drops."""
    rest = np.arange(len(boxes))
    kept: list[int] = []
    while len(rest) > MATRIX:  # too many for the IoU of all with all
        kept.append(int(rest[0]))
        rest = rest[1:][~_overlap(boxes[rest[:1]], boxes[rest[1:]], iou_threshold)[0]]
    last = rest[_alive(boxes[rest], iou_threshold)]
    return np.concatenate([np.array(kept, dtype=np.int64), last])


def _alive(boxes: FloatArray, iou_threshold: float, groups: IndexArray | None = None) -> npt.NDArray[np.bool_]:
    """Return (C,) which of the boxes (C, 4), best first, remain; the overlaps of all with all are computed at once."""
    drops = np.triu(_overlap(boxes, boxes, iou_threshold), k=1)  # (C, C) row: the better one
    if groups is not None:
        drops &= groups[:, None] == groups
    is_alive = np.ones(len(boxes), dtype=bool)
    for best in np.flatnonzero(drops.any(axis=1)):
        if is_alive[best]:
            is_alive &= ~drops[best]
    return is_alive


def _overlap(a: FloatArray, b: FloatArray, iou_threshold: float) -> npt.NDArray[np.bool_]:
    """Return (A, B) whether the IoU of two boxes is above the threshold; boxes without area have none."""
    left, top, right, bottom = a.T[..., None]
    x1, y1, x2, y2 = b.T[:, None]
    common = (np.minimum(x2, right) - np.maximum(x1, left)).clip(min=0)
    common *= (np.minimum(y2, bottom) - np.maximum(y1, top)).clip(min=0)
    union = (right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - common
    with np.errstate(invalid="ignore"):
        is_above: npt.NDArray[np.bool_] = common / union > iou_threshold
    return is_above


def _pick_and_decay(
    boxes: FloatArray, scores: FloatArray, sigma: float, score_threshold: float, max_detections: int
) -> tuple[list[int], list[float]]:
    """Return positions and scores of the picks among boxes (C, 4) with scores (C,)."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    areas = (x2 - x1) * (y2 - y1) + MIN_AREA
    scores = scores.copy()
    picks: list[int] = []
    pick_scores: list[float] = []
    while len(picks) < min(max_detections, len(scores)):
        best = int(scores.argmax())
        if scores[best] < max(score_threshold, 0):
            break
        picks.append(best)
        pick_scores.append(float(scores[best]))
        left, top, right, bottom = boxes[best]
        met = np.flatnonzero(
            (x1 < right) & (x2 > left) & (y1 < bottom) & (y2 > top)
        )  # boxes that overlap the pick: usually few
        overlaps = np.minimum(x2[met], right) - np.maximum(x1[met], left)
        overlaps *= np.minimum(y2[met], bottom) - np.maximum(y1[met], top)
        overlaps /= areas[met] + areas[best] - overlaps
        scores[met] *= np.exp(overlaps * overlaps / -sigma)
        scores[best], x2[best] = -1, -math.inf  # never picked again, and overlaps no box
    return picks, pick_scores


def _sorted_apart(boxes: Array, scores: Array, labels: Array | None) -> tuple[IndexArray, FloatArray, FloatArray]:
    """Return order, boxes and scores sorted by score, best first, with boxes shifted so that labels do not overlap.

    Boxes and scores are float64. In float32 the shift by 90 labels would change a coordinate by up to 1/128 pixel.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order].astype(np.float64)
    if labels is not None and len(boxes):
        extent = boxes.max() - boxes.min() + 1
        boxes += labels[order].astype(np.float64)[:, None] * extent
    return order, boxes, scores[order].astype(np.float64)


def _sigmoid(logits: Array) -> Array:
    """Return float32 scores. Equal logits give equal scores, and a higher logit never gives a lower score.

    A float32 sigmoid guarantees neither: vectorised code and the code for the last few elements may round differently.
    """
    with np.errstate(over="ignore"):  # the score of a very low logit is 0
        return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def _inverse_sigmoid(score: float) -> float:
    """Return a logit that is no larger than that of any score ≥ ``score``, and larger than most others."""
    if score <= 0:
        return -math.inf
    score = min(score, 1 - 1e-7)  # in float32, the sigmoid of finite logits reaches 1
    return math.log(score / (1 - score)) - 1e-3


def _largest(values: Array, limit: int, *, floor: float) -> IndexArray:
    """Return the indices of the largest values ≥ floor, at most ``limit``, largest first, then lowest index first."""
    table, left_over = _chunks(values)
    maxima = table.max(0) if table.size else left_over[:0]
    second, second_left_over = _chunks(maxima)
    finalists = np.concatenate([second.max(0), second_left_over]) if second.size else maxima
    if np.isnan(finalists).any() or np.isnan(left_over).any():
        return _largest(np.nan_to_num(values, nan=-math.inf, posinf=math.inf, neginf=-math.inf), limit, floor=floor)

    # At least ``limit`` values reach the limit-th largest maximum, so nothing below it is among the largest.
    for bounds in (finalists, maxima, values):
        if bounds.size > limit:
            if np.count_nonzero(bounds >= floor) > limit:
                floor = float(np.partition(bounds, -limit)[-limit])
            break
    indices = _reaching(table, maxima, left_over, floor)
    return indices[_descending(values[indices])[:limit]]


def _reaching(table: Array, maxima: Array, left_over: Array, floor: float) -> IndexArray:
    """Return the ascending indices of the values ≥ floor. Columns of the table with a lower maximum are skipped."""
    columns = np.flatnonzero(maxima >= floor)
    opened = table.take(columns, axis=1)
    row, position = np.divmod(np.flatnonzero(opened.ravel() >= floor), max(1, len(columns)))
    last = np.flatnonzero(left_over >= floor) + table.size
    return np.concatenate([row * table.shape[1] + columns[position], last])


def _descending(values: Array) -> IndexArray:
    """Return the indices that sort values without NaN in descending order, equal ones by index.

    Float32 numbers are converted to integers of the same order, with the index in the low bits. As all of these differ,
    the fastest sort can be used instead of a stable one, in a quarter of the time.
    """
    if values.dtype != np.float32 or len(values) >= 2**24:
        return np.argsort(-values, kind="stable")
    bits = (values + np.float32(0)).view(np.int32).astype(np.int64)  # + 0, as -0 and 0 are equal
    rising = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    keys = np.sort((-rising << 24) + np.arange(len(values)))
    return keys & (2**24 - 1)


def _chunks(values: Array) -> tuple[Array, Array]:
    """Return a (CHUNK, n) table with one chunk in each column, and the remaining values, fewer than CHUNK.

    Chunks are strided, not contiguous, because the maximum over the rows of a matrix is fast: only memory limits it.
    """
    n = values.size // CHUNK
    return values[: CHUNK * n].reshape(CHUNK, n), values[CHUNK * n :]
