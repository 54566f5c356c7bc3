"""Select candidates from the scores of all anchors, and apply non-maximum suppression to them.

Suppression is greedy: it handles one box after the other. It therefore runs on the CPU in float64 for inputs of any
device and precision. To copy a few thousand boxes takes less time than to start the kernels on a GPU.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.float64]

CHUNK = 16  # values that one reduction replaces by their maximum
WINDOW = 256  # number of best candidates that hard NMS tries first
MIN_AREA = 1e-12  # square pixels added to the area of a box, so that two crossing lines have an IoU of 0 instead of NaN


def select_candidates(logits: Tensor, *, score_threshold: float, max_candidates: int) -> tuple[Tensor, Tensor]:
    """Return the best (anchor, class) pairs of one image, where score = sigmoid(logit).

    The function avoids a sigmoid and a sort of all logits. It computes the maxima of chunks of logits, and the maxima
    of chunks of these. The ``max_candidates``-th best of the last maxima is a lower bound of the candidates, so only
    chunks that reach it are searched. The result is exact.

    Args:
        logits: (N, K) of any floating dtype. NaN counts as a score of 0.
        score_threshold: Smallest score that is kept, in [0, 1].
        max_candidates: Largest number of pairs; fewer are normal.

    Returns:
        Flat indices anchor · K + class, (C,) int64, and scores, (C,) float32, best first; of equal logits the
        lower index comes first.
    """
    values = logits.reshape(-1)
    indices = _largest(values, max_candidates, floor=_inverse_sigmoid(score_threshold))
    scores = _sigmoid(values.index_select(0, indices))
    count = int((scores >= score_threshold).sum())  # scores are sorted, so these come first
    return indices[:count], scores[:count]


def hard_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, *, iou_threshold: float, max_detections: int
) -> Tensor:
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
    from torchvision.ops import (
        nms,
    )  # here, because the import is as slow as that of torch and soft-NMS does not need it

    order, sorted_boxes, sorted_scores = _sorted_apart(boxes, scores, labels)

    # Which of the best n boxes remain does not depend on the other boxes. So more are tried only if too few remain.
    window = WINDOW
    while True:
        kept = nms(sorted_boxes[:window], sorted_scores[:window], iou_threshold)
        if len(kept) >= max_detections or window >= len(order):
            return order[kept[:max_detections].to(order.device)]
        window *= 4


def soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, *, sigma: float, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor]:
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
    floor = float(scores.new_tensor(score_threshold))  # rounded to the type of the scores
    picks, pick_scores = _pick_and_decay(sorted_boxes.numpy(), sorted_scores.numpy(), sigma, floor, max_detections)
    return order[torch.tensor(picks, dtype=torch.int64, device=order.device)], scores.new_tensor(pick_scores)


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


def _sorted_apart(boxes: Tensor, scores: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return order, boxes and scores sorted by score, best first, with boxes shifted so that labels do not overlap.

    Boxes and scores are float64 on the CPU. In float32 the shift by 90 labels would change a coordinate by up to 1/128
    pixel.
    """
    scores, order = scores.sort(descending=True, stable=True)
    boxes = boxes.index_select(0, order).cpu().double()
    if labels is not None and len(boxes):
        extent = boxes.max() - boxes.min() + 1
        boxes += labels.index_select(0, order).cpu().double()[:, None] * extent
    return order, boxes, scores.cpu().double()


def _sigmoid(logits: Tensor) -> Tensor:
    """Return float32 scores. Equal logits give equal scores, and a higher logit never gives a lower score.

    A float32 sigmoid guarantees neither: torch's vectorised code and its code for the last few elements round
    differently.
    """
    return logits.cpu().double().sigmoid().float().to(logits.device)


def _inverse_sigmoid(score: float) -> float:
    """Return a logit that is no larger than that of any score ≥ ``score``, and larger than most others."""
    if score <= 0:
        return -math.inf
    score = min(score, 1 - 1e-7)  # in float32, the sigmoid of finite logits reaches 1
    return math.log(score / (1 - score)) - 1e-3


def _largest(values: Tensor, limit: int, *, floor: float) -> Tensor:
    """Return the indices of the largest values ≥ floor, at most ``limit``, largest first, then lowest index first."""
    table, left_over = _chunks(values)
    maxima = table.amax(0) if table.numel() else left_over[:0]
    second, second_left_over = _chunks(maxima)
    finalists = torch.cat([second.amax(0), second_left_over]) if second.numel() else maxima
    if finalists.isnan().any() or left_over.isnan().any():
        return _largest(values.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf), limit, floor=floor)

    # At least ``limit`` values reach the limit-th largest maximum, so nothing below it is among the largest.
    for bounds in (finalists, maxima, values):
        if bounds.numel() > limit:
            floor = max(floor, float(np.partition(_to_numpy(bounds), -limit)[-limit]))
            break
    indices = torch.from_numpy(_reaching(table, maxima, left_over, floor)).to(values.device)
    order = _descending(_to_numpy(values.index_select(0, indices)))[:limit]
    return indices[torch.from_numpy(order).to(values.device)]


def _reaching(table: Tensor, maxima: Tensor, left_over: Tensor, floor: float) -> npt.NDArray[np.int64]:
    """Return the ascending indices of the values ≥ floor. Columns of the table with a lower maximum are skipped."""
    columns = np.flatnonzero(_to_numpy(maxima) >= floor)
    opened = _to_numpy(table.index_select(1, torch.from_numpy(columns).to(table.device)))
    row, position = np.divmod(np.flatnonzero(opened.ravel() >= floor), max(1, len(columns)))
    last = np.flatnonzero(_to_numpy(left_over) >= floor) + table.numel()
    return np.concatenate([row * table.shape[1] + columns[position], last])


def _to_numpy(values: Tensor) -> npt.NDArray[Any]:
    """Return values of any floating dtype on the CPU, as float32 or float64."""
    wide = values if values.dtype == torch.float64 else values.float()
    array: npt.NDArray[Any] = wide.cpu().numpy()
    return array


def _descending(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
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


def _chunks(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return a (CHUNK, n) table with one chunk in each column, and the remaining values, fewer than CHUNK.

    Chunks are strided, not contiguous, because the maximum over the rows of a matrix is fast: only memory limits it.
    """
    n = values.numel() // CHUNK
    return values[: CHUNK * n].view(CHUNK, n), values[CHUNK * n :]
