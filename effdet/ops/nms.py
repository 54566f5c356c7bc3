"""From scores of every anchor to the few boxes worth reporting: candidates, then non-maximum suppression.

Suppression is greedy, one box after the other, so it runs on the CPU in float64 whatever the device and precision of
the input: a few thousand boxes are copied in less time than it takes a GPU to start the kernels.
"""

from __future__ import annotations

import math

import torch
import torchvision
from torch import Tensor

CHUNK = 16  # values that one round of the tournament reduces to their maximum
WINDOW = 512  # best candidates that suppression looks at first


def select_candidates(logits: Tensor, *, score_threshold: float, max_candidates: int) -> tuple[Tensor, Tensor]:
    """Return the best (anchor, class) pairs of one image, where score = sigmoid(logit).

    No sigmoid of, and no sort over, all logits: chunks of them are reduced to their maxima, again and again; the
    ``max_candidates``-th best of the last maxima bounds the logits that can matter, and only chunks that reach
    it are opened. The result is exact.

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
    scores = values[indices].float().sigmoid()
    keep = scores >= score_threshold
    return indices[keep], scores[keep]


def hard_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, *, iou_threshold: float, max_detections: int
) -> Tensor:
    """Return which boxes remain when each one drops all worse ones of its class that overlap it too much.

    Args:
        boxes: (C, 4) finite xyxy pixels.
        scores: (C,).
        labels: (C,) int64; boxes of different labels do not see each other. ``None``: all see each other.
        iou_threshold: A box is dropped when its IoU with a better one is above this.
        max_detections: Largest number of boxes to return.

    Returns:
        (D,) int64 indices, best score first; of equal scores the lower index comes first.
    """
    order = scores.sort(descending=True, stable=True).indices
    sorted_boxes, sorted_scores = _apart(boxes, labels)[order.cpu()], scores[order].cpu().double()

    # What is kept among the best n does not depend on the rest, so look at more only when too few are kept.
    window = WINDOW
    while True:
        kept = torchvision.ops.nms(sorted_boxes[:window], sorted_scores[:window], iou_threshold)
        if len(kept) >= max_detections or window >= len(order):
            return order[kept[:max_detections].to(order.device)]
        window *= 4


def soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor | None, *, sigma: float, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor]:
    """Return the boxes in the order of Gaussian soft-NMS (Bodla et al., 2017), with their decayed scores.

    Again and again the best box b is picked and every other of its class is decayed,
    sᵢ ← sᵢ · exp(−IoU(b, i)² / σ).

    All classes are worked on at once: decay acts within a class only and picked scores never rise, so each
    class yields the non-increasing sequence that it would yield alone, and picking the best of all classes merges
    these sequences by score: ``max_detections`` picks are the best of all the classes together.

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
    order = scores.sort(descending=True, stable=True).indices
    sorted_boxes, sorted_scores = _apart(boxes, labels)[order.cpu()], scores[order].cpu().double()
    picked, picked_scores = _pick_and_decay(sorted_boxes, sorted_scores, sigma, score_threshold, max_detections)
    return order[picked.to(order.device)], picked_scores.to(scores)


