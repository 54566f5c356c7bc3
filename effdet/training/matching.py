"""What the assigners by candidates share: the boxes of a batch, contested anchors, and the result.

Each box chooses a few anchors. If several boxes choose an anchor, one of them gets it. All sizes follow from the
numbers of images, anchors and boxes, so the host never waits for a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.ops.boxes import box_areas
from effdet.structures import Target
from effdet.training.dense_targets import AnyAssignment, DenseAssignment
from effdet.training.dense_targets import inside_crowd as inside_crowd_dense
from effdet.training.targets import Assignment, inside_crowd, join_rows

MAX_PAIRS = 2**21  # pairs of box and anchor that are held at once on a CPU; about twenty numbers for each
DEVICE_MAX_PAIRS = 2**24  # the same on other devices


@dataclass(frozen=True)
class GroundTruth:
    """Boxes of a whole batch, image by image."""

    boxes: Tensor  # (R, 4) float32 xyxy
    classes: Tensor  # (R,) int64
    first_anchor: Tensor  # (R,) int64, flat index of the first anchor of the box's image

    @classmethod
    def of(cls, targets: Sequence[Target], anchors: Tensor) -> GroundTruth:
        """Join the targets of all images, on the device of the anchors."""
        boxes, image = join_rows([target.boxes for target in targets], anchors)
        classes, _ = join_rows([target.classes for target in targets], anchors)
        return cls(boxes, classes, image * len(anchors))

    def __len__(self) -> int:
        return len(self.boxes)

    def chunks(self, num_anchors: int) -> Iterator[GroundTruth]:
        """Yield the boxes in parts of one or more, with a bounded number of pairs of box and anchor."""
        pairs = MAX_PAIRS if self.boxes.device.type == "cpu" else DEVICE_MAX_PAIRS
        step = max(1, pairs // max(1, num_anchors))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            yield GroundTruth(self.boxes[part], self.classes[part], self.first_anchor[part])


@dataclass(frozen=True)
class Choices:
    """Anchors that each box of a batch chose, by flat index."""

    flat: Tensor  # (R, k) int64
    priority: Tensor  # (R, k) float32 ≥ 0; the box with the largest one gets a contested anchor, in a tie the first box
    chosen: Tensor  # (R, k) bool; False: the place is empty

    def winners(self, num_flat: int) -> tuple[Tensor, Tensor]:
        """Return which choices are granted, (R, k) bool, and which box each anchor learns, (num_flat,); R: none."""
        num_boxes = len(self.flat)
        rows = torch.arange(num_boxes, device=self.flat.device)[:, None].expand_as(self.flat)
        nowhere = num_flat  # one place more takes what is not granted
        place = torch.where(self.chosen, self.flat, nowhere).flatten()
        best = self.priority.new_full((num_flat + 1,), -1.0)
        best = best.scatter_reduce(0, place, self.priority.flatten(), "amax")
        highest = self.chosen & (self.priority == best[self.flat])
        place = torch.where(highest, self.flat, nowhere).flatten()
        owner = torch.full((num_flat + 1,), num_boxes, dtype=torch.int64, device=self.flat.device)
        owner = owner.scatter_reduce(0, place, rows.flatten(), "amin")
        return highest & (owner[self.flat] == rows), owner[:-1]


def no_choices(truth: GroundTruth, num_places: int) -> tuple[Tensor, Tensor]:
    """Return empty (0, num_places) flat indices, int64, and values, float32: the start of lists of parts."""
    return truth.first_anchor.new_zeros(0, num_places), truth.boxes.new_zeros(0, num_places)


def pairs_of(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return box and cell of the pairs to look at, (P,) each: on a CPU the true ones of (r, cells), elsewhere all."""
    if inside.device.type == "cpu":
        return inside.nonzero(as_tuple=True)  # type: ignore[return-value]
    rows, cells = (torch.arange(size, device=inside.device) for size in inside.shape)
    return rows.repeat_interleave(len(cells), output_size=inside.numel()), cells.repeat(len(rows))


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of boxes (..., 4) and (..., 4) xyxy that broadcast against each other: (...,) in [0, 1]."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = box_areas(a) + box_areas(b) - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def make_assignment(
    anchors: Tensor,
    targets: Sequence[Target],
    truth: GroundTruth,
    owner: Tensor,
    scores: Tensor | None,
    *,
    dense: bool | None = None,
) -> AnyAssignment:
    """Return the assignment in which each anchor learns the box of ``owner``; anchors in crowds are ignored.

    Args:
        anchors: (N, 4) xyxy.
        targets: B, one per image.
        truth: Their R boxes.
        owner: (B·N,) int64 rows of ``truth``; R: the anchor is background.
        scores: (B·N,) float32 target scores, or None.
        dense: One entry for each anchor instead of short lists; None: on every device but a CPU.
    """
    if dense is None:
        dense = anchors.device.type != "cpu"
    if not dense:
        positive = (owner < len(truth)).nonzero().flatten()
        rows = owner[positive]
        ignored = inside_crowd(anchors, [target.crowd_boxes for target in targets], positive)
        chosen = None if scores is None else scores[positive]
        return Assignment(positive, truth.classes[rows], truth.boxes[rows], ignored, chosen)
    is_positive = owner < len(truth)
    boxes, classes = anchors.repeat(len(targets), 1), torch.zeros_like(owner)
    if len(truth):
        row = owner.clamp(max=len(truth) - 1)
        boxes = torch.where(is_positive[:, None], truth.boxes[row], boxes)
        classes = torch.where(is_positive, truth.classes[row], 0)
    crowds, image = join_rows([target.crowd_boxes for target in targets], anchors)
    is_ignored = inside_crowd_dense(anchors, crowds, image, len(targets)) & ~is_positive if len(crowds) else None
    return DenseAssignment(is_positive, classes, boxes, is_ignored, scores)
