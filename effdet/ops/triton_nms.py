"""Greedy NMS of a batch in one CUDA kernel, written in Triton. PyTorch for CUDA on Linux brings Triton.

One program works on one image: it picks the best candidate, lowers the scores of those that overlap it, and repeats.
``ops.batched_postprocess`` does the same with PyTorch's operators, some ten of them for each pick.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from effdet.ops.nms import MIN_AREA


@triton.jit  # type: ignore[untyped-decorator]
def _pick(  # type: ignore[no-untyped-def]  # Triton reads the annotations
    boxes,  # (B, k, 4) float32
    scores,  # (B, k) float64, -1: no candidate
    labels,  # (B, k) int64
    picks,  # (B, steps) int64, written
    pick_scores,  # (B, steps) float64, written
    count,
    steps,
    floor,
    limit: tl.constexpr,  # sigma of soft NMS, IoU threshold of hard NMS; a number that is no constant has 32 bits
    min_area: tl.constexpr,
    soft: tl.constexpr,
    class_agnostic: tl.constexpr,
    block: tl.constexpr,
):
    image = tl.program_id(0)
    place = tl.arange(0, block)
    inside = place < count
    first = image * count
    corners = boxes + 4 * (first + place)
    x1 = tl.load(corners, mask=inside, other=0.0).to(tl.float64)
    y1 = tl.load(corners + 1, mask=inside, other=0.0).to(tl.float64)
    x2 = tl.load(corners + 2, mask=inside, other=0.0).to(tl.float64)
    y2 = tl.load(corners + 3, mask=inside, other=0.0).to(tl.float64)
    label = tl.load(labels + first + place, mask=inside, other=-1).to(tl.int32)
    score = tl.load(scores + first + place, mask=inside, other=-1.0)
    area = (x2 - x1) * (y2 - y1) + min_area
    step = 0
    best = tl.max(score, axis=0)
    while (step < steps) & (best >= floor):
        pick = tl.min(tl.where(score == best, place, block), axis=0)
        tl.store(picks + image * steps + step, pick.to(tl.int64))
        tl.store(pick_scores + image * steps + step, best)
        corner = boxes + 4 * (first + pick)
        left = tl.load(corner).to(tl.float64)
        top = tl.load(corner + 1).to(tl.float64)
        right = tl.load(corner + 2).to(tl.float64)
        bottom = tl.load(corner + 3).to(tl.float64)
        width = tl.maximum(tl.minimum(x2, right) - tl.maximum(x1, left), 0.0)
        height = tl.maximum(tl.minimum(y2, bottom) - tl.maximum(y1, top), 0.0)
        shared = width * height
        iou = shared / (area + (right - left) * (bottom - top) + min_area - shared)
        meets = shared > 0
        if not class_agnostic:
            meets = meets & (label == tl.load(labels + first + pick).to(tl.int32))
        if soft:
            score = tl.where(meets, score * tl.exp(iou * iou / -limit), score)
        else:
            score = tl.where(meets & (iou > limit), -1.0, score)
        score = tl.where(place == pick, -1.0, score)
        best = tl.max(score, axis=0)
        step += 1


def pick_boxes(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    steps: int,
    floor: float,
    sigma: float | None,
    iou_threshold: float,
    class_agnostic: bool,
) -> tuple[Tensor, Tensor]:
    """Return the picks of greedy NMS, best first.

    Args:
        boxes: (B, k, 4) float32 xyxy, finite.
        scores: (B, k) float64; -1 where there is no candidate.
        labels: (B, k) int64.
        steps: Largest number of picks.
        floor: Picks end when no score reaches it; at least 0.
        sigma: Of soft NMS (see ``ops.nms.soft_nms``); None for hard NMS.
        iou_threshold: Of hard NMS.
        class_agnostic: Whether boxes of different labels see each other.

    Returns:
        Places among the k candidates, (B, steps) int64, and their scores when picked, (B, steps) float64. Behind the
        last pick they are 0 and -1.
    """
    num_images, count = scores.shape
    picks = torch.zeros(num_images, steps, dtype=torch.int64, device=scores.device)
    pick_scores = torch.full((num_images, steps), -1.0, dtype=torch.float64, device=scores.device)
    block = triton.next_power_of_2(count)
    _pick[(num_images,)](
        boxes.contiguous(),
        scores.contiguous(),
        labels.contiguous(),
        picks,
        pick_scores,
        count,
        steps,
        floor,
        limit=iou_threshold if sigma is None else sigma,
        min_area=0.0 if sigma is None else MIN_AREA,
        soft=sigma is not None,
        class_agnostic=class_agnostic,
        block=block,
        num_warps=min(32, max(4, block // 256)),
    )
    return picks, pick_scores
