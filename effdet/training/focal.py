"""The focal loss of the class head, with its gradient computed in the forward pass."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from effdet.kernels.library import load_kernels
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
        fused: Use the kernel of ``effdet.kernels`` for float32 logits on the CPU, where it can be compiled.

    Returns:
        () float32, differentiable once with respect to every logit.
    """
    return _SparseFocal.apply(logits, assignment, _Focal(alpha, gamma, label_smoothing, fused), scale)


@dataclass(frozen=True)
class _Focal:
    """Parameters of the focal loss, and whether the kernel may compute it; see ``sparse_focal_loss``."""

    alpha: float
    gamma: float
    smoothing: float
    fused: bool


class _SparseFocal(torch.autograd.Function):
    """Sum of focal losses. The forward pass also computes the gradient, and the first backward pass returns it.

    With h(x) = σ(x)^γ · (softplus(x) - ½s·x) the loss of a background entry is (1 - α)·h(x), of a positive one α·h(-x).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, assignment: AnyAssignment, kind: _Focal, scale: Tensor | float) -> Tensor:
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
    rows: Tensor, assignment: AnyAssignment, kind: _Focal, scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Return the scaled loss (), float32, and its gradient (B·N, K), of the type of the logits ``rows``."""
    if isinstance(assignment, DenseAssignment):
        return _dense_sum_and_gradient(rows, assignment, kind, scale)
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


def _dense_sum_and_gradient(
    rows: Tensor, assignment: DenseAssignment, kind: _Focal, scale: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Do the same for targets of every anchor. Sizes do not depend on values, so the host does not wait."""
    compute = _background_by_kernel if _has_kernel(rows) else _background_by_operators
    total, gradient = compute(rows, assignment.is_ignored, kind, (1 - kind.alpha) * scale)
    total = (1 - kind.alpha) * total

    column, positive = assignment.classes[:, None], assignment.is_positive[:, None]  # (B·N, 1)
    entries = rows.gather(1, column)
    as_background = _focal_term(entries, kind.gamma, kind.smoothing)[0]
    value, slope = _focal_term(-entries, kind.gamma, kind.smoothing)
    total = total + torch.where(positive, kind.alpha * value - (1 - kind.alpha) * as_background, 0).sum()
    slope = (-kind.alpha * scale * slope).to(gradient.dtype)
    gradient.scatter_(1, column, torch.where(positive, slope, gradient.gather(1, column)))
    return total * scale, gradient


def _background_by_operators(
    rows: Tensor, ignored: Tensor | None, kind: _Focal, weight: Tensor | float
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
    rows: Tensor, ignored: Tensor | None, kind: _Focal, weight: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Do what ``_background_by_operators`` does in one pass."""
    from effdet.training.triton_focal import background_sum_and_gradient

    if not isinstance(weight, Tensor):
        weight = torch.full((), weight, device=rows.device)
    return background_sum_and_gradient(
        rows.contiguous(), ignored, gamma=kind.gamma, smoothing=kind.smoothing, weight=weight.float()
    )


def _background(rows: Tensor, gradient: Tensor, kind: _Focal, weight: Tensor | float) -> Tensor:
    """Return the sum of weight·h(x) over all logits, (), and write weight·h'(x) to ``gradient``."""
    kernels = load_kernels() if kind.fused and rows.device.type == "cpu" and rows.dtype == torch.float32 else None
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
