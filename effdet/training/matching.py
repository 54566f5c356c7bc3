"""What the assigners by candidates share: the boxes of a batch, contested anchors, and the result.

Each box chooses a few anchors. If several boxes choose an anchor, one of them gets it. All sizes follow from the
numbers of images, anchors and boxes, so the host never waits for a device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.ops.boxes import box_areas, decode
from effdet.structures import Predictions, Target
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
    priority: Tensor  # (R, k) float32; the box with the largest one gets a contested anchor, in a tie the first box
    chosen: Tensor  # (R, k) bool; False: the place is empty

    def winners(self, num_flat: int) -> tuple[Tensor, Tensor]:
        """Return which choices are granted, (R, k) bool, and which box each anchor learns, (num_flat,); R: none."""
        num_boxes = len(self.flat)
        rows = torch.arange(num_boxes, device=self.flat.device)[:, None].expand_as(self.flat)
        nowhere = num_flat  # one place more takes what is not granted
        place = torch.where(self.chosen, self.flat, nowhere).flatten()
        best = self.priority.new_full((num_flat + 1,), -torch.inf)
        best = best.scatter_reduce(0, place, self.priority.flatten(), "amax")
        highest = self.chosen & (self.priority == best[self.flat])
        place = torch.where(highest, self.flat, nowhere).flatten()
        owner = torch.full((num_flat + 1,), num_boxes, dtype=torch.int64, device=self.flat.device)
        owner = owner.scatter_reduce(0, place, rows.flatten(), "amin")
        return highest & (owner[self.flat] == rows), owner[:-1]


def spread(values: Tensor, flat: Tensor, granted: Tensor, num_flat: int) -> Tensor:
    """Return (R, k) values of granted choices as one for each anchor, (num_flat,); 0 where there is none."""
    spread = values.new_zeros(num_flat + 1)  # the last place takes what is not granted
    spread[torch.where(granted, flat, num_flat)] = values
    return spread[:-1]


@dataclass(frozen=True)
class Pairs:
    """Boxes of a part of a batch with the cells near them: on a CPU the wanted pairs, on other devices all."""

    row: Tensor  # (P,) int64 boxes of the part
    cell: Tensor  # (P,) int64
    flat: Tensor  # (P, A) int64 flat indices of the cell's anchors
    wanted: Tensor  # (r, cells) bool

    @classmethod
    def of(cls, truth: GroundTruth, wanted: Tensor, per_cell: int) -> Pairs:
        """Return the pairs of the r boxes of a part with the (r, cells) cells that each of them wants."""
        row, cell = _places(wanted)
        member = torch.arange(per_cell, device=cell.device)
        return cls(row, cell, truth.first_anchor[row, None] + cell[:, None] * per_cell + member, wanted)

    def matrix(self, values: Tensor, fill: float) -> Tensor:
        """Return (P, A) values as (r, N) with one column for each anchor; ``fill`` where a pair is not wanted."""
        per_cell = values.shape[1]
        values = torch.where(self.wanted[self.row, self.cell, None], values, fill)
        full = values.new_full((*self.wanted.shape, per_cell), fill)
        full[self.row, self.cell] = values
        return full.flatten(1)


@dataclass(frozen=True)
class FlatPredictions:
    """What the network predicts for every anchor of a batch, by flat index."""

    boxes: Tensor  # (B·N, 4) float32 xyxy
    logits: Tensor  # (B·N, K)

    @classmethod
    def of(cls, predictions: Predictions, anchors: Tensor) -> FlatPredictions:
        """Join the predictions of all images, and decode their boxes from the (N, 4) anchors."""
        boxes = decode(predictions.box_deltas.float(), anchors)  # (B, N, 4)
        return cls(boxes.flatten(0, 1), predictions.class_logits.flatten(0, 1))

    def ious(self, truth: GroundTruth, pairs: Pairs) -> Tensor:
        """Return the IoU of the box of each pair with those that the cell's anchors predict: (P, A)."""
        return paired_iou(truth.boxes[pairs.row, None], self.boxes[pairs.flat])

    def logits_of_class(self, truth: GroundTruth, pairs: Pairs) -> Tensor:
        """Return the logits that the cell's anchors predict for the class of each pair's box: (P, A) float32."""
        return self.logits[pairs.flat, truth.classes[pairs.row, None]].float()


def _places(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of the true places of (r, cells), or of all places on another device than a CPU."""
    if wanted.device.type == "cpu":
        row, cell = wanted.nonzero(as_tuple=True)
        return row, cell
    rows, cells = (torch.arange(size, device=wanted.device) for size in wanted.shape)
    return rows.repeat_interleave(len(cells), output_size=wanted.numel()), cells.repeat(len(rows))


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
