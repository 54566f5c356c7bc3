"""Which anchor learns which ground-truth box: targets of a whole batch, in sparse form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.ops.boxes import box_areas, intersection_matrix, iou_matrix
from effdet.structures import Target

MAX_BLOCK = 2**22  # elements of one IoU block (B, M, n); about ten such blocks are alive at once


@dataclass(frozen=True)
class Assignment:
    """The anchors of a batch that are not plain background.

    Anchor n of image b has the flat index b·N + n. Every anchor that is neither positive nor ignored is background.
    """

    positive: Tensor  # (P,) int64 flat indices, ascending
    classes: Tensor  # (P,) int64 in [0, K)
    boxes: Tensor  # (P, 4) float32 xyxy, the matched ground truth
    ignored: Tensor  # (I,) int64 flat indices, ascending, disjoint from positive

    @property
    def num_positives(self) -> int:
        """Number of positive anchors P in the batch."""
        return len(self.positive)


def assign(anchors: Tensor, targets: Sequence[Target], *, positive_iou: float = 0.5) -> Assignment:
    """Match the anchors of every image with its ground truth, all images at once.

    An anchor learns the box with which its IoU is largest if that IoU is at least ``positive_iou``. In addition each
    box claims the anchor with which *its* IoU is largest, whatever that anchor matched otherwise; the first anchor wins
    a tie, the lower box index a contested anchor, and a box that touches no anchor claims none. An unmatched anchor
    with half its area or more inside a crowd box takes no part in the loss.

    Args:
        anchors: (N, 4) float32 xyxy pixels of the network input; the work is done on their device.
        targets: One per image; boxes in the same frame.
        positive_iou: Smallest IoU of a match, in (0, 1].

    Raises:
        ValueError: If positive_iou does not lie in (0, 1].
    """
    if not 0 < positive_iou <= 1:
        raise ValueError(f"positive_iou must lie in (0, 1], got {positive_iou}")
    boxes = _pad([target.boxes for target in targets], anchors)  # (B, M, 4)
    classes = _pad([target.classes for target in targets], anchors)  # (B, M)

    matched = _match(anchors, boxes, positive_iou)  # (B, N)
    image, anchor = torch.nonzero(matched >= 0, as_tuple=True)
    box = matched[image, anchor]
    crowds = _inside_crowd(anchors, [target.crowd_boxes for target in targets]) & (matched < 0)
    return Assignment(
        positive=image * len(anchors) + anchor,
        classes=classes[image, box],
        boxes=boxes[image, box],
        ignored=torch.nonzero(crowds.flatten()).flatten(),
    )


def _match(anchors: Tensor, boxes: Tensor, positive_iou: float) -> Tensor:
    """Return the index of the box that each anchor learns, or -1: (B, N) int64.

    Padding boxes have no area, hence IoU 0 with every anchor: they match and claim nothing.
    """
    (num_images, num_boxes), num_anchors = boxes.shape[:2], len(anchors)
    matched = boxes.new_full((num_images, num_anchors), -1, dtype=torch.int64)
    if num_boxes == 0 or num_anchors == 0:
        return matched

    best_iou = boxes.new_zeros(num_images, num_boxes)  # of each box, over the anchors seen so far
    best_anchor = torch.zeros_like(best_iou, dtype=torch.int64)
    for chunk in _chunks(num_anchors, num_images * num_boxes):
        iou = iou_matrix(boxes, anchors[chunk])  # (B, M, n)
        anchor_iou, box = iou.max(dim=1)
        matched[:, chunk] = torch.where(anchor_iou >= positive_iou, box, -1)
        box_iou, anchor = iou.max(dim=2)
        better = box_iou > best_iou  # strictly: the first anchor wins a tie
        best_iou = torch.where(better, box_iou, best_iou)
        best_anchor = torch.where(better, anchor + chunk.start, best_anchor)

    order = torch.arange(num_boxes, device=boxes.device).expand_as(best_anchor)
    claims = torch.where(best_iou > 0, order, num_boxes)  # num_boxes: no claim
    claimed = torch.full_like(matched, num_boxes).scatter_reduce(1, best_anchor, claims, "amin")
    return torch.where(claimed < num_boxes, claimed, matched)


def _inside_crowd(anchors: Tensor, crowd_boxes: Sequence[Tensor]) -> Tensor:
    """Return which anchors have half their area or more inside one crowd box: (B, N) bool."""
    crowds = _pad(crowd_boxes, anchors)  # (B, M', 4)
    num_images, num_crowds = crowds.shape[:2]
    inside = crowds.new_zeros(num_images, len(anchors), dtype=torch.bool)
    if num_crowds == 0:
        return inside

    for chunk in _chunks(len(anchors), num_images * num_crowds):
        part = anchors[chunk]
        overlap = intersection_matrix(crowds, part)  # (B, M', n)
        inside[:, chunk] = (2 * overlap >= box_areas(part)).any(dim=1)
    return inside


def _pad(rows: Sequence[Tensor], anchors: Tensor) -> Tensor:
    """Stack tensors of different lengths on the anchors' device, zeros behind the shorter: (B, max M, …)."""
    return torch.nn.utils.rnn.pad_sequence([row.to(anchors.device) for row in rows], batch_first=True)


def _chunks(num_anchors: int, rows: int) -> Iterator[slice]:
    """Cut the anchors into slices whose block of ``rows`` times slice stays within MAX_BLOCK elements."""
    step = max(1, MAX_BLOCK // max(1, rows))
    for start in range(0, num_anchors, step):
        yield slice(start, min(start + step, num_anchors))
