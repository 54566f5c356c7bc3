"""From raw predictions to boxes in pixels of the original images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from effdet.ops.boxes import clip_boxes, decode
from effdet.ops.nms import hard_nms, select_candidates, soft_nms
from effdet.structures import Predictions

MAX_COORDINATE = 1e6  # pixels; the exponential of a wild box delta would overflow areas


@dataclass(frozen=True, kw_only=True)
class PostprocessSettings:
    """How predictions become detections. Defaults are those of the published evaluation."""

    nms: Literal["hard", "soft"] = "soft"  # drop overlapping boxes, or decay their scores (Gaussian)
    iou_threshold: float = 0.5  # hard NMS
    sigma: float = 0.5  # soft NMS
    score_threshold: float = 0.001  # smallest score that is reported
    max_candidates: int = 5000  # best (anchor, class) pairs of an image that NMS sees
    max_detections: int = 100  # per image
    class_agnostic: bool = False  # NMS between boxes of different classes too
    clip: bool = True  # cut boxes at the borders of the original image

    def __post_init__(self) -> None:
        _check(self.nms in ("hard", "soft"), "nms", "be 'hard' or 'soft'", self.nms)
        _check(0 <= self.iou_threshold <= 1, "iou_threshold", "lie in [0, 1]", self.iou_threshold)
        _check(self.sigma > 0, "sigma", "be positive", self.sigma)
        _check(0 <= self.score_threshold <= 1, "score_threshold", "lie in [0, 1]", self.score_threshold)
        _check(self.max_candidates >= 1, "max_candidates", "be 1 or more", self.max_candidates)
        _check(self.max_detections >= 1, "max_detections", "be 1 or more", self.max_detections)


@torch.no_grad()
def postprocess(
    predictions: Predictions,
    anchors: Tensor,
    *,
    scales: Tensor,
    original_sizes: Tensor,
    settings: PostprocessSettings | None = None,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the detections of every image: candidates, decoding, NMS, back to the original image, clipping.

    Boxes are clipped after NMS, as the published evaluation does not clip at all and ranks what reaches beyond the
    border by its whole extent; clipping first would raise the overlap of two boxes that leave the image side by side.
    A box without area after clipping lies outside the image and is removed.

    Args:
        predictions: Logits (B, N, K) and deltas (B, N, 4) of any floating dtype.
        anchors: (N, 4) xyxy pixels of the network input.
        scales: (B,) network pixels per original pixel.
        original_sizes: (B, 2) height, width of the original images.
        settings: Limits and thresholds; ``None`` for the defaults.

    Returns:
        For each image boxes (D, 4) float32 xyxy in pixels of the original, labels (D,) int64 and scores (D,) float32,
        best score first, on the device of the predictions. Equal scores are ordered by anchor, then class.
    """
    settings = settings or PostprocessSettings()
    return [
        _postprocess_image(*image, anchors, settings)
        for image in zip(
            predictions.class_logits, predictions.box_deltas, scales.tolist(), original_sizes.tolist(), strict=True
        )
    ]


def _postprocess_image(
    logits: Tensor,
    deltas: Tensor,
    scale: float,
    original_size: list[int],
    anchors: Tensor,
    settings: PostprocessSettings,
) -> tuple[Tensor, Tensor, Tensor]:
    boxes, labels, scores = _candidates(logits, deltas, anchors, settings)
    keep, scores = _suppress(boxes, labels, scores, settings)
    boxes, labels = boxes[keep] / scale, labels[keep]

    if settings.clip:
        boxes = clip_boxes(boxes, torch.tensor(original_size))
    return _keep_areas(boxes, labels, scores)


def _candidates(
    logits: Tensor, deltas: Tensor, anchors: Tensor, settings: PostprocessSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes (C, 4) in network pixels, labels (C,) and scores (C,) of the best (anchor, class) pairs."""
    indices, scores = select_candidates(
        logits, score_threshold=settings.score_threshold, max_candidates=settings.max_candidates
    )
    num_classes = logits.shape[-1]
    chosen = indices // num_classes
    labels = indices - chosen * num_classes
    boxes = decode(deltas.index_select(0, chosen).float(), anchors.index_select(0, chosen).float())
    return _keep_areas(boxes.clamp(-MAX_COORDINATE, MAX_COORDINATE), labels, scores)


def _suppress(boxes: Tensor, labels: Tensor, scores: Tensor, settings: PostprocessSettings) -> tuple[Tensor, Tensor]:
    """Return which candidates remain, (D,) int64 best first, and their scores, (D,) float32."""
    groups = None if settings.class_agnostic else labels
    if settings.nms == "hard":
        keep = hard_nms(
            boxes, scores, groups, iou_threshold=settings.iou_threshold, max_detections=settings.max_detections
        )
        return keep, scores[keep]
    return soft_nms(
        boxes,
        scores,
        groups,
        sigma=settings.sigma,
        score_threshold=settings.score_threshold,
        max_detections=settings.max_detections,
    )


def _keep_areas(boxes: Tensor, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the arguments without boxes that have no area, among them boxes with NaN."""
    x1, y1, x2, y2 = boxes.unbind(1)
    has_area = (x2 > x1) & (y2 > y1)
    if has_area.all():
        return boxes, labels, scores
    return boxes[has_area], labels[has_area], scores[has_area]


def _check(ok: bool, name: str, must: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{name} must {must}, got {got}")
