"""Class losses whose target is a quality: quality focal loss and varifocal loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def quality_focal_loss(logits: Tensor, targets: Tensor, *, beta: float = 2.0) -> Tensor:
    """Elementwise ``|y - p|^β · CE(p, y)``, not reduced (Li et al., "Generalized Focal Loss", 2020, equation 3).

    Args:
        logits: Any shape; p is their sigmoid.
        targets: y in [0, 1], of the same shape: the quality for the class of the anchor, 0 for the others.
        beta: Focusing exponent.
    """
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - logits.sigmoid()).abs() ** beta * ce


def varifocal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Elementwise ``q · CE(p, q)`` where q > 0, ``α p^γ · CE(p, 0)`` elsewhere (Zhang et al., "VarifocalNet", 2021).

    Args:
        logits: Any shape; p is their sigmoid.
        targets: q in [0, 1], of the same shape, as for ``quality_focal_loss``.
        alpha: Weight of background entries.
        gamma: Focusing exponent of background entries.
    """
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return torch.where(targets > 0, targets, alpha * logits.sigmoid() ** gamma) * ce


def quality_focal_term(x: Tensor, y: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return ``quality_focal_loss`` and its derivative by x, elementwise.

    With d = p - y and c = CE(p, y) = softplus(x) - y·x they are |d|^β·c and |d|^β·d + β·|d|^(β-1)·sign(d)·p(1 - p)·c.
    """
    p, ce = x.sigmoid(), F.softplus(x) - y * x
    difference = p - y
    distance = difference.abs()
    weight = distance**beta
    towards = beta * distance ** (beta - 1) * difference.sign() if beta else torch.zeros_like(p)
    towards = torch.where(distance > 0, towards, 0)  # 0^(β-1) is infinite for β < 1
    return weight * ce, weight * difference + towards * p * (1 - p) * ce


def varifocal_term(x: Tensor, q: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor]:
    """Return ``varifocal_loss`` and its derivative by x, elementwise.

    With p = σ(x) they are q·CE(p, q) and q·(p - q) where q > 0, and elsewhere, with c = softplus(x), α·p^γ·c and
    α·p^γ·(γ·(1 - p)·c + p).
    """
    p, softplus = x.sigmoid(), F.softplus(x)
    weight = alpha * p**gamma
    value = torch.where(q > 0, q * (softplus - q * x), weight * softplus)
    return value, torch.where(q > 0, q * (p - q), weight * (gamma * (1 - p) * softplus + p))
