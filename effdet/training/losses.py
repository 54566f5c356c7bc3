"""Losses of the two heads: focal loss for classes, Huber or an IoU loss for boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from effdet.config import BoxLoss
from effdet.kernels.library import load_kernels
from effdet.ops.boxes import decode, encode
from effdet.structures import Predictions, Target
from effdet.training.targets import Assignment, assign

MAX_LOGIT = 5.0  # up to which 1 - σ keeps enough digits in float32
CHUNK = 2**18  # logits that the focal loss handles at once; its temporaries then stay in the cache


def focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 1.5, label_smoothing: float = 0.0
) -> Tensor:
    """Elementwise ``αₜ (1 - pₜ)^γ · CE(p, y')``, not reduced; both inputs (..., K), targets y 0 or 1.

    Label smoothing s moves the labels of the cross entropy only, ``y' = y(1 - s) + s/2``; pₜ and αₜ keep y.
    """
    smoothed = targets * (1 - label_smoothing) + 0.5 * label_smoothing
    ce = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    p = logits.sigmoid()
    p_t = torch.where(targets == 1, p, 1 - p)
    alpha_t = torch.where(targets == 1, alpha, 1 - alpha)
    return alpha_t * (1 - p_t) ** gamma * ce


def sparse_focal_loss(
    logits: Tensor,
    assignment: Assignment,
    *,
    alpha: float = 0.25,
    gamma: float = 1.5,
    label_smoothing: float = 0.0,
    scale: Tensor | float = 1.0,
    fused: bool = False,
) -> Tensor:
    """Return the sum of ``focal_loss`` over all logits but those of ignored anchors, without one-hot targets.

    Args:
        logits: (B·N, K) of any floating type; computed in float32 (float64 stays).
        assignment: Targets; an anchor has one class or is background.
        alpha: Weight of the positive entries; the others weigh 1 - alpha.
        gamma: Focusing exponent.
        label_smoothing: s of ``focal_loss``.
        scale: Factor of the sum, () or a number. Given here rather than multiplied later, it costs no pass over the
            gradient.
        fused: Use the kernel of ``effdet.ops.native`` for float32 logits on the CPU, where it can be compiled.

    Returns:
        () float32, differentiable once with respect to every logit.
    """
    return _SparseFocal.apply(logits, assignment, _Focal(alpha, gamma, label_smoothing, fused), scale)


@dataclass(frozen=True)
class _Focal:
    """What kind of focal loss, and whether the kernel may compute it; see ``sparse_focal_loss``."""

    alpha: float
    gamma: float
    smoothing: float
    fused: bool


class _SparseFocal(torch.autograd.Function):
    """Sum of focal losses; the forward pass computes the gradient too, which the first backward pass gives away.

    With h(x) = σ(x)^γ · (softplus(x) - ½s·x) the loss of a background entry is (1 - α)·h(x), of a positive one α·h(-x).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, assignment: Assignment, kind: _Focal, scale: Tensor | float) -> Tensor:
        # Divided by N, gradients are too small for float16: there the backward pass scales, after GradScaler.
        late = logits.dtype == torch.float16
        total, ctx.gradient = _sum_and_gradient(logits.detach(), assignment, kind, 1.0 if late else scale)
        ctx.save_for_backward(logits)
        ctx.again = (assignment, kind, scale)
        return total * scale if late else total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (logits,) = ctx.saved_tensors
        assignment, kind, scale = ctx.again
        late = logits.dtype == torch.float16
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # given away by an earlier pass over the same graph, perhaps changed since
            _, gradient = _sum_and_gradient(logits.detach(), assignment, kind, 1.0 if late else scale)
        factor = grad_output * scale if late else grad_output
        if factor.device.type != "cpu" or float(factor) != 1:
            gradient.mul_(factor)
        return gradient, None, None, None


