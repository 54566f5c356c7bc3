"""From raw predictions to boxes in pixels of the original images."""

from __future__ import annotations

import torch
from torch import Tensor

from effdet.ops.batched_postprocess import by_axis, postprocess_batch
from effdet.ops.boxes import clip_boxes, decode
from effdet.ops.nms import hard_nms, select_candidates, soft_nms
from effdet.ops.settings import MAX_COORDINATE, PostprocessSettings
from effdet.structures import Predictions


@torch.no_grad()
def postprocess(
    predictions: Predictions,
    anchors: Tensor,
    *,
    scales: Tensor,
    original_sizes: Tensor,
    settings: PostprocessSettings | None = None,
    image_size: tuple[int, int] | None = None,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the detections of every image: select candidates, decode, apply NMS, scale to the original image, clip.

    By default boxes are clipped after NMS. The published evaluation does not clip, so its NMS compares whole boxes,
    also beyond the border. Clipping before NMS would raise the IoU of neighbouring boxes that extend beyond the same
    border.

    Args:
        predictions: Logits (B, N, K) and deltas (B, N, 4) of any floating dtype.
        anchors: (N, 4) xyxy pixels of the network input.
        scales: (B, 2) network pixels per original pixel along x and y; or (B,), where the two are equal.
        original_sizes: (B, 2) height, width of the original images.
        settings: Limits and thresholds; ``None`` for the defaults.
        image_size: (height, width) of the network input; needed by ``clip="network"`` only.

    Returns:
        For each image boxes (D, 4) float32 xyxy in pixels of the original, labels (D,) int64 and scores (D,) float32,
        best score first, on the device of the predictions. Equal scores are ordered by anchor, then class. Boxes with
        NaN are left out.

    Raises:
        ValueError: If ``clip`` is "network" and ``image_size`` is not given.
    """
    settings = settings or PostprocessSettings()
    if settings.clip == "network" and image_size is None:
        raise ValueError("image_size must be given when settings.clip is 'network'")
    if predictions.class_logits.device.type != "cpu":
        return postprocess_batch(
            predictions,
            anchors,
            scales=scales,
            original_sizes=original_sizes,
            settings=settings,
            image_size=image_size,
        )
    images = zip(
        predictions.class_logits, predictions.box_deltas, by_axis(scales), original_sizes.tolist(), strict=True
    )
    results = []
    for logits, deltas, factors, (height, width) in images:
        candidates = _candidates(logits, deltas, anchors, settings)
        if settings.clip == "before":
            candidates = _clip(candidates, (height * float(factors[1]), width * float(factors[0])), settings)
        elif settings.clip == "network" and image_size is not None:
            candidates = _clip(candidates, (image_size[0] - 1, image_size[1] - 1), settings)
        boxes, labels, scores = _suppress(*candidates, settings)
        found = boxes / factors.repeat(2), labels, scores
        results.append(_clip(found, (height, width), settings) if settings.clip == "after" else found)
    return results


def _candidates(
    logits: Tensor, deltas: Tensor, anchors: Tensor, settings: PostprocessSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes (C, 4) in network pixels, labels (C,) and scores (C,) of the best (anchor, class) pairs."""
    best_classes = None
    if settings.best_class_only:
        logits, best_classes = logits.max(dim=1, keepdim=True)
    indices, scores = select_candidates(
        logits, score_threshold=settings.score_threshold, max_candidates=settings.max_candidates
    )
    num_classes = logits.shape[-1]
    chosen = indices // num_classes
    labels = indices - chosen * num_classes if best_classes is None else best_classes[chosen, 0]
    boxes = decode(deltas.index_select(0, chosen).float(), anchors.index_select(0, chosen).float())
    return _keep(boxes.clamp(-MAX_COORDINATE, MAX_COORDINATE), labels, scores, with_empty=not settings.drop_empty)


def _clip(
    found: tuple[Tensor, Tensor, Tensor], size: tuple[float, float], settings: PostprocessSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes cut at the borders of (height, width), with their labels and scores."""
    boxes, labels, scores = found
    return _keep(clip_boxes(boxes, size), labels, scores, with_empty=not settings.drop_empty)


def _suppress(
    boxes: Tensor, labels: Tensor, scores: Tensor, settings: PostprocessSettings
) -> tuple[Tensor, Tensor, Tensor]:
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


def _keep(boxes: Tensor, labels: Tensor, scores: Tensor, *, with_empty: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the arguments without boxes that have no area; ``with_empty`` removes only boxes that are not finite."""
    if with_empty:
        good = boxes.isfinite().all(dim=1)
    else:
        x1, y1, x2, y2 = boxes.unbind(1)
        good = (x2 > x1) & (y2 > y1)  # also false for NaN
    if good.all():
        return boxes, labels, scores
    return boxes[good], labels[good], scores[good]
