"""The focal loss of background entries and its gradient in one CUDA kernel, written in Triton.

The logits of a batch are by far the largest tensor of a training step. The kernel reads them once and writes the
gradient once; with PyTorch's operators, some fifteen passes over float32 copies are needed.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # logits of one program


@triton.jit  # type: ignore[untyped-decorator]
def _background(  # type: ignore[no-untyped-def]  # Triton reads the annotations
    rows,  # (B·N, K) of any floating type
    ignored,  # (B·N,) bool; not read unless has_ignored
    weight,  # () float32
    gradient,  # (B·N, K), written
    sums,  # one float32 for each program, written
    count,
    num_classes,
    gamma,
    smoothing,
    has_ignored: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0)
    place = program.to(tl.int64) * block + tl.arange(0, block)
    inside = place < count
    x = tl.load(rows + place, mask=inside, other=0.0).to(tl.float32)
    e = tl.exp(-tl.abs(x))
    u = 1.0 + e
    log1p = tl.where(u == 1.0, e, tl.log(u) * (e / tl.where(u == 1.0, 1.0, u - 1.0)))  # exact to rounding (W. Kahan)
    softplus = tl.maximum(x, 0.0) + log1p
    log_p = x - softplus
    p = tl.exp(log_p)
    c = softplus - 0.5 * smoothing * x
    power = tl.exp(gamma * log_p)
    value = power * c
    slope = power * (gamma * (1.0 - p) * c + p - 0.5 * smoothing)
    counts = inside
    if has_ignored:
        counts = counts & (tl.load(ignored + place // num_classes, mask=inside, other=1) == 0)
    value = tl.where(counts, value, 0.0)
    slope = tl.where(counts, slope, 0.0)
    tl.store(gradient + place, slope * tl.load(weight), mask=inside)
    tl.store(sums + program, tl.sum(value, axis=0))


def background_sum_and_gradient(
    rows: Tensor, ignored: Tensor | None, *, gamma: float, smoothing: float, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Return Σ h(x) of all entries as if all were background, and weight·h'(x); see ``training.focal``.

    Args:
        rows: Logits (B·N, K), contiguous, of any floating type; computed in float32.
        ignored: (B·N,) bool, anchors that do not count; None: all count.
        gamma: Focusing exponent.
        smoothing: Label smoothing.
        weight: () float32 on the device, factor of the gradient only.

    Returns:
        The sum, () float32, and the gradient (B·N, K) of the type of ``rows``.
    """
    gradient = torch.empty_like(rows)
    programs = triton.cdiv(rows.numel(), BLOCK)
    sums = torch.empty(programs, dtype=torch.float32, device=rows.device)
    if programs:
        _background[(programs,)](
            rows,
            rows if ignored is None else ignored,
            weight,
            gradient,
            sums,
            rows.numel(),
            rows.shape[1],
            gamma,
            smoothing,
            has_ignored=ignored is not None,
            block=BLOCK,
            num_warps=8,
        )
    return sums.double().sum().float(), gradient
