"""Class losses of the focal family for the class head, with the gradient computed in the forward pass."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from effdet.kernels.library import load_kernels
from effdet.kernels.signatures import STORAGE_CODES
from effdet.training.dense_targets import AnyAssignment, DenseAssignment

MAX_LOGIT = 5.0  # for larger logits 1 - σ is too inexact in float32
CHUNK = 2**18  # logits that the focal loss handles at once on a CPU; its temporaries then stay in the cache
DEVICE_CHUNK = 2**26  # the same on other devices, to bound the memory of the temporaries


def focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 1.5, label_smoothing: float = 0.0
) -> Tensor:
    """Elementwise ``αₜ (1 - pₜ)^γ · CE(p, y')``, not reduced; both inputs (..., K), targets y 0 or 1.

    Label smoothing s changes only the labels of the cross entropy, ``y' = y(1 - s) + s/2``; pₜ and αₜ use y.
    """
    smoothed = targets * (1 - label_smoothing) + 0.5 * label_smoothing
    ce = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    p = logits.sigmoid()
    p_t = torch.where(targets == 1, p, 1 - p)
    alpha_t = torch.where(targets == 1, alpha, 1 - alpha)
    return alpha_t * (1 - p_t) ** gamma * ce


def sparse_focal_loss(
    logits: Tensor,
    assignment: AnyAssignment,
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
        assignment: Targets; an anchor has one class or is background. With a ``DenseAssignment`` the host does not wait
            for the device.
        alpha: Weight of the positive entries; the others weigh 1 - alpha.
        gamma: Focusing exponent.
        label_smoothing: s of ``focal_loss``.
        scale: Factor of the sum, () or a number. A later multiplication would need another pass over the gradient.
        fused: Use the kernel of ``effdet.kernels`` for float32 and bfloat16 logits on the CPU, if it can be made.

    Returns:
        () float32, differentiable once with respect to every logit.
    """
    kind = ClassLossKind(gamma=gamma, background=1 - alpha, positive=alpha, smoothing=label_smoothing, fused=fused)
    return sparse_class_loss(logits, assignment, kind, scale=scale)


@dataclass(frozen=True, kw_only=True)
class ClassLossKind:
    """A class loss, ``background``·h(x) for background entries and another term for positive ones.

    h(x) = σ(x)^γ · (softplus(x) - ½s·x) is the focal loss of a background entry with the label smoothing s.
    """

    gamma: float  # focusing exponent γ of background entries
    background: float  # weight of background entries
    positive: float = 1.0  # weight of positive entries
    smoothing: float = 0.0
    term: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """Value and derivative of a positive entry from its logit and target score; None: h(-x), the focal loss."""
    fused: bool = False  # see ``sparse_focal_loss``

    def of_positive(self, x: Tensor, scores: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return value and derivative of positive entries, elementwise, without their weight; scores None: all 1."""
        if self.term is not None:
            x = at_least_float32(x)
            return self.term(x, torch.ones_like(x) if scores is None else scores.to(x.dtype))
        value, slope = _focal_term(-x, self.gamma, self.smoothing)
        return value, -slope


def sparse_class_loss(
    logits: Tensor, assignment: AnyAssignment, kind: ClassLossKind, *, scale: Tensor | float = 1.0
) -> Tensor:
    """Return the sum of a class loss over all logits but those of ignored anchors; see ``sparse_focal_loss``.

    Positive entries whose target score is 0 count as background.
    """
    return _SparseLoss.apply(logits, assignment, kind, scale)


class _SparseLoss(torch.autograd.Function):
    """Sum of a class loss. The forward pass also computes the gradient, and the first backward pass returns it."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, assignment: AnyAssignment, kind: ClassLossKind, scale: Tensor | float
    ) -> Tensor:
        # Gradients divided by N are too small for float16, so the backward pass divides them, scaled by GradScaler.
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
        if gradient is None:  # an earlier pass over the same graph has returned it, and its caller may have changed it
            _, gradient = _sum_and_gradient(logits.detach(), assignment, kind, 1.0 if late else scale)
        factor = grad_output * scale if late else grad_output
        if factor.device.type != "cpu" or float(factor) != 1:
            gradient.mul_(factor)
        return gradient, None, None, None


def _sum_and_gradient(
    rows: Tensor, assignment: AnyAssignment, kind: ClassLossKind, scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return the scaled loss (), float32, and its gradient (B·N, K), of the type of the logits ``rows``."""
    if isinstance(assignment, DenseAssignment):
        return _dense_sum_and_gradient(rows, assignment, kind, scale)
    gradient = torch.empty_like(rows, memory_format=torch.contiguous_format)
    total = _background(rows, gradient, kind, kind.background * scale)

    ignored = rows[assignment.ignored]
    less = _focal_term(ignored, kind.gamma, kind.smoothing)[0].sum()
    gradient[assignment.ignored] = 0

    entries = (assignment.positive, assignment.classes)
    less = less + _focal_term(rows[entries], kind.gamma, kind.smoothing)[0].sum()
    value, slope = kind.of_positive(rows[entries], assignment.scores)
    gradient[entries] = (kind.positive * scale * slope).to(gradient.dtype)
    return total + scale * (kind.positive * value.sum() - kind.background * less), gradient


def _dense_sum_and_gradient(
    rows: Tensor, assignment: DenseAssignment, kind: ClassLossKind, scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Do the same for targets of every anchor. Sizes do not depend on values, so the host does not wait."""
    compute = _background_by_kernel if _has_kernel(rows) else _background_by_operators
    total, gradient = compute(rows, assignment.is_ignored, kind, kind.background * scale)
    total = kind.background * total

    column, positive = assignment.classes[:, None], assignment.is_positive[:, None]  # (B·N, 1)
    entries = rows.gather(1, column)
    as_background = _focal_term(entries, kind.gamma, kind.smoothing)[0]
    value, slope = kind.of_positive(entries, None if assignment.scores is None else assignment.scores[:, None])
    total = total + torch.where(positive, kind.positive * value - kind.background * as_background, 0).sum()
    slope = (kind.positive * scale * slope).to(gradient.dtype)
    gradient.scatter_(1, column, torch.where(positive, slope, gradient.gather(1, column)))
    return total * scale, gradient


def _background_by_operators(
    rows: Tensor, ignored: Tensor | None, kind: ClassLossKind, weight: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return the sum of h(x) over all logits, (), and weight·h'(x), (B·N, K), without those of ignored anchors."""
    gradient = torch.empty_like(rows, memory_format=torch.contiguous_format)
    counted = None if ignored is None else ~ignored[:, None]  # (B·N, 1)
    step = max(1, DEVICE_CHUNK // rows.shape[1])
    sums = [at_least_float32(rows[:0]).sum()]
    for start in range(0, len(rows), step):
        value, slope = _focal_term(rows[start : start + step], kind.gamma, kind.smoothing)
        if counted is not None:
            value, slope = value * counted[start : start + step], slope * counted[start : start + step]
        torch.mul(slope, weight, out=gradient[start : start + step])
        sums.append(value.sum())
    return torch.stack(sums).sum(), gradient


def _has_kernel(rows: Tensor) -> bool:
    return rows.is_cuda and rows.dtype != torch.float64 and importlib.util.find_spec("triton") is not None


def _background_by_kernel(
    rows: Tensor, ignored: Tensor | None, kind: ClassLossKind, weight: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Do what ``_background_by_operators`` does in one pass."""
    from effdet.training.triton_focal import background_sum_and_gradient

    if not isinstance(weight, Tensor):
        weight = torch.full((), weight, device=rows.device)
    return background_sum_and_gradient(
        rows.contiguous(), ignored, gamma=kind.gamma, smoothing=kind.smoothing, weight=weight.float()
    )


def _background(rows: Tensor, gradient: Tensor, kind: ClassLossKind, weight: Tensor | float) -> Tensor:
    """Return the sum of weight·h(x) over all logits, (), and write weight·h'(x) to ``gradient``."""
    kernels = load_kernels() if kind.fused and rows.device.type == "cpu" and rows.dtype in STORAGE_CODES else None
    if kernels is not None:
        total = torch.zeros((), dtype=torch.float64)
        exact = (float(kind.gamma), float(kind.smoothing), float(weight))
        kernels("focal_background", rows.contiguous(), rows.numel(), *exact, gradient, total)
        return total.float()
    sums = [at_least_float32(rows[:0]).sum()]
    step = max(1, CHUNK // rows.shape[1])
    for part, out in zip(rows.split(step), gradient.split(step), strict=True):
        value, slope = _background_term(part, kind.gamma, kind.smoothing)
        torch.mul(slope, weight, out=out)
        sums.append(value)
    return torch.stack(sums).sum() * weight


def _background_term(x: Tensor, gamma: float, smoothing: float) -> tuple[Tensor, Tensor]:
    """Return the sum of h(x) and elementwise h'(x), like ``_focal_term``, but in half the time if all logits are ≤ 5.

    For these, softplus(x) = -log(1 - σ) is exact enough in float32. With L = log(1 - σ) and w = σ^γ, h = -w·L and
    h' = w·(-γL + σ·(1 + γL)).
    """
    x = at_least_float32(x)
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
    x = at_least_float32(x)
    softplus = F.softplus(x)
    log_p = x - softplus
    p = log_p.exp()
    c = softplus - 0.5 * smoothing * x
    weight = (gamma * log_p).exp()
    return weight * c, weight * (gamma * (1 - p) * c + p - 0.5 * smoothing)


def at_least_float32(x: Tensor) -> Tensor:
    """Return the tensor as float32, or unchanged if it is float64."""
    return x if x.dtype == torch.float64 else x.float()
