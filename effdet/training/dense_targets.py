"""Targets of a whole batch with one entry per anchor, computed without waiting for the device.

``targets.assign`` returns lists of the few anchors that learn a box. The host knows their lengths only after the device
has computed them, so on a GPU it would have to wait for each list. Here the size of every tensor follows from the
numbers of images, anchors and boxes. The result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from effdet.ops.boxes import box_areas, intersection_matrix, iou_matrix
from effdet.structures import Target
from effdet.training.targets import Assignment, check_positive_iou, join_rows

MAX_BLOCK = 2**26  # IoUs that are held at once


@dataclass(frozen=True)
class DenseAssignment:
    """What each anchor of a batch learns; anchor n of image b has the index b·N + n."""

    is_positive: Tensor  # (B·N,) bool
    classes: Tensor  # (B·N,) int64 in [0, K); 0 where the anchor is not positive
    boxes: Tensor  # (B·N, 4) float32 xyxy, the matched ground truth; the anchor itself where it is not positive
    is_ignored: Tensor | None  # (B·N,) bool, never true where is_positive is; None: the batch has no crowd box
    scores: Tensor | None = None  # (B·N,) float32 in [0, 1], 0 where not positive; None: positive anchors learn 1

    @property
    def num_positives(self) -> Tensor:
        """Number of positive anchors in the batch, () int64 on the device."""
        return self.is_positive.sum()

    @property
    def total_score(self) -> Tensor:
        """Sum of the scores that positive anchors learn, () on the device: float32, or int64 where all learn 1."""
        return self.num_positives if self.scores is None else self.scores.sum()


AnyAssignment: TypeAlias = Assignment | DenseAssignment


def assign_dense(anchors: Tensor, targets: Sequence[Target], *, positive_iou: float = 0.5) -> DenseAssignment:
    """Match the anchors of every image with its ground truth by the rules of ``targets.assign``.

    Args:
        anchors: (N, 4) float32 xyxy pixels of the network input; the computation runs on their device.
        targets: One per image; boxes in the same frame.
        positive_iou: Smallest IoU of a match, in (0, 1].

    Raises:
        ValueError: If positive_iou does not lie in (0, 1].
    """
    check_positive_iou(positive_iou)
    boxes, image = join_rows([target.boxes for target in targets], anchors)
    classes, _ = join_rows([target.classes for target in targets], anchors)
    crowds, crowd_image = join_rows([target.crowd_boxes for target in targets], anchors)

    learned = anchors.repeat(len(targets), 1)  # (B·N, 4)
    is_positive = torch.zeros(len(learned), dtype=torch.bool, device=anchors.device)
    learned_classes = torch.zeros(len(learned), dtype=torch.int64, device=anchors.device)
    if len(boxes) and len(anchors):
        is_positive, row = _match(anchors, boxes, image, len(targets), positive_iou)
        learned = torch.where(is_positive[:, None], boxes[row], learned)
        learned_classes = torch.where(is_positive, classes[row], 0)
    is_ignored = inside_crowd(anchors, crowds, crowd_image, len(targets)) & ~is_positive if len(crowds) else None
    return DenseAssignment(is_positive=is_positive, classes=learned_classes, boxes=learned, is_ignored=is_ignored)


def _match(
    anchors: Tensor, boxes: Tensor, image: Tensor, num_images: int, positive_iou: float
) -> tuple[Tensor, Tensor]:
    """Return which anchors learn a box, (B·N,) bool, and its row in ``boxes`` (R, 4), (B·N,) int64."""
    num_boxes, num_anchors = len(boxes), len(anchors)
    best = torch.full((num_images, num_anchors), -1, dtype=torch.int64, device=anchors.device)
    claimed = torch.full((num_images * num_anchors + 1,), num_boxes, dtype=torch.int64, device=anchors.device)
    column = torch.arange(num_anchors, device=anchors.device)
    step = max(1, MAX_BLOCK // num_anchors)
    for start in range(0, num_boxes, step):
        rows = torch.arange(start, min(start + step, num_boxes), device=anchors.device)
        ious = iou_matrix(boxes[start : start + step], anchors)  # (r, N)
        # The bits of a float that is not negative sort like the float. Below them comes the row, the lower one first.
        keys = (ious.view(torch.int32).long() << 32) + (num_boxes - 1 - rows)[:, None]
        best.scatter_reduce_(0, image[start : start + step, None].expand_as(keys), keys, "amax")

        largest = ious.amax(dim=1)  # (r,)
        first = torch.where(ious == largest[:, None], column, num_anchors).amin(dim=1).clamp(max=num_anchors - 1)
        place = image[start : start + step] * num_anchors + first
        place = torch.where(largest > 0, place, num_images * num_anchors)  # a box that touches no anchor claims none
        claimed.scatter_reduce_(0, place, rows, "amin")

    best, claimed = best.flatten(), claimed[:-1]
    iou = (best >> 32).int().view(torch.float32)
    by_iou = (best >= 0) & (iou >= positive_iou)
    is_claimed = claimed < num_boxes
    row = torch.where(is_claimed, claimed, num_boxes - 1 - (best & 0xFFFFFFFF))
    return by_iou | is_claimed, row.clamp(0, num_boxes - 1)


def inside_crowd(anchors: Tensor, crowds: Tensor, image: Tensor, num_images: int) -> Tensor:
    """Return which anchors have half their area or more inside one crowd box of their image: (B·N,) bool."""
    areas = box_areas(anchors)
    inside = torch.zeros(num_images, len(anchors), dtype=torch.uint8, device=anchors.device)
    step = max(1, MAX_BLOCK // max(1, len(anchors)))
    for start in range(0, len(crowds), step):
        covered = (2 * intersection_matrix(crowds[start : start + step], anchors) >= areas).to(torch.uint8)
        inside.scatter_reduce_(0, image[start : start + step, None].expand_as(covered), covered, "amax")
    return inside.flatten().bool()
