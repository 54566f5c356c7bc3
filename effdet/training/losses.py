"""Losses of the two heads: focal loss for classes, Huber or an IoU loss for boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from effdet.config import BoxLoss
from effdet.ops.boxes import decode, encode
from effdet.structures import Predictions, Target
from effdet.training.dense_targets import AnyAssignment, DenseAssignment, assign_dense
from effdet.training.focal import at_least_float32, sparse_focal_loss
from effdet.training.targets import assign


def huber_loss(deltas: Tensor, targets: Tensor, *, delta: float = 0.1) -> Tensor:
    """Elementwise ``½e²`` for |e| ≤ δ, ``δ·(|e| - ½δ)`` beyond, e = deltas - targets; not reduced."""
    return F.huber_loss(deltas, targets, reduction="none", delta=delta)


def iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """``1 - IoU`` of paired boxes (P, 4) xyxy, not reduced: (P,). Boxes that do not touch have no gradient."""
    overlap = torch.minimum(boxes[:, 2:], targets[:, 2:]) - torch.maximum(boxes[:, :2], targets[:, :2])
    intersection = overlap.clamp(min=0).prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (targets[:, 2:] - targets[:, :2]).prod(dim=1)
    return 1 - intersection / (areas - intersection).clamp(min=1e-7)


IOU_LOSSES: dict[BoxLoss, Callable[[Tensor, Tensor], Tensor]] = {
    BoxLoss.iou: iou_loss,
    BoxLoss.giou: generalized_box_iou_loss,
    BoxLoss.diou: distance_box_iou_loss,
    BoxLoss.ciou: complete_box_iou_loss,
}
BOX_WEIGHTS = {BoxLoss.huber: 50.0} | dict.fromkeys(IOU_LOSSES, 5.0)


class DetectionLoss:
    """The training loss of a batch, as {"class_loss": (), "box_loss": ()}; their sum is what to minimise.

        class_loss = Σ focal / N        box_loss = box_weight · Σ huber / (4N)   or   box_weight · Σ (1 - IoU) / N

    N is the number of positive anchors in the batch plus one. The class sum is over all classes of all anchors that are
    not ignored, the box sum over positive anchors. The computation is in float32 under any autocast. In a batch without
    boxes both losses are finite and differentiable.

    Args:
        alpha: Focal weight of positive entries.
        gamma: Focal exponent.
        label_smoothing: See ``focal_loss``.
        box_loss: "huber" on deltas, or "iou", "giou", "diou", "ciou" on decoded boxes.
        huber_delta: Error above which the Huber loss is linear, in units of the deltas.
        box_weight: Weight of the box loss; None: 50 for huber, 5 for the others.
        positive_iou: See ``assign``.
        mask_zero_targets: Leave out elements of the Huber loss whose target is exactly 0. The projects of the published
            models do so, because they recognise positive anchors by targets other than 0. Off by default, because an
            anchor then learns nothing from a box that is equal to it.
        fused: See ``sparse_focal_loss``.

    Raises:
        ValueError: If there is no such box loss, or ``mask_zero_targets`` is set with a loss other than "huber".
    """

    def __init__(
        self,
        *,
        alpha: float = 0.25,
        gamma: float = 1.5,
        label_smoothing: float = 0.0,
        box_loss: BoxLoss | str = BoxLoss.huber,
        huber_delta: float = 0.1,
        box_weight: float | None = None,
        positive_iou: float = 0.5,
        mask_zero_targets: bool = False,
        fused: bool = False,
    ) -> None:
        if box_loss not in list(BoxLoss):
            raise ValueError(f"box_loss must be one of {', '.join(kind.value for kind in BoxLoss)}; got '{box_loss}'")
        if mask_zero_targets and box_loss != BoxLoss.huber:
            raise ValueError(f"mask_zero_targets needs box_loss 'huber', whose targets it masks; got '{box_loss}'")
        self.alpha, self.gamma, self.label_smoothing = alpha, gamma, label_smoothing
        self.box_loss, self.huber_delta = BoxLoss(box_loss), huber_delta
        self.box_weight = BOX_WEIGHTS[self.box_loss] if box_weight is None else box_weight
        self.positive_iou = positive_iou
        self.mask_zero_targets = mask_zero_targets
        self.fused = fused

    def assign(self, anchors: Tensor, targets: Sequence[Target]) -> AnyAssignment:
        """Return which anchor learns which box: as short lists on a CPU, for every anchor on other devices.

        Args:
            anchors: (N, 4) float32 xyxy pixels of the network input.
            targets: B, one per image.
        """
        method = assign if anchors.device.type == "cpu" else assign_dense
        return method(anchors, targets, positive_iou=self.positive_iou)

    def __call__(
        self,
        predictions: Predictions,
        anchors: Tensor,
        targets: Sequence[Target],
        *,
        assignment: AnyAssignment | None = None,
        normaliser: Tensor | float | None = None,
    ) -> dict[str, Tensor]:
        """Return both losses, weighted and normalised.

        Args:
            predictions: (B, N, K) logits and (B, N, 4) deltas of any floating type.
            anchors: (N, 4) float32 xyxy pixels of the network input.
            targets: B, one per image.
            assignment: Result of ``self.assign(anchors, targets)``, if it was computed before.
            normaliser: N, if it counts more than this batch (all micro-batches and processes).

        Raises:
            ValueError: If the number of images or anchors differs between the arguments.
        """
        num_images, num_anchors = predictions.class_logits.shape[:2]
        if (num_images, num_anchors) != (len(targets), len(anchors)):
            raise ValueError(
                f"predictions must have one image per target and one row per anchor: "
                f"got {num_images} images × {num_anchors} rows for {len(targets)} targets and {len(anchors)} anchors"
            )
        with torch.autocast(predictions.class_logits.device.type, enabled=False):
            if assignment is None:
                assignment = self.assign(anchors, targets)
            if normaliser is None:
                normaliser = assignment.num_positives + 1
            class_loss = sparse_focal_loss(
                predictions.class_logits.flatten(0, 1),  # (B, N, K) → (B·N, K)
                assignment,
                alpha=self.alpha,
                gamma=self.gamma,
                label_smoothing=self.label_smoothing,
                scale=1 / normaliser,
                fused=self.fused,
            )
            box_sum = self._box_sum(predictions.box_deltas, anchors, assignment)
            return {"class_loss": class_loss, "box_loss": self.box_weight * box_sum / normaliser}

    def _box_sum(self, box_deltas: Tensor, anchors: Tensor, assignment: AnyAssignment) -> Tensor:
        deltas = box_deltas.flatten(0, 1)  # (B, N, 4) → (B·N, 4)
        if isinstance(assignment, DenseAssignment):
            positive = assignment.is_positive[:, None]
            deltas = torch.where(positive, deltas, 0)  # deltas of other anchors may be huge or NaN
            matched = anchors.repeat(len(box_deltas), 1)
            return (self._box_losses(at_least_float32(deltas), matched, assignment.boxes) * positive).sum()
        deltas = at_least_float32(deltas[assignment.positive])  # (P, 4)
        matched = anchors[assignment.positive % len(anchors)]
        return self._box_losses(deltas, matched, assignment.boxes).sum()

    def _box_losses(self, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Return the losses of (P, 4) deltas, to be summed: (P, 4) for Huber, (P, 1) for the others."""
        if self.box_loss is not BoxLoss.huber:
            return IOU_LOSSES[self.box_loss](decode(deltas, anchors), boxes)[:, None]
        targets = encode(boxes, anchors).to(deltas.dtype)
        losses = huber_loss(deltas, targets, delta=self.huber_delta) / 4
        return losses * (targets != 0) if self.mask_zero_targets else losses
