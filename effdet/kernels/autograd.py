"""Expansion, depthwise convolution, squeeze-and-excitation and projection as one step of autograd, on the CPU.

A training step waits for memory, and the plain modules read or write a map of the expanded width about forty times in
a forward and backward pass. A fused block keeps the raw outputs of its convolutions, nothing else, and goes fifteen
times through memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from effdet.kernels.library import Kernels
from effdet.kernels.passes import (
    Activated,
    Gradient,
    Norm,
    depthwise,
    depthwise_backward,
    dot,
    new_moments,
    pointwise,
    pointwise_backward,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a fused block does besides its convolutions; the parameters come beside it.

    The expansion and each BN are left out where they are None.
    """

    kernels: Kernels
    kernel_size: int  # 3 or 5
    stride: int
    padding: tuple[int, int, int, int]  # left, right, top, bottom of the depthwise convolution
    expand_bn: nn.BatchNorm2d | None = None
    activation: int = 0  # before the depthwise convolution
    depthwise_bn: nn.BatchNorm2d | None = None
    depthwise_activation: int = 0
    out_bn: nn.BatchNorm2d | None = None
    out_activation: int = 0

    def sizes(self, x: Tensor, channels: int) -> Tensor:
        """Return the sizes that ``depthwise`` takes, for a block with input x (B, C, H, W)."""
        images, _, height, width = x.shape
        left, right, top, bottom = self.padding
        out_height = (height + top + bottom - self.kernel_size) // self.stride + 1
        out_width = (width + left + right - self.kernel_size) // self.stride + 1
        return torch.tensor([images, height, width, channels, self.stride, top, left, out_height, out_width])


class Parameters(NamedTuple):
    """Parameters of a fused block, None where it has no such part."""

    depthwise: Tensor  # (C', 1, k, k)
    project: Tensor  # (C'', C', 1, 1)
    project_bias: Tensor | None = None
    expand: Tensor | None = None  # (C', C, 1, 1)
    expand_scale: Tensor | None = None  # weight of the BN
    expand_shift: Tensor | None = None
    depthwise_scale: Tensor | None = None
    depthwise_shift: Tensor | None = None
    out_scale: Tensor | None = None
    out_shift: Tensor | None = None
    reduce: Tensor | None = None  # (R, C', 1, 1), of squeeze-and-excitation
    reduce_bias: Tensor | None = None
    excite: Tensor | None = None  # (C', R, 1, 1)
    excite_bias: Tensor | None = None


def fused_block(x: Tensor, plan: Plan, parameters: Parameters) -> Tensor:
    """Return the block's output (B, C'', H', W'), channels last, for x (B, C, H, W).

    Maps are float32, or bfloat16 under autocast.
    """
    return _apply(_FusedBlock, x, plan, *parameters)


def _apply(function: Any, x: Tensor, *arguments: Any) -> Tensor:
    """Apply a step of autograd to a map as autocast wants it; inside of the step, every type is chosen by hand."""
    x = as_autocast(x)
    with torch.autocast("cpu", enabled=False):
        return function.apply(x, *arguments)