def _pick_and_decay(
    boxes: Tensor, scores: Tensor, sigma: float, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor]:
    """Return positions and scores of the picks among boxes sorted by score, best first.

    A box can only fall, so the best of a window of the first boxes is the best of all as long as it reaches the score
    that the first box behind the window began with; else the window grows, and earlier picks decay the newcomers.
    """
    lows, highs = boxes[:, :2].T.contiguous(), boxes[:, 2:].T.contiguous()  # (2, C) x, y
    areas = (highs - lows).prod(0)  # (C,)

    def decay(picks: slice | Tensor, others: slice) -> Tensor:
        """Return (P, n) factors that the picks apply to the others."""
        sides = torch.minimum(highs[:, picks, None], highs[:, None, others])  # (2, P, n)
        sides -= torch.maximum(lows[:, picks, None], lows[:, None, others])
        sides.clamp_(min=0)
        intersection = sides[0] * sides[1]  # (P, n)
        iou = intersection / (areas[picks, None] + areas[others] - intersection)
        return iou.square_().mul_(-1 / sigma).exp_()

    scores = scores.clone()
    window = min(WINDOW, len(scores))
    picked: list[int] = []
    picked_scores: list[float] = []
    while len(picked) < max_detections and window:
        best = int(scores[:window].argmax())
        score = float(scores[best])
        while window < len(scores) and score < float(scores[window]):
            newcomers = slice(window, min(4 * window, len(scores)))
            scores[newcomers] *= decay(torch.tensor(picked, dtype=torch.int64), newcomers).prod(0)
            window = newcomers.stop
            best = int(scores[:window].argmax())
            score = float(scores[best])
        if score < score_threshold or score < 0:
            break
        picked.append(best)
        picked_scores.append(score)
        scores[:window] *= decay(slice(best, best + 1), slice(window))[0]
        scores[best] = -1.0  # never again
    return torch.tensor(picked, dtype=torch.int64), torch.tensor(picked_scores, dtype=torch.float64)


def _apart(boxes: Tensor, labels: Tensor | None) -> Tensor:
    """Return float64 boxes on the CPU, shifted by label so that boxes of different labels never overlap.

    float32 would not do: among 90 classes the shift costs a coordinate up to 1/16 pixel.
    """
    boxes = boxes.cpu().double()
    if labels is None or not len(boxes):
        return boxes
    extent = boxes.max() - boxes.min() + 1
    return boxes + labels.cpu()[:, None] * extent


def _inverse_sigmoid(score: float) -> float:
    """Return a logit that is no larger than that of any score ≥ ``score``, and larger than most others."""
    if score <= 0:
        return -math.inf
    score = min(score, 1 - 1e-7)  # in float32, the sigmoid of finite logits reaches 1
    return math.log(score / (1 - score)) - 1e-3


def _largest(values: Tensor, limit: int, *, floor: float) -> Tensor:
    """Return the indices of the largest values ≥ floor, at most ``limit``, largest first, then lowest index first."""
    rounds = [values]
    while rounds[-1].numel() >= 2 * CHUNK * limit:
        rounds.append(_chunk_maxima(rounds[-1]))
    finalists = rounds.pop()
    if finalists.isnan().any():
        return _largest(values.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf), limit, floor=floor)

    # At least ``limit`` values reach the limit-th largest maximum, so nothing below it is among the largest.
    if finalists.numel() > limit:
        floor = max(floor, float(finalists.topk(limit, sorted=False).values.min()))
    indices = (finalists >= floor).nonzero().squeeze(1)
    for values_below in reversed(rounds):
        indices = _chunk_members(indices, values_below.numel())
        indices = indices[values_below[indices] >= floor]
    order = values[indices].sort(descending=True, stable=True).indices[:limit]
    return indices[order]


def _chunk_maxima(values: Tensor) -> Tensor:
    """Return the maxima of chunks {i, i + n, i + 2n, …} of CHUNK values, n = len // CHUNK, then the values left over.

    Chunks are strided, not contiguous: the maximum over rows of a matrix runs at the speed of memory.
    """
    n = values.numel() // CHUNK
    return torch.cat([values[: CHUNK * n].view(CHUNK, n).amax(0), values[CHUNK * n :]])


def _chunk_members(chunks: Tensor, length: int) -> Tensor:
    """Return the ascending indices, among ``length`` values, of all members of the ascending chunks."""
    n = length // CHUNK
    starts = torch.arange(CHUNK, device=chunks.device)[:, None] * n
    whole, left_over = chunks[chunks < n], chunks[chunks >= n]
    return torch.cat([(starts + whole).flatten(), left_over + (CHUNK - 1) * n])
