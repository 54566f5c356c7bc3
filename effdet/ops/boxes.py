"""Geometry of boxes: encoding relative to anchors, overlap, clipping. Boxes are xyxy in absolute pixels."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_SIDE = 1e-8  # shorter sides count as this long when encoding, so that no logarithm or quotient is infinite


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the deltas that describe boxes relative to anchors; ``decode`` is the inverse.

    With the centre (x, y) and the sides (w, h) of a box, and xᵃ, yᵃ, wᵃ, hᵃ of the anchor:
    dx = (x − xᵃ)/wᵃ, dy = (y − yᵃ)/hᵃ, dw = ln(w/wᵃ), dh = ln(h/hᵃ). There are no variance factors.

    Args:
        boxes: (..., 4) xyxy pixels.
        anchors: (..., 4) xyxy pixels, broadcast against ``boxes``. Sides below 1e-8 count as 1e-8, in both.

    Returns:
        (..., 4) deltas dx, dy, dw, dh.
    """
    x, y, w, h = _centres_and_sides(boxes)
    anchor_x, anchor_y, anchor_w, anchor_h = _centres_and_sides(anchors)
    return torch.stack(
        [
            (x - anchor_x) / anchor_w,
            (y - anchor_y) / anchor_h,
            (w / anchor_w).log(),
            (h / anchor_h).log(),
        ],
        dim=-1,
    )


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes that deltas describe; the inverse of ``encode``.

    Args:
        deltas: (..., 4) dx, dy, dw, dh. The exponential of dw and dh is not limited.
        anchors: (..., 4) xyxy pixels, broadcast against ``deltas``.

    Returns:
        (..., 4) xyxy pixels, not clipped. Half-precision deltas with float32 anchors give float32.
    """
    dx, dy, dw, dh = deltas.unbind(-1)
    anchor_x, anchor_y, anchor_w, anchor_h = _centres_and_sides(anchors)
    x = dx * anchor_w + anchor_x
    y = dy * anchor_h + anchor_y
    half_w = dw.to(x.dtype).exp() * anchor_w / 2
    half_h = dh.to(y.dtype).exp() * anchor_h / 2
    return torch.stack([x - half_w, y - half_h, x + half_w, y + half_h], dim=-1)


def box_areas(boxes: Tensor) -> Tensor:
    """Return the areas in square pixels of (..., 4) xyxy boxes as (...,); 0 where x2 < x1 or y2 < y1."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)


def intersection_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Return the area that every box of ``a`` shares with every box of ``b``.

    Args:
        a: (..., M, 4) xyxy pixels.
        b: (..., N, 4) xyxy pixels, leading dimensions broadcast against those of ``a``.

    Returns:
        (..., M, N) square pixels.
    """
    # One coordinate at a time: a (..., M, N, 2) intermediate would need twice the memory and strided reads.
    ax1, ay1, ax2, ay2 = a.unsqueeze(-2).unbind(-1)  # (..., M, 1)
    bx1, by1, bx2, by2 = b.unsqueeze(-3).unbind(-1)  # (..., 1, N)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)  # (..., M, N)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    return width * height


def iou_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of every box of ``a`` with every box of ``b``.

    Args:
        a: (..., M, 4) xyxy pixels.
        b: (..., N, 4) xyxy pixels, leading dimensions broadcast against those of ``a``.

    Returns:
        (..., M, N) in [0, 1]; two boxes without area have 0.
    """
    intersection = intersection_matrix(a, b)
    union = box_areas(a).unsqueeze(-1) + box_areas(b).unsqueeze(-2) - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def clip_boxes(boxes: Tensor, sizes: Tensor | tuple[float, float]) -> Tensor:
    """Return the boxes cut at the borders of their image.

    Args:
        boxes: (..., 4) xyxy pixels.
        sizes: (height, width) of the image in pixels, or (..., 2) of them, one for each box after broadcasting.

    Returns:
        (..., 4) with 0 ≤ x ≤ width and 0 ≤ y ≤ height. A box outside the image becomes one without area.
    """
    height, width = torch.as_tensor(sizes, device=boxes.device).to(boxes.dtype).unbind(-1)
    limits = torch.stack([width, height, width, height], dim=-1)
    return torch.minimum(boxes.clamp(min=0), limits)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x, y of the centre, width and height of (..., 4) xyxy boxes, each (...,).

    A centre is a corner plus half a side, the formula of the published models. The rounding matters: it decides which
    targets are exactly 0.
    """
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + width / 2, y1 + height / 2, width.clamp(min=MIN_SIDE), height.clamp(min=MIN_SIDE)
