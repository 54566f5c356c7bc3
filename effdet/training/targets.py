"""Which anchor learns which ground-truth box: targets of a whole batch, in sparse form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.ops.boxes import box_areas, intersection_matrix, iou_matrix
from effdet.structures import Target

MAX_BLOCK = 2**22  # largest number of IoUs in a chunk of boxes; about ten tensors of that size may exist at once
GROUP = 36  # neighbouring anchors that share one bound: those of four cells in the published models
SLACK = 1e-5  # more than rounding can raise an IoU above its bound


@dataclass(frozen=True)
class Assignment:
    """The anchors of a batch that are not plain background.

    Anchor n of image b has the flat index b·N + n. Every anchor that is neither positive nor ignored is background.
    """

    positive: Tensor  # (P,) int64 flat indices, ascending
    classes: Tensor  # (P,) int64 in [0, K)
    boxes: Tensor  # (P, 4) float32 xyxy, the matched ground truth
    ignored: Tensor  # (I,) int64 flat indices, ascending, disjoint from positive
    scores: Tensor | None = None  # (P,) float32 in [0, 1], the score that each positive anchor learns; None: 1

    @property
    def num_positives(self) -> int:
        """Number of positive anchors P in the batch."""
        return len(self.positive)

    @property
    def total_score(self) -> Tensor | int:
        """Sum of the scores that positive anchors learn, () float32; P where all learn 1."""
        return self.num_positives if self.scores is None else self.scores.sum()


def assign(anchors: Tensor, targets: Sequence[Target], *, positive_iou: float = 0.5) -> Assignment:
    """Match the anchors of every image with its ground truth, all images at once.

    An anchor learns the box with which its IoU is largest, if that IoU is at least ``positive_iou``. In addition, each
    box claims the anchor with which *its* IoU is largest, even if that anchor matches another box. If several anchors
    have the same IoU, the box claims the first. If several boxes claim an anchor, the lowest index wins. A box that
    overlaps no anchor claims none. An unmatched anchor with half its area or more inside a crowd box is ignored by the
    loss.

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
    positive, box = _match(anchors, boxes, image * len(anchors), positive_iou)
    return Assignment(
        positive=positive,
        classes=classes[box],
        boxes=boxes[box],
        ignored=inside_crowd(anchors, [target.crowd_boxes for target in targets], positive),
    )


def check_positive_iou(positive_iou: float) -> None:
    """Raise ``ValueError`` unless the smallest IoU of a match lies in (0, 1]."""
    if not 0 < positive_iou <= 1:
        raise ValueError(f"positive_iou must lie in (0, 1], got {positive_iou}")


def _match(anchors: Tensor, boxes: Tensor, offsets: Tensor, positive_iou: float) -> tuple[Tensor, Tensor]:
    """Return the anchors that learn a box and the box that each learns.

    Args:
        anchors: (N, 4) xyxy.
        boxes: (R, 4) xyxy, image by image.
        offsets: (R,) int64, flat index of the first anchor of each box's image.
        positive_iou: Smallest IoU of a match.

    Returns:
        (P,) int64 flat indices, ascending and different, and (P,) int64 rows of ``boxes``.
    """
    if len(boxes) == 0 or len(anchors) == 0:
        return offsets[:0], offsets[:0]
    box, anchor, iou, claims = _pairs(anchors, boxes, positive_iou)
    flat = offsets[box] + anchor.clamp(max=len(anchors) - 1)
    priority = torch.where(claims, 2.0, iou)  # larger than every IoU
    # Pairs are ordered by box. The sort is stable, so that the lower box index wins.
    order = priority.argsort(descending=True, stable=True)
    order = order[flat[order].argsort(stable=True)]
    order = order[_first_of_run(flat[order])]
    return flat[order], box[order]


