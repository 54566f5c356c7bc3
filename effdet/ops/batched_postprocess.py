"""Post-processing of a whole batch on its device. The host waits for the device only at the end.

``ops.postprocess`` processes one image after the other with the methods that are fastest on a CPU. Its tensor sizes
depend on values, so on a GPU the host would have to wait for each of them. Here every tensor has a fixed size: k
candidates per image, of which some are invalid. The results are the same.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from effdet.ops.boxes import decode
from effdet.ops.nms import MIN_AREA
from effdet.ops.settings import MAX_COORDINATE, PostprocessSettings
from effdet.structures import Predictions

STEPS_BETWEEN_LOOKS = 128  # picks after which the host checks whether candidates remain
MOST_CANDIDATES = 8192  # of an image in the kernel of ``ops.triton_nms``: what the registers of a multiprocessor hold
PickBoxes: TypeAlias = Callable[..., tuple[Tensor, Tensor]]


class _Found(NamedTuple):
    """Boxes of every image; invalid ones are ignored."""

    boxes: Tensor  # (B, k, 4) xyxy
    labels: Tensor  # (B, k) int64
    scores: Tensor  # (B, k) float32
    is_valid: Tensor  # (B, k) bool


def postprocess_batch(
    predictions: Predictions,
    anchors: Tensor,
    *,
    scales: Tensor,
    original_sizes: Tensor,
    settings: PostprocessSettings,
    image_size: tuple[int, int] | None,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Do what ``ops.postprocess.postprocess`` does, for all images at once.

    If several logits are equal at the limit of ``max_candidates``, any of them may be taken.
    """
    device = predictions.class_logits.device
    factors = by_axis(scales.to(device, non_blocking=True))
    borders = original_sizes.to(device, non_blocking=True).float()  # (B, 2) height, width
    found = _candidates(predictions, anchors, settings)
    if settings.clip == "before":
        found = _clip(found, borders * factors.flip(1), settings)
    elif settings.clip == "network":
        assert image_size is not None
        found = _clip(found, borders.new_tensor([[image_size[0] - 1, image_size[1] - 1]]), settings)
    found = _suppress(found, settings)
    found = found._replace(boxes=found.boxes / factors.repeat(1, 2)[:, None])
    if settings.clip == "after":
        found = _clip(found, borders, settings)
    return _split(found)


def by_axis(scales: Tensor) -> Tensor:
    """Return scales (B, 2), along x and y, also where one number for each image, (B,), stands for both."""
    return scales if scales.ndim == 2 else scales[:, None].expand(-1, 2)


def _candidates(predictions: Predictions, anchors: Tensor, settings: PostprocessSettings) -> _Found:
    """Return the best (anchor, class) pairs of each image, best first, then lowest index first."""
    logits = predictions.class_logits  # (B, N, K)
    num_classes = logits.shape[2]
    if settings.best_class_only:
        logits, best_class = logits.max(dim=2, keepdim=True)
    values = logits.flatten(1).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    top, index = values.topk(min(settings.max_candidates, values.shape[1]), dim=1)  # (B, k)
    index, order = index.sort(dim=1)
    top, order = top.gather(1, order).sort(dim=1, descending=True, stable=True)
    index = index.gather(1, order)

    if settings.best_class_only:
        anchor, labels = index, best_class[..., 0].gather(1, index)
    else:
        anchor = index // num_classes
        labels = index - anchor * num_classes
    deltas = predictions.box_deltas.gather(1, anchor[..., None].expand(-1, -1, 4)).float()
    boxes = decode(deltas, anchors.float()[anchor]).clamp(-MAX_COORDINATE, MAX_COORDINATE)
    scores = top.double().sigmoid().float()  # float64 inside, so equal logits give equal scores, as on a CPU
    return _drop(_Found(boxes, labels, scores, scores >= settings.score_threshold), settings)


def _drop(found: _Found, settings: PostprocessSettings) -> _Found:
    """Mark boxes with NaN as invalid, and those without an area if ``drop_empty`` is set."""
    if settings.drop_empty:
        x1, y1, x2, y2 = found.boxes.unbind(-1)
        good = (x2 > x1) & (y2 > y1)  # also false for NaN
    else:
        good = found.boxes.isfinite().all(dim=-1)
    return found._replace(is_valid=found.is_valid & good)