def as_autocast(x: Tensor) -> Tensor:
    """Return a map in the type that autocast has on the CPU, or as it is where autocast is off."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


class _FusedBlock(torch.autograd.Function):
    """Keeps its input and the raw outputs of the three convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: Plan, *tensors: Tensor | None) -> Tensor:
        p = Parameters(*tensors)  # type: ignore[arg-type]
        x = x.contiguous(memory_format=torch.channels_last)
        before = _expand(plan, Activated(plan.kernels, _rows(x)), p)
        sizes = plan.sizes(x, before.channels)
        moments = _moments_for(plan.depthwise_bn, before.channels)
        d = depthwise(before, p.depthwise, sizes, moments)
        middle = _normalised(plan.kernels, d, plan.depthwise_bn, moments, plan.depthwise_activation)

        gates = None if p.reduce is None else _Gates(middle.pool(len(x)), p)
        moments = _moments_for(plan.out_bn, len(p.project))
        y = pointwise(middle, _gated(p.project, gates), p.project_bias, moments)
        out = _normalised(plan.kernels, y, plan.out_bn, moments, plan.out_activation)

        ctx.save_for_backward(x, before.rows, d, None if out.norm is None else y, *tensors)
        ctx.plan, ctx.sizes, ctx.gates = plan, sizes, gates
        ctx.norms = before.norm, middle.norm, out.norm
        return _map(out.compute(slice(None)), len(x), *sizes[-2:].tolist())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        x, e, d, y, *tensors = ctx.saved_tensors
        plan, p, wanted = ctx.plan, Parameters(*tensors), Parameters(*ctx.needs_input_grad[2:])
        kernels, grads = plan.kernels, dict[str, Tensor | None]()
        grad = _rows(grad_output.contiguous(memory_format=torch.channels_last))
        before = Activated(kernels, e, ctx.norms[0], plan.activation)
        middle = Activated(kernels, d, ctx.norms[1], plan.depthwise_activation)
        out = Activated(kernels, grad if y is None else y, ctx.norms[2], plan.out_activation)

        d_out = out.backward(grad, learns=bool(wanted.out_scale))
        d_middle, d_weights = pointwise_backward(middle, _gated(p.project, ctx.gates), d_out)
        assert d_middle is not None
        extra = None
        if ctx.gates is None:
            grads["project"] = d_weights.view_as(p.project)
        else:
            extra = ctx.gates.backward(d_weights, p, grads) / (len(d) // len(x))
        d_depthwise = middle.backward(d_middle, learns=bool(wanted.depthwise_scale), extra=extra)
        del d_middle
        d_before, sums, grads["depthwise"] = depthwise_backward(before, p.depthwise, ctx.sizes, d_depthwise)
        del d_depthwise.grad
        d_x: Tensor | None = d_before
        if p.expand is not None:
            assert before.norm is not None
            raw = Activated(kernels, e, before.norm)  # dz is taken behind the activation
            d_expand = Gradient(raw, d_before, before.norm.back(sums))
            d_x, d_weights = pointwise_backward(
                Activated(kernels, _rows(x)), _matrix(p.expand)[None], d_expand, wanted=ctx.needs_input_grad[0]
            )
            grads["expand"] = d_weights.view_as(p.expand)
            _learn(grads, "expand", d_expand)
        _learn(grads, "depthwise", d_depthwise)
        _learn(grads, "out", d_out)
        if wanted.project_bias:
            grads["project_bias"] = _bias_gradient(d_out)
        d_x = None if d_x is None else _map(d_x, *x.shape[:1], *x.shape[2:])
        return d_x, None, *(grads.get(name) if need else None for name, need in zip(p._fields, wanted, strict=True))


def fused_norm(x: Tensor, bn: nn.BatchNorm2d, kernels: Kernels, activation: int = 0) -> Tensor:
    """Return BN and activation of x (B, C, H, W), channels last; x is all that the backward pass keeps."""
    return _apply(_FusedNorm, x, bn, kernels, activation, bn.weight, bn.bias)


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bn: nn.BatchNorm2d, kernels: Kernels, activation: int, weight: Tensor, bias: Tensor
    ) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        rows, moments = _rows(x), _moments_for(bn, x.shape[1])
        if moments is not None:
            kernels("bn_moments", rows, *rows.shape, moments)
        y = _normalised(kernels, rows, bn, moments, activation)
        ctx.save_for_backward(x)
        ctx.kernels, ctx.norm, ctx.activation = kernels, y.norm, activation
        return _map(y.compute(slice(None)), len(x), x.shape[2], x.shape[3])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        y = Activated(ctx.kernels, _rows(x), ctx.norm, ctx.activation)
        grad = _rows(grad_output.contiguous(memory_format=torch.channels_last))
        d_x = y.backward(grad, learns=ctx.needs_input_grad[4])
        assert d_x.back is not None
        rows = _map(d_x.compute(slice(None)), len(x), x.shape[2], x.shape[3]) if ctx.needs_input_grad[0] else None
        return rows, None, None, None, d_x.back[3], d_x.back[4]


def fused_sum(weights: Tensor, inputs: Sequence[Tensor], kernels: Kernels) -> Tensor:
    """Return ``Σ wᵢ·xᵢ`` of maps (B, C, H, W) of one shape, with the weights (I,); no product is kept."""
    return _FusedSum.apply(weights, kernels, *inputs)


class _FusedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, kernels: Kernels, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *inputs)
        ctx.kernels = kernels
        first, *others = weights.tolist()
        total = inputs[0] * first
        for weight, x in zip(others, inputs[1:], strict=True):
            total.add_(x, alpha=weight)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        weights, *inputs = ctx.saved_tensors
        grad = _rows(grad_output.contiguous(memory_format=torch.channels_last))
        d_weights = torch.stack([dot(ctx.kernels, grad, _rows(x)) for x in inputs])
        return d_weights, None, *(grad_output * weight for weight in weights.tolist())


