"""Losses of the two heads: one of the focal family for classes, Huber or an IoU loss for boxes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from effdet.config import Assigner, BoxLoss, ClassLoss
from effdet.ops.boxes import decode, encode
from effdet.structures import Predictions, Target
from effdet.training.atss import Atss
from effdet.training.box_losses import ciou_loss, diou_loss, giou_loss, huber_loss, iou_loss
from effdet.training.dense_targets import AnyAssignment, DenseAssignment, assign_dense
from effdet.training.focal import ClassLossKind, at_least_float32, sparse_class_loss
from effdet.training.matching import paired_iou
from effdet.training.quality_losses import quality_focal_term, varifocal_term
from effdet.training.simota import SimOta
from effdet.training.targets import assign
from effdet.training.task_aligned import TaskAligned

IOU_LOSSES: dict[BoxLoss, Callable[[Tensor, Tensor], Tensor]] = {
    BoxLoss.iou: iou_loss,
    BoxLoss.giou: giou_loss,
    BoxLoss.diou: diou_loss,
    BoxLoss.ciou: ciou_loss,
}
BOX_WEIGHTS = {BoxLoss.huber: 50.0} | dict.fromkeys(IOU_LOSSES, 5.0)
TOPK = {Assigner.atss: 9, Assigner.task_aligned: 13, Assigner.simota: 10}
BY_PREDICTIONS = {Assigner.task_aligned, Assigner.simota}


def class_loss_kind(
    class_loss: ClassLoss,
    *,
    alpha: float | None = None,
    gamma: float | None = None,
    label_smoothing: float = 0.0,
    fused: bool = False,
) -> ClassLossKind:
    """Return a class loss with its parameters; None: those of its paper, see ``DetectionLoss``.

    Raises:
        ValueError: If the loss does not have a parameter that is given.
    """
    if label_smoothing and class_loss is not ClassLoss.focal:
        raise ValueError(f"label_smoothing needs class_loss 'focal', got '{class_loss.value}'")
    gamma = (1.5 if class_loss is ClassLoss.focal else 2.0) if gamma is None else gamma
    if class_loss is ClassLoss.focal:
        alpha = 0.25 if alpha is None else alpha
        smoothing = label_smoothing
        return ClassLossKind(gamma=gamma, background=1 - alpha, positive=alpha, smoothing=smoothing, fused=fused)
    if class_loss is ClassLoss.varifocal:
        alpha = 0.75 if alpha is None else alpha
        term = functools.partial(varifocal_term, alpha=alpha, gamma=gamma)
        return ClassLossKind(gamma=gamma, background=alpha, term=term, fused=fused)
    if alpha is not None:
        raise ValueError(f"alpha must be None with class_loss 'quality_focal', which has none; got {alpha}")
    return ClassLossKind(
        gamma=gamma, background=1.0, term=functools.partial(quality_focal_term, beta=gamma), fused=fused
    )


class DetectionLoss:
    """The training loss of a batch, as {"class_loss": (), "box_loss": ()}; their sum is what to minimise.

        class_loss = Σ class / N      box_loss = box_weight · Σ s·huber / (4N)   or   box_weight · Σ s·(1 - IoU) / N

    The class sum is over all classes of all anchors that are not ignored, the box sum over positive anchors. With the
    focal loss s is 1 and N the number of positive anchors in the batch plus one. The other class losses teach each
    positive anchor a score s in [0, 1]: the one that the assigner gives, or else the IoU of the box that the anchor
    predicts with the one that it learns. N is then the sum of s plus one. The computation is in float32 under any
    autocast. In a batch without boxes both losses are finite and differentiable.

    Args:
        assigner: "iou", the published one, see ``assign``; or "atss", "task_aligned" or "simota", see ``Atss``,
            ``TaskAligned`` and ``SimOta``.
        topk: How many cells or anchors a box chooses in these three; None: 9, 13, 10. "iou" has no such number.
        class_loss: "focal", the published one, "quality_focal" or "varifocal"; see the functions of these names.
        alpha: Weight of positive entries of the focal loss, the others weigh 1 - alpha; or of background entries of the
            varifocal loss. None: 0.25 or 0.75.
        gamma: Exponent of the class loss, β of the quality focal loss; None: 1.5 for focal, 2 for the others.
        label_smoothing: See ``focal_loss``; only for "focal".
        box_loss: "huber" on deltas, or "iou", "giou", "diou", "ciou" on decoded boxes.
        huber_delta: Error above which the Huber loss is linear, in units of the deltas.
        box_weight: Weight of the box loss; None: 50 for huber, 5 for the others.
        positive_iou: See ``assign``.
        mask_zero_targets: Leave out elements of the Huber loss whose target is exactly 0. The projects of the published
            models do so, because they recognise positive anchors by targets other than 0. Off by default, because an
            anchor then learns nothing from a box that is equal to it.
        fused: See ``sparse_focal_loss``.

    Raises:
        ValueError: If there is no such assigner or loss, or a parameter is given that it does not have.
    """

    def __init__(
        self,
        *,
        assigner: Assigner | str = Assigner.iou,
        topk: int | None = None,
        class_loss: ClassLoss | str = ClassLoss.focal,
        alpha: float | None = None,
        gamma: float | None = None,
        label_smoothing: float = 0.0,
        box_loss: BoxLoss | str = BoxLoss.huber,
        huber_delta: float = 0.1,
        box_weight: float | None = None,
        positive_iou: float = 0.5,
        mask_zero_targets: bool = False,
        fused: bool = False,
    ) -> None:
        for name, value, kinds in (
            ("assigner", assigner, Assigner),
            ("class_loss", class_loss, ClassLoss),
            ("box_loss", box_loss, BoxLoss),
        ):
            if value not in list(kinds):
                raise ValueError(f"{name} must be one of {', '.join(kind.value for kind in kinds)}; got '{value}'")
        if mask_zero_targets and box_loss != BoxLoss.huber:
            raise ValueError(f"mask_zero_targets needs box_loss 'huber', whose targets it masks; got '{box_loss}'")
        self.assigner, self.class_loss, self.box_loss = Assigner(assigner), ClassLoss(class_loss), BoxLoss(box_loss)
        if topk is not None and self.assigner is Assigner.iou:
            raise ValueError(f"topk must be None with assigner 'iou', which has no such number; got {topk}")
        self.topk = TOPK.get(self.assigner) if topk is None else topk
        self.kind = class_loss_kind(
            self.class_loss, alpha=alpha, gamma=gamma, label_smoothing=label_smoothing, fused=fused
        )
        self.huber_delta = huber_delta
        self.box_weight = BOX_WEIGHTS[self.box_loss] if box_weight is None else box_weight
        self.positive_iou = positive_iou
        self.mask_zero_targets = mask_zero_targets

    @property
    def learns_scores(self) -> bool:
        """Whether positive anchors learn scores between 0 and 1; N is then known only after the predictions."""
        return self.class_loss is not ClassLoss.focal

    @property
    def needs_predictions(self) -> bool:
        """Whether ``assign`` needs predictions."""
        return self.learns_scores or self.assigner in BY_PREDICTIONS

    def assign(
        self, anchors: Tensor, targets: Sequence[Target], predictions: Predictions | None = None
    ) -> AnyAssignment:
        """Return which anchor learns which box: as short lists on a CPU, for every anchor on other devices.

        Args:
            anchors: (N, 4) float32 xyxy pixels of the network input.
            targets: B, one per image.
            predictions: (B, N, K) logits and (B, N, 4) deltas; used if ``needs_predictions``. No gradient goes through.

        Raises:
            ValueError: If predictions are needed and there are none.
        """
        if predictions is None and self.needs_predictions:
            raise ValueError(
                f"assign needs predictions with assigner '{self.assigner.value}' and class_loss "
                f"'{self.class_loss.value}', got None"
            )
        assignment = self._match(anchors, targets, predictions)
        if not self.learns_scores:
            return replace(assignment, scores=None)
        if assignment.scores is not None:
            return assignment
        assert predictions is not None
        return with_iou_scores(assignment, anchors, predictions)

    def _match(self, anchors: Tensor, targets: Sequence[Target], predictions: Predictions | None) -> AnyAssignment:
        if self.topk is None:
            method = assign if anchors.device.type == "cpu" else assign_dense
            return method(anchors, targets, positive_iou=self.positive_iou)
        if self.assigner is Assigner.atss:
            return Atss(topk=self.topk)(anchors, targets)
        assert predictions is not None
        by_predictions = TaskAligned if self.assigner is Assigner.task_aligned else SimOta
        return by_predictions(topk=self.topk)(anchors, targets, predictions)

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
            assignment: Result of ``self.assign``, if it was computed before.
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
                assignment = self.assign(anchors, targets, predictions)
            if normaliser is None:
                normaliser = assignment.total_score + 1
            logits = predictions.class_logits.flatten(0, 1)  # (B, N, K) → (B·N, K)
            class_loss = sparse_class_loss(logits, assignment, self.kind, scale=1 / normaliser)
            box_sum = self._box_sum(predictions.box_deltas, anchors, assignment)
            return {"class_loss": class_loss, "box_loss": self.box_weight * box_sum / normaliser}

    def _box_sum(self, box_deltas: Tensor, anchors: Tensor, assignment: AnyAssignment) -> Tensor:
        deltas, matched = _positive_deltas(box_deltas, anchors, assignment)
        losses = self._box_losses(deltas, matched, assignment.boxes)
        if assignment.scores is not None:
            losses = losses * assignment.scores[:, None].to(losses.dtype)
        elif isinstance(assignment, DenseAssignment):
            losses = losses * assignment.is_positive[:, None]
        return losses.sum()

    def _box_losses(self, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Return the losses of (P, 4) deltas, to be summed: (P, 4) for Huber, (P, 1) for the others."""
        if self.box_loss is not BoxLoss.huber:
            return IOU_LOSSES[self.box_loss](decode(deltas, anchors), boxes)[:, None]
        targets = encode(boxes, anchors).to(deltas.dtype)
        losses = huber_loss(deltas, targets, delta=self.huber_delta) / 4
        return losses * (targets != 0) if self.mask_zero_targets else losses

    def box_losses_to(self, deltas: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
        """Return the box loss of (P, 4) deltas whose targets are deltas too, neither weighted nor summed.

        Returns:
            (P, 4) for Huber, already divided by 4, (P, 1) for the others.
        """
        if self.box_loss is BoxLoss.huber:
            return huber_loss(deltas, targets, delta=self.huber_delta) / 4
        return IOU_LOSSES[self.box_loss](decode(deltas, anchors), decode(targets, anchors))[:, None]


def _positive_deltas(box_deltas: Tensor, anchors: Tensor, assignment: AnyAssignment) -> tuple[Tensor, Tensor]:
    """Return deltas and anchors beside ``assignment.boxes``: of the positive anchors, or of all, (P, 4) or (B·N, 4)."""
    deltas = box_deltas.flatten(0, 1)  # (B, N, 4) → (B·N, 4)
    if isinstance(assignment, DenseAssignment):
        deltas = torch.where(assignment.is_positive[:, None], deltas, 0)  # others may be huge or NaN
        return at_least_float32(deltas), anchors.repeat(len(box_deltas), 1)
    return at_least_float32(deltas[assignment.positive]), anchors[assignment.positive % len(anchors)]


@torch.no_grad()
def with_iou_scores(assignment: AnyAssignment, anchors: Tensor, predictions: Predictions) -> AnyAssignment:
    """Return the assignment with target scores: the IoU of each positive anchor's predicted box with the one it learns.

    Args:
        assignment: Without scores.
        anchors: (N, 4) float32 xyxy pixels.
        predictions: (B, N, K) logits, (B, N, 4) deltas.
    """
    deltas, matched = _positive_deltas(predictions.box_deltas, anchors, assignment)
    scores = paired_iou(decode(deltas, matched), assignment.boxes)
    if isinstance(assignment, DenseAssignment):
        scores = scores * assignment.is_positive
    return replace(assignment, scores=scores)