def _sum_and_gradient(
    rows: Tensor, assignment: Assignment, kind: _Focal, scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return the scaled loss (), float32, and its gradient (B·N, K), of the type of the logits ``rows``."""
    gradient = torch.empty_like(rows, memory_format=torch.contiguous_format)
    total = _background(rows, gradient, kind, (1 - kind.alpha) * scale)

    ignored = rows[assignment.ignored]
    less = _focal_term(ignored, kind.gamma, kind.smoothing)[0].sum()
    gradient[assignment.ignored] = 0

    entries = (assignment.positive, assignment.classes)
    less = less + _focal_term(rows[entries], kind.gamma, kind.smoothing)[0].sum()
    value, slope = _focal_term(-rows[entries], kind.gamma, kind.smoothing)
    gradient[entries] = (-kind.alpha * scale * slope).to(gradient.dtype)
    return total + scale * (kind.alpha * value.sum() - (1 - kind.alpha) * less), gradient


def _background(rows: Tensor, gradient: Tensor, kind: _Focal, weight: Tensor | float) -> Tensor:
    """Return the sum of weight·h(x) over all logits, (), and write weight·h'(x) to ``gradient``."""
    kernels = load_kernels() if kind.fused and rows.device.type == "cpu" and rows.dtype == torch.float32 else None
    if kernels is not None:
        total = torch.zeros((), dtype=torch.float64)
        exact = (float(kind.gamma), float(kind.smoothing), float(weight))
        kernels("focal_background", rows.contiguous(), rows.numel(), *exact, gradient, total)
        return total.float()
    sums = [_at_least_float32(rows[:0]).sum()]
    step = max(1, CHUNK // rows.shape[1])
    for part, out in zip(rows.split(step), gradient.split(step), strict=True):
        value, slope = _background_term(part, kind.gamma, kind.smoothing)
        torch.mul(slope, weight, out=out)
        sums.append(value)
    return torch.stack(sums).sum() * weight


def _background_term(x: Tensor, gamma: float, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return the sum of h(x) and elementwise h'(x), as ``_focal_term`` does, in half the time where logits allow it.

    Up to a logit of 5 softplus(x) = -log(1 - σ) keeps its digits in float32; with L = log(1 - σ) and w = σ^γ,
    h = -w·L and h' = w·(-γL + σ·(1 + γL)).
    """
    x = _at_least_float32(x)
    if smoothing or x.numel() == 0 or not float(x.max()) <= MAX_LOGIT:
        value, slope = _focal_term(x, gamma, smoothing)
        return value.sum(), slope
    p = x.sigmoid()
    w = p.sqrt().mul_(p) if gamma == 1.5 else p**gamma
    negative_c = p.neg().log1p_()
    total = -torch.dot(w.flatten(), negative_c.flatten())
    slope = negative_c.mul_(-gamma).lerp_(p.new_ones(()), p).mul_(w)
    return total, slope


def _focal_term(x: Tensor, gamma: float, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return h(x) = σ^γ·c and h'(x) = σ^γ·(γ(1-σ)·c + σ - ½s), c = softplus(x) - ½s·x, elementwise."""
    x = _at_least_float32(x)
    softplus = F.softplus(x)
    log_p = x - softplus
    p = log_p.exp()
    c = softplus - 0.5 * smoothing * x
    weight = (gamma * log_p).exp()
    return weight * c, weight * (gamma * (1 - p) * c + p - 0.5 * smoothing)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


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

    N is the number of positive anchors in the batch plus one. The class sum runs over every anchor and class but those
    ignored, the box sum over positive anchors. Computed in float32 under any autocast; without a single box both losses
    are finite and still reach every logit and every delta.

    Args:
        alpha: Focal weight of positive entries.
        gamma: Focal exponent.
        label_smoothing: See ``focal_loss``.
        box_loss: "huber" on deltas, or "iou", "giou", "diou", "ciou" on decoded boxes.
        huber_delta: Where the Huber loss turns linear, in units of the deltas.
        box_weight: Weight of the box loss; None: 50 for huber, 5 for the others.
        positive_iou: See ``assign``.
        mask_zero_targets: Leave elements of the Huber loss out where the target is exactly 0, as the projects of the
            published models do: they tell positive anchors by targets that are not 0. Off by default, because a box
            that lies exactly on its anchor then teaches it nothing.
        fused: See ``sparse_focal_loss``.

    Raises:
        ValueError: If there is no such box loss, or ``mask_zero_targets`` is set for another one than huber.
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

    def __call__(
        self,
        predictions: Predictions,
        anchors: Tensor,
        targets: Sequence[Target],
        *,
        assignment: Assignment | None = None,
        normaliser: Tensor | float | None = None,
    ) -> dict[str, Tensor]:
        """Return both losses, weighted and normalised.

        Args:
            predictions: (B, N, K) logits and (B, N, 4) deltas of any floating type.
            anchors: (N, 4) float32 xyxy pixels of the network input.
            targets: B, one per image.
            assignment: ``assign(anchors, targets)`` where it is known already.
            normaliser: N where it counts more than this batch (micro-batches, other processes).

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
                assignment = assign(anchors, targets, positive_iou=self.positive_iou)
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

    def _box_sum(self, box_deltas: Tensor, anchors: Tensor, assignment: Assignment) -> Tensor:
        deltas = _at_least_float32(box_deltas.flatten(0, 1)[assignment.positive])  # (P, 4)
        matched = anchors[assignment.positive % len(anchors)]  # (P, 4)
        if self.box_loss is BoxLoss.huber:
            targets = encode(assignment.boxes, matched)
            losses = huber_loss(deltas, targets, delta=self.huber_delta)
            if self.mask_zero_targets:
                losses = losses * (targets != 0)
            return losses.sum() / 4
        return IOU_LOSSES[self.box_loss](decode(deltas, matched), assignment.boxes).sum()
