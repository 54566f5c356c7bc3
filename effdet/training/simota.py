"""SimOTA: optimal-transport assignment, simplified to a dynamic number of cheapest anchors for each box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.structures import Predictions, Target
from effdet.training.anchor_layout import AnchorLayout, layout_of
from effdet.training.dense_targets import AnyAssignment
from effdet.training.matching import Choices, FlatPredictions, GroundTruth, Pairs, make_assignment, paired_iou, spread

ROWS = 4096  # anchors that are summed at once; their temporaries then stay in the cache
FACTORS = 100  # classes of a product, each with a factor of at most 2: below the largest float32, 2¹²⁸
OUTSIDE = 1e5  # additional cost of an anchor that is not both inside the box and near its centre


@dataclass(frozen=True)
class SimOta:
    """The assigner of YOLOX (Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2.1, SimOTA).

    The cost of an anchor for a box of class c, with the probabilities p that it predicts and the IoU u of its predicted
    box, is

        cost = Σₖ CE(pₖ, k = c) - iou_weight · ln(u + 1e-8)

    Candidates are anchors whose centre lies inside the box (a side counts as at least the finest stride) or within
    ``radius`` strides of its centre; those for which only one of the two is true cost 10⁵ more. A box chooses the k
    cheapest candidates, where k is the sum of its ``topk`` largest u, rounded down, and at least 1. An anchor that
    several boxes choose learns the one for which it is cheapest. Its target score is u. YOLOX multiplies p by the
    probability of an object, which EfficientDet does not predict.
    """

    topk: int = 10  # IoUs that are added up; no box chooses more anchors
    radius: float = 2.5  # strides of the anchor's level
    iou_weight: float = 3.0

    @torch.no_grad()
    def __call__(
        self, anchors: Tensor, targets: Sequence[Target], predictions: Predictions, *, dense: bool | None = None
    ) -> AnyAssignment:
        """Match the anchors of every image with its ground truth.

        Args:
            anchors: (N, 4) float32 xyxy pixels of the network input, laid out as by ``make_anchors``.
            targets: B, one per image; boxes in the same frame.
            predictions: (B, N, K) logits and (B, N, 4) deltas; no gradient goes through them.
            dense: Result with one entry per anchor instead of short lists; None: on every device but a CPU.
        """
        truth, layout = GroundTruth.of(targets, anchors), layout_of(anchors)
        predicted = FlatPredictions.of(predictions, anchors)
        background, num_flat = _sum_of_softplus(predicted.logits), len(predicted.boxes)  # (B·N,): Σₖ CE(pₖ, 0)
        parts = [self._choices(part, layout, predicted, background) for part in truth.chunks(len(anchors))]
        owner, scores = truth.classes.new_full((num_flat,), len(truth)), predicted.boxes.new_zeros(num_flat)
        if parts:
            flat, cost, chosen = (torch.cat(rows) for rows in zip(*parts, strict=True))  # (R, topk)
            granted, owner = Choices(flat, -cost, chosen).winners(num_flat)
            scores = spread(paired_iou(truth.boxes[:, None], predicted.boxes[flat]), flat, granted, num_flat)
        return make_assignment(anchors, targets, truth, owner, scores, dense=dense)

    def _choices(
        self, truth: GroundTruth, layout: AnchorLayout, predicted: FlatPredictions, background: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return flat index and cost of the cheapest candidates, and whether the box chooses them: (r, topk) each."""
        inside, near = layout.cells_inside(truth.boxes), layout.cells_near(truth.boxes, self.radius)
        pairs = Pairs.of(truth, inside | near, layout.per_cell)
        u = predicted.ious(truth, pairs)  # (P, A)
        cross_entropy = background[pairs.flat] - predicted.logits_of_class(truth, pairs)  # CE(p, 1) = CE(p, 0) - logit
        is_outside = ~(inside & near)[pairs.row, pairs.cell, None]
        cost = cross_entropy - self.iou_weight * (u + 1e-8).log() + OUTSIDE * is_outside

        topk = min(self.topk, len(inside[0]) * layout.per_cell)
        ious = pairs.matrix(u, 0.0).topk(topk, dim=1).values
        count = ious.sum(dim=1).int().clamp(min=1)
        cost, anchor = pairs.matrix(cost, torch.inf).topk(topk, dim=1, largest=False)
        rank = torch.arange(topk, device=cost.device)
        chosen = (rank < count[:, None]) & cost.isfinite()
        return truth.first_anchor[:, None] + anchor, cost, chosen


def _sum_of_softplus(logits: Tensor) -> Tensor:
    """Return Σₖ softplus(xₖ) of (rows, K) logits, (rows,) float32, with an absolute error of about 1e-7 for each class.

    It is computed as Σₖ max(xₖ, 0) + ln Πₖ (1 + exp(-|xₖ|)), with one logarithm for many classes. On a CPU this takes a
    fifth of the time of ``torch.nn.functional.softplus``.
    """
    sums = []
    for part in logits.split(ROWS):
        products = [few.abs().neg_().exp_().add_(1).prod(dim=1) for few in part.float().split(FACTORS, dim=1)]
        sums.append(part.float().clamp(min=0).sum(dim=1) + torch.stack(products).log_().sum(dim=0))
    return torch.cat(sums)
