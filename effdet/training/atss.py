"""Adaptive training sample selection: each box finds its own IoU threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.structures import Target
from effdet.training.anchor_layout import AnchorLayout, layout_of
from effdet.training.dense_targets import AnyAssignment
from effdet.training.matching import Choices, GroundTruth, make_assignment, paired_iou


@dataclass(frozen=True)
class Atss:
    """The assigner of ATSS (Zhang et al., "Bridging the Gap …", 2020, algorithm 1).

    Candidates of a box are, on each level, the anchors of the ``topk`` cells whose centres are nearest to its centre.
    Its threshold is the mean of the candidates' IoUs with the box plus their standard deviation. It chooses the
    candidates whose IoU reaches the threshold and whose centre lies inside it (a side counts as at least the finest
    stride). An anchor that several boxes choose learns the one with the largest IoU.
    """

    topk: int = 9  # cells of each level

    @torch.no_grad()
    def __call__(self, anchors: Tensor, targets: Sequence[Target], *, dense: bool | None = None) -> AnyAssignment:
        """Match the anchors of every image with its ground truth.

        Args:
            anchors: (N, 4) float32 xyxy pixels of the network input, laid out as by ``make_anchors``.
            targets: B, one per image; boxes in the same frame.
            dense: Result with one entry per anchor instead of short lists; None: on every device but a CPU.
        """
        truth, layout = GroundTruth.of(targets, anchors), layout_of(anchors)
        parts = [self._candidates(part, layout, anchors) for part in truth.chunks(len(anchors))]
        num_flat = len(anchors) * len(targets)
        owner = truth.classes.new_full((num_flat,), len(truth))
        if parts:
            flat, iou, chosen = (torch.cat(rows) for rows in zip(*parts, strict=True))
            _, owner = Choices(flat, iou, chosen).winners(num_flat)
        return make_assignment(anchors, targets, truth, owner, None, dense=dense)

    def _candidates(self, truth: GroundTruth, layout: AnchorLayout, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return flat index and IoU of the candidates, and whether the box chooses them: (r, candidates) each."""
        cell = self._nearest_cells(truth.boxes, layout)  # (r, L·topk)
        member = torch.arange(layout.per_cell, device=cell.device)
        anchor = (cell[..., None] * layout.per_cell + member).flatten(1)  # (r, L·topk·A)
        iou = paired_iou(truth.boxes[:, None], anchors[anchor])
        inside = layout.cells_inside(truth.boxes).gather(1, cell).repeat_interleave(layout.per_cell, dim=1)
        deviation, mean = torch.std_mean(iou, dim=1, keepdim=True, correction=min(1, iou.shape[1] - 1))
        chosen = inside & (iou >= mean + deviation) & (iou > 0)
        return truth.first_anchor[:, None] + anchor, iou, chosen

    def _nearest_cells(self, boxes: Tensor, layout: AnchorLayout) -> Tensor:
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        distance = torch.cdist(middle, layout.centres, compute_mode="donot_use_mm_for_euclid_dist")  # (r, cells)
        nearest = []
        for level in layout.levels:
            count = min(self.topk, level.stop - level.start)
            nearest.append(distance[:, level].topk(count, dim=1, largest=False).indices + level.start)
        return torch.cat(nearest, dim=1)
