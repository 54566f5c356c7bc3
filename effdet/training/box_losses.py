"""Losses of the box head for paired boxes, computed without waiting for the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-7  # smallest divisor


def huber_loss(deltas: Tensor, targets: Tensor, *, delta: float = 0.1) -> Tensor:
    """Elementwise ``½e²`` for |e| ≤ δ, ``δ·(|e| - ½δ)`` beyond, e = deltas - targets; not reduced."""
    return F.huber_loss(deltas, targets, reduction="none", delta=delta)


def iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - IoU`` of paired boxes (P, 4) xyxy, not reduced: (P,). Boxes that do not touch have no gradient."""
    intersection, union = _intersection_and_union(boxes, targets)
    return 1 - intersection / union.clamp(min=EPS)


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - IoU + (C - U) / C`` of paired boxes (P, 4) xyxy, not reduced: (P,) (Rezatofighi et al., 2019).

    C is the area of the smallest box around both, U that of their union.
    """
    intersection, union = _intersection_and_union(boxes, targets)
    around = _sides_around(boxes, targets).prod(dim=1)
    return 1 - intersection / (union + EPS) + (around - union) / (around + EPS)


def diou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - IoU + ρ² / c²`` of paired boxes (P, 4) xyxy, not reduced: (P,) (Zheng et al., 2020).

    ρ is the distance of the centres, c the diagonal of the smallest box around both.
    """
    intersection, union = _intersection_and_union(boxes, targets)
    diagonal = _sides_around(boxes, targets).square().sum(dim=1) + EPS
    between = (boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]) / 2
    return 1 - intersection / (union + EPS) + between.square().sum(dim=1) / diagonal


def ciou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``diou_loss + α·v`` of paired boxes (P, 4) xyxy, not reduced: (P,) (Zheng et al., 2020).

    v = 4/π² · (arctan(w/h of the target) - arctan(w/h of the box))² and α = v / (1 - IoU + v), a constant for the
    gradient. A height of zero counts as one of ``EPS``.
    """
    sides = (x[:, 2:] - x[:, :2] for x in (targets, boxes))
    shapes = [torch.atan(width / height.clamp(min=EPS)) for width, height in (both.unbind(1) for both in sides)]
    v = 4 / math.pi**2 * (shapes[0] - shapes[1]).square()
    with torch.no_grad():
        intersection, union = _intersection_and_union(boxes, targets)
        weight = v / (1 - intersection / (union + EPS) + v + EPS)
    return diou_loss(boxes, targets) + weight * v


def _intersection_and_union(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    sides = torch.minimum(boxes[:, 2:], targets[:, 2:]) - torch.maximum(boxes[:, :2], targets[:, :2])
    intersection = sides.clamp(min=0).prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (targets[:, 2:] - targets[:, :2]).prod(dim=1)
    return intersection, areas - intersection


def _sides_around(boxes: Tensor, targets: Tensor) -> Tensor:
    """Return width and height of the smallest box around each pair: (P, 2)."""
    return torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])
