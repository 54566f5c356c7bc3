"""Task-aligned assignment: an anchor learns a box if it already predicts class and place of it well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from effdet.structures import Predictions, Target
from effdet.training.anchor_layout import AnchorLayout, layout_of
from effdet.training.dense_targets import AnyAssignment
from effdet.training.matching import Choices, FlatPredictions, GroundTruth, Pairs, make_assignment, paired_iou, spread


@dataclass(frozen=True)
class TaskAligned:
    """The assigner of TOOD (Feng et al., "Task-aligned One-stage Object Detection", 2021, section 3.2).

    With the score s of the box's class and the IoU u of the predicted box, the alignment of an anchor with a box is

        t = s^α · u^β

    Each box chooses the ``topk`` anchors with the largest t > 0 among those whose centre lies inside it (a side counts
    as at least the finest stride). An anchor that several boxes choose learns the one with the largest u. The target
    score of an anchor is t · max(u) / max(t), with both maxima over the anchors that learn the same box.
    """

    topk: int = 13  # anchors that a box chooses
    alpha: float = 1.0  # exponent of the score
    beta: float = 6.0  # exponent of the IoU

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
        num_flat = len(predicted.boxes)

        alignment = [truth.boxes.new_zeros(0, min(self.topk, len(anchors)))]
        flats = [truth.first_anchor.new_zeros(alignment[0].shape)]
        for part in truth.chunks(len(anchors)):
            values, anchor = self._alignment(part, layout, predicted).topk(alignment[0].shape[1], dim=1)
            flats.append(part.first_anchor[:, None] + anchor)
            alignment.append(values)
        flat, t = torch.cat(flats), torch.cat(alignment)  # (R, topk)
        u = paired_iou(truth.boxes[:, None], predicted.boxes[flat])
        granted, owner = Choices(flat, u, t > 0).winners(num_flat)
        scores = spread(_normalised(t, u, granted), flat, granted, num_flat)
        return make_assignment(anchors, targets, truth, owner, scores, dense=dense)

    def _alignment(self, truth: GroundTruth, layout: AnchorLayout, predicted: FlatPredictions) -> Tensor:
        """Return t of each box with each anchor of its image, 0 for centres outside: (r, N)."""
        pairs = Pairs.of(truth, layout.cells_inside(truth.boxes), layout.per_cell)
        s, u = predicted.logits_of_class(truth, pairs).sigmoid(), predicted.ious(truth, pairs)
        return pairs.matrix(s**self.alpha * u**self.beta, 0.0)


def _normalised(t: Tensor, u: Tensor, granted: Tensor) -> Tensor:
    """Return the target scores t · max(u) / max(t) of granted choices, 0 of others: (R, topk)."""
    t, u = torch.where(granted, t, 0), torch.where(granted, u, 0)
    if not t.numel():
        return t
    largest = t.amax(dim=1, keepdim=True)
    return torch.where(largest > 0, t / largest, 0) * u.amax(dim=1, keepdim=True)