def _expand(plan: Plan, x: Activated, p: Parameters) -> Activated:
    """Return what the depthwise convolution sees."""
    if p.expand is None:
        norm = Norm.identity(plan.kernels, x.channels) if plan.activation else None
        return Activated(plan.kernels, x.rows, norm, plan.activation)
    moments = _moments_for(plan.expand_bn, len(p.expand))
    e = pointwise(x, _matrix(p.expand)[None], None, moments)
    return _normalised(plan.kernels, e, plan.expand_bn, moments, plan.activation)


def _moments_for(bn: nn.BatchNorm2d | None, channels: int) -> Tensor | None:
    return new_moments(channels) if bn is not None and bn.training else None


def _normalised(
    kernels: Kernels, rows: Tensor, bn: nn.BatchNorm2d | None, moments: Tensor | None, activation: int
) -> Activated:
    if bn is None:
        return Activated(kernels, rows)
    norm = Norm.frozen(kernels, bn) if moments is None else Norm.of_batch(kernels, bn, moments)
    return Activated(kernels, rows, norm, activation)


def _learn(grads: dict[str, Tensor | None], part: str, gradient: Gradient) -> None:
    """Add the gradients of a BN's weight and bias."""
    if gradient.back is not None:
        grads[f"{part}_scale"], grads[f"{part}_shift"] = gradient.back[3], gradient.back[4]


def _bias_gradient(d_out: Gradient) -> Tensor:
    """Return the gradient of the projection's bias: 0 where BN takes the mean of its batch out."""
    if d_out.back is None:
        return d_out.grad.sum(dim=0, dtype=torch.float32)
    assert d_out.of.norm is not None
    return d_out.back[4] * d_out.of.norm.scale if d_out.of.norm.count == 0 else torch.zeros_like(d_out.back[4])


class _Gates:
    """Squeeze-and-excitation of pooled activations (B, C'): ``σ(W₂·silu(W₁·x + b₁) + b₂)``.

    The gate of an image scales the channels that the projection reads. That equals a projection whose weight it scales,
    so no map is multiplied by gates, and the gradient of a gate follows from that of the weight.
    """

    def __init__(self, pooled: Tensor, p: Parameters) -> None:
        assert p.reduce is not None
        assert p.excite is not None
        assert p.excite_bias is not None
        self.pooled = pooled
        self.reduced = torch.nn.functional.linear(pooled, _matrix(p.reduce), p.reduce_bias)  # (B, R)
        self.slope = self.reduced.sigmoid()
        self.hidden = self.reduced * self.slope
        self.values = torch.addmm(p.excite_bias, self.hidden, _matrix(p.excite).t()).sigmoid()  # (B, C')

    def backward(self, d_weights: Tensor, p: Parameters, grads: dict[str, Tensor | None]) -> Tensor:
        """Return the gradient of the pooled activations (B, C'), for that of the gated weights (B, C'', C')."""
        assert p.reduce is not None
        assert p.excite is not None
        grads["project"] = (d_weights * self.values[:, None]).sum(dim=0).view_as(p.project)
        d_gates = (d_weights * _matrix(p.project)).sum(dim=1) * self.values * (1 - self.values)  # before the sigmoid
        grads["excite"] = (d_gates.t() @ self.hidden).view_as(p.excite)
        grads["excite_bias"] = d_gates.sum(dim=0)
        d_reduced = (d_gates @ _matrix(p.excite)) * (self.slope + self.hidden * (1 - self.slope))
        grads["reduce"] = (d_reduced.t() @ self.pooled).view_as(p.reduce)
        grads["reduce_bias"] = d_reduced.sum(dim=0)
        return d_reduced @ _matrix(p.reduce)


def _gated(project: Tensor, gates: _Gates | None) -> Tensor:
    """Return the projection's weight for each image, (B, C'', C'), or (1, C'', C') for all."""
    weight = _matrix(project)[None]
    return weight if gates is None else weight * gates.values[:, None]


def _matrix(weight: Tensor) -> Tensor:
    """(O, C, 1, 1) → (O, C)."""
    return weight.flatten(1)


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W), channels last → (B·H·W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: Tensor, images: int, height: int, width: int) -> Tensor:
    """(B·H·W, C) → (B, C, H, W), channels last."""
    return rows.view(images, height, width, -1).permute(0, 3, 1, 2)