def _pairs(anchors: Tensor, boxes: Tensor, positive_iou: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return every pair whose IoU reaches ``positive_iou`` or that is the claim of a box: box, anchor, IoU, is_claim.

    Each is (E,), ordered by box, then anchor. Anchor indices ≥ N may occur; they mean the last anchor.
    """
    groups = _Groups.of(anchors)
    found = []
    for rows in _chunks(len(boxes), len(anchors)):
        box, *rest = groups.pairs(boxes[rows], positive_iou)
        found.append((box + rows.start, *rest))
    box, anchor, iou, claims = (torch.cat(parts) for parts in zip(*found, strict=True))
    return box, anchor, iou, claims


@dataclass(frozen=True)
class _Groups:
    """Anchors in groups of neighbours, with the values that bound the IoU of a box with the anchors of a group."""

    anchors: Tensor  # (G, GROUP, 4) xyxy; the last anchor is repeated to fill the last group
    hulls: Tensor  # (G, 4) xyxy around each group
    smallest: Tensor  # (G,) area of the smallest anchor of each group
    largest: Tensor  # (G,) area of the largest

    @classmethod
    def of(cls, anchors: Tensor) -> _Groups:
        """Group (N, 4) anchors in their order."""
        missing = -len(anchors) % GROUP
        grouped = torch.cat([anchors, anchors[-1:].expand(missing, 4)]).view(-1, GROUP, 4)
        members = grouped.permute(1, 2, 0).contiguous()  # (GROUP, 4, G): reducing the first axis is fast
        areas = box_areas(members.transpose(1, 2))
        hulls = torch.cat([members[:, :2].amin(dim=0), members[:, 2:].amax(dim=0)]).t()
        return cls(grouped, hulls, areas.amin(dim=0), areas.amax(dim=0))

    def pairs(self, boxes: Tensor, positive_iou: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Do what ``_pairs`` describes for (R, 4) boxes; IoUs are computed only for groups with a high enough bound."""
        bounds = self._bounds(boxes)  # (R, G)
        reached = self._ious(boxes, bounds.argmax(dim=1)).amax(dim=1)  # (R,): the best IoU is no smaller
        needed = reached.clamp(max=positive_iou) * (1 - SLACK)
        box, group = torch.nonzero((bounds >= needed[:, None]) & (bounds > 0), as_tuple=True)  # (C,)
        ious = self._ious(boxes[box], group)  # (C, GROUP)

        best = ious.new_zeros(len(boxes)).scatter_reduce(0, box, ious.amax(dim=1), "amax")[box]  # (C,)
        row, column = torch.nonzero((ious > 0) & (ious >= best.clamp(max=positive_iou)[:, None]), as_tuple=True)
        box, anchor, iou = box[row], group[row] * GROUP + column, ious[row, column]
        claims = iou == best[row]
        claims[claims.clone()] = _first_of_run(box[claims])  # the first anchor wins a tie
        kept = claims | (iou >= positive_iou)
        return box[kept], anchor[kept], iou[kept], claims[kept]

    def _bounds(self, boxes: Tensor) -> Tensor:
        """Return an upper bound of the IoU of each of (R, 4) boxes with the anchors of each group: (R, G).

        With the intersection at most i and the anchor's area at least a, the union is at least max(A + a - i, A).
        """
        areas = box_areas(boxes)[:, None]
        overlap = torch.minimum(intersection_matrix(boxes, self.hulls), self.largest)
        return overlap / torch.maximum(areas + self.smallest - overlap, areas)

    def _ious(self, boxes: Tensor, group: Tensor) -> Tensor:
        """Return the IoU of each of (C, 4) boxes with the anchors of its group: (C, GROUP)."""
        return iou_matrix(boxes[:, None], self.anchors[group]).squeeze(1)


def _first_of_run(values: Tensor) -> Tensor:
    """Return which of the sorted values (E,) differ from the value before: (E,) bool."""
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    return first


def inside_crowd(anchors: Tensor, crowd_boxes: Sequence[Tensor], positive: Tensor) -> Tensor:
    """Return the flat indices of anchors with half their area or more inside one crowd box: (I,) int64.

    Anchors of ``positive``, flat indices, are left out.
    """
    if not any(len(crowds) for crowds in crowd_boxes):
        return positive[:0]
    areas = box_areas(anchors)
    inside = torch.zeros(len(crowd_boxes), len(anchors), dtype=torch.bool, device=anchors.device)
    for image, crowds in enumerate(crowd_boxes):
        for crowd in crowds.to(anchors.device):
            inside[image] |= 2 * intersection_matrix(crowd[None], anchors)[0] >= areas
    inside = inside.flatten()
    inside[positive] = False
    return torch.nonzero(inside).flatten()


def join_rows(rows: Sequence[Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of all images on the anchors' device, (R, …), and the image of each, (R,) int64."""
    counts = torch.tensor([len(part) for part in rows], dtype=torch.int64)
    image = torch.arange(len(rows)).repeat_interleave(counts)
    joined = torch.cat(list(rows)).to(anchors.device, non_blocking=True)  # one copy for all images
    return joined, image.to(anchors.device, non_blocking=True)


def _chunks(num_boxes: int, num_anchors: int) -> Iterator[slice]:
    """Divide the boxes into slices of one or more boxes with at most MAX_BLOCK pairs of box and anchor."""
    step = max(1, MAX_BLOCK // max(1, num_anchors))
    for start in range(0, num_boxes, step):
        yield slice(start, min(start + step, num_boxes))