def _clip(found: _Found, borders: Tensor, settings: PostprocessSettings) -> _Found:
    """Cut boxes at the borders (B or 1, 2), height and width."""
    limits = borders.flip(1).repeat(1, 2)[:, None].to(found.boxes.dtype)  # (B or 1, 1, 4): x, y, x, y
    boxes = torch.minimum(found.boxes.clamp(min=0), limits)
    return _drop(found._replace(boxes=boxes), settings)


def _suppress(found: _Found, settings: PostprocessSettings) -> _Found:
    """Repeatedly pick the best candidate of each image, and lower the scores of those that overlap it.

    Hard NMS removes candidates with IoU > threshold; soft NMS multiplies scores by exp(−IoU² / σ). The computation is
    in float64, as on a CPU.
    """
    boxes = torch.where(found.is_valid[..., None], found.boxes, 0)
    scores = torch.where(found.is_valid, found.scores.double(), -1.0)
    floor = 0.0
    if settings.nms == "soft":
        floor = max(float(torch.tensor(settings.score_threshold, dtype=torch.float32)), 0.0)
    pick_boxes = _kernel(scores) or _pick_boxes
    picks, pick_scores = pick_boxes(
        boxes,
        scores,
        found.labels,
        steps=min(settings.max_detections, scores.shape[1]),
        floor=floor,
        sigma=settings.sigma if settings.nms == "soft" else None,
        iou_threshold=settings.iou_threshold,
        class_agnostic=settings.class_agnostic,
    )
    return _Found(
        found.boxes.gather(1, picks[..., None].expand(-1, -1, 4)),
        found.labels.gather(1, picks),
        pick_scores.float(),
        pick_scores >= floor,
    )


def _kernel(scores: Tensor) -> PickBoxes | None:
    """Return what picks boxes in one kernel, where the device and the number of candidates allow it."""
    if not scores.is_cuda or scores.shape[1] > MOST_CANDIDATES or importlib.util.find_spec("triton") is None:
        return None
    from effdet.ops.triton_nms import pick_boxes

    return pick_boxes


def _pick_boxes(
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
    """Do what ``ops.triton_nms.pick_boxes`` does by operators of PyTorch."""
    boxes = boxes.double()
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    if sigma is not None:
        areas = areas + MIN_AREA
    num_images, count = scores.shape
    place = torch.arange(count, device=scores.device)
    picks = torch.zeros(num_images, steps, dtype=torch.int64, device=scores.device)
    pick_scores = torch.full((num_images, steps), -1.0, dtype=torch.float64, device=scores.device)
    for step in range(steps):
        if step and step % STEPS_BETWEEN_LOOKS == 0 and not (scores >= floor).any():
            break
        best = scores.amax(dim=1, keepdim=True)  # (B, 1)
        pick = torch.where(scores == best, place, count).amin(dim=1, keepdim=True).clamp(max=count - 1)
        picks[:, step : step + 1] = pick
        pick_scores[:, step : step + 1] = best
        overlap = _overlaps(boxes, areas, pick)  # (B, k)
        if not class_agnostic:
            overlap = overlap * (labels == labels.gather(1, pick))
        if sigma is None:
            scores = scores.masked_fill(overlap > iou_threshold, -1.0)
        else:
            scores = torch.where(overlap > 0, scores * torch.exp(overlap * overlap / -sigma), scores)
        scores = scores.scatter(1, pick, -1.0)  # never picked again
    return picks, pick_scores


def _overlaps(boxes: Tensor, areas: Tensor, pick: Tensor) -> Tensor:
    """Return the IoU of each image's pick (B, 1) with its boxes (B, k, 4): (B, k)."""
    chosen = boxes.gather(1, pick[..., None].expand(-1, -1, 4))  # (B, 1, 4)
    sides = torch.minimum(boxes[..., 2:], chosen[..., 2:]) - torch.maximum(boxes[..., :2], chosen[..., :2])
    shared = sides.clamp(min=0).prod(dim=-1)
    return (shared / (areas + areas.gather(1, pick) - shared)).nan_to_num(0.0)


def _split(found: _Found) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the valid boxes, labels and scores of each image; the host waits once, for the number of boxes."""
    order = (~found.is_valid).to(torch.uint8).argsort(dim=1, stable=True)
    counts = found.is_valid.sum(dim=1).tolist()
    boxes = found.boxes.gather(1, order[..., None].expand(-1, -1, 4))
    labels, scores = found.labels.gather(1, order), found.scores.gather(1, order)
    return [(boxes[i, :count], labels[i, :count], scores[i, :count]) for i, count in enumerate(counts)]
