"""Forward and backward passes of a fused block, on maps as rows of channels: (P, C), P = B·H·W, on the CPU.

BN and activation are computed where their result is used, in a few rows that the cache holds, and are never stored.
Maps are float32 or bfloat16, which halves what goes through memory. Matrix products read bfloat16 maps as they are and
add up in float32; all else is computed in float32, and parameters, gradients of them and BN statistics are float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from effdet.kernels.library import Kernels

CHUNK = 2**20  # bytes of a map that a matrix product takes at once; they are still in the cache afterwards


class Norm:
    """BN as one training step applies it, z = scale·x + shift, and its backward pass.

    Args:
        kernels: The compiled functions.
        rows: (4, C) float32: scale, shift, mean, 1/σ.
        count: Rows of the map that the statistics come from; 0 where they are frozen.
    """

    def __init__(self, kernels: Kernels, rows: Tensor, count: int) -> None:
        self.kernels, self.rows, self.count = kernels, rows, count
        self.scale, self.shift, self.mean, _ = rows

    @classmethod
    def of_batch(cls, kernels: Kernels, bn: nn.BatchNorm2d, moments: Tensor) -> Norm:
        """Return BN by the ``moments`` (2C + 1,) of its input, which also move the running statistics.

        Raises:
            ValueError: If the input has a single value per channel, which has no variance; PyTorch refuses it too.
        """
        count = int(moments[-1])
        if count < 2:
            raise ValueError(
                f"BN must get more than 1 value per channel when training, got 1 in each of {len(bn.weight)} channels; "
                "give more images in a batch, or larger ones"
            )
        rows = torch.empty(4, bn.num_features)
        kernels(
            *("bn_prepare", moments, bn.num_features, bn.weight, bn.bias, bn.running_mean, bn.running_var),
            *(float(bn.momentum or 0.0), float(bn.eps), rows),
        )
        if bn.num_batches_tracked is not None:
            bn.num_batches_tracked.add_(1)
        return cls(kernels, rows, count)

    @classmethod
    def frozen(cls, kernels: Kernels, bn: nn.BatchNorm2d) -> Norm:
        """Return BN by its running statistics."""
        assert bn.running_mean is not None
        assert bn.running_var is not None
        inverse = (bn.running_var + bn.eps).rsqrt()
        scale = bn.weight * inverse
        return cls(kernels, torch.stack([scale, bn.bias - bn.running_mean * scale, bn.running_mean, inverse]), 0)

    @classmethod
    def identity(cls, kernels: Kernels, channels: int) -> Norm:
        """Return what leaves its input as it is."""
        rows = torch.zeros(4, channels)
        rows[0] = rows[3] = 1
        return cls(kernels, rows, 0)

    def back(self, sums: Tensor) -> Tensor:
        """Return (5, C) a, b, k of dx = a·dz + b·x + k and both gradients, from (2C,) Σ dz and Σ dz·(x - mean)."""
        result = torch.empty(5, self.rows.shape[1])
        self.kernels("bn_finish", sums, float(self.count), self.rows.shape[1], self.rows, result)
        return result


def new_moments(channels: int) -> Tensor:
    """Return mean, sum of squared distances and count of no rows, for ``bn_moments`` to continue: (2C + 1,)."""
    return torch.zeros(2 * channels + 1, dtype=torch.float64)


class Activated:
    """A map as the next layer sees it: rows (P, C) through BN and activation, or as they are.

    Args:
        kernels: The compiled functions.
        rows: (P, C).
        norm: BN; None: the rows are what the next layer sees.
        activation: 0 none, 1 SiLU, 2 ReLU6; only with a norm.
    """

    def __init__(self, kernels: Kernels, rows: Tensor, norm: Norm | None = None, activation: int = 0) -> None:
        self.kernels, self.rows, self.norm, self.activation = kernels, rows, norm, activation
        self.channels = rows.shape[1]

    def compute(self, part: slice, out: Tensor | None = None) -> Tensor:
        """Return a part of the rows, activated; in ``out`` where that is large enough."""
        rows = self.rows[part]
        if self.norm is None:
            return rows
        out = torch.empty_like(rows) if out is None else out[: len(rows)]
        norm = self.norm
        self.kernels(*("act_forward", rows, len(rows), self.channels, norm.scale, norm.shift, self.activation, out))
        return out

    def pool(self, images: int) -> Tensor:
        """Return the mean over the cells of each image: (B, C) float32."""
        result = torch.empty(images, self.channels)
        norm = self.norm or Norm.identity(self.kernels, self.channels)
        self.kernels(
            *("act_pool", self.rows, images, len(self.rows) // images, self.channels),
            *(norm.scale, norm.shift, self.activation, result),
        )
        return result

    def backward(self, grad: Tensor, *, learns: bool, extra: Tensor | None = None) -> Gradient:
        """Return the gradient of the raw rows, for that of the activated ones.

        Args:
            grad: (P, C).
            learns: Whether weight and bias of the BN want their gradients.
            extra: (B, C) float32 to be added to the gradient of every cell of an image.
        """
        if self.norm is None:
            return Gradient(self, grad, None, extra)
        sums = torch.zeros(2 * self.channels, dtype=torch.float64)
        images = 1 if extra is None else len(extra)
        if learns or self.norm.count:
            self.kernels(
                *("act_reduce", grad, self.rows, images, len(grad) // images, self.channels, extra),
                *(self.norm.scale, self.norm.shift, self.activation, self.norm.mean, sums),
            )
        return Gradient(self, grad, self.norm.back(sums), extra)


class Gradient:
    """The gradient of raw rows (P, C), computed part by part where it is used.

    Args:
        of: The map; its BN and activation lie between the rows and ``grad``.
        grad: (P, C), of the activated rows.
        back: (5, C) a, b, k of the BN's backward pass and the gradients of its weight and bias; None without BN.
        extra: (B, C) float32 that belongs to the gradient of every cell of an image.
    """

    def __init__(self, of: Activated, grad: Tensor, back: Tensor | None, extra: Tensor | None = None) -> None:
        self.of, self.grad, self.back, self.extra = of, grad, back, extra

    def compute(self, part: slice, out: Tensor | None = None) -> Tensor:
        """Return a part of the rows' gradient; in ``out`` where that is large enough. Only without ``extra``."""
        grad, of = self.grad[part], self.of
        if self.back is None:
            return grad
        assert of.norm is not None
        assert self.extra is None
        out = torch.empty_like(grad) if out is None else out[: len(grad)]
        of.kernels(
            *("act_backward", grad, of.rows[part], 1, len(grad), of.channels, None),
            *(of.norm.scale, of.norm.shift, of.activation, self.back[0], self.back[1], self.back[2], out),
        )
        return out


def pointwise(x: Activated, weights: Tensor, bias: Tensor | None, moments: Tensor | None) -> Tensor:
    """Return the rows times a matrix: (P, O).

    Args:
        x: (P, C).
        weights: (G, O, C) float32; each of G equal parts of the rows, such as images, has its own.
        bias: (O,) float32.
        moments: From ``new_moments``, to be filled with those of the output.
    """
    outputs, held = weights.shape[1], x.rows.dtype
    out = x.rows.new_empty(len(x.rows), outputs)
    bias = None if bias is None else bias.to(held)
    width = max(outputs, x.channels) * x.rows.element_size()
    buffer = _buffer(x.rows, width) if x.norm else None
    for group, matrix in enumerate(weights.transpose(1, 2).to(held).contiguous()):
        for part in _group_chunks(len(out), len(weights), group, width):
            rows, target = x.compute(part, buffer), out[part]
            torch.mm(rows, matrix, out=target) if bias is None else torch.addmm(bias, rows, matrix, out=target)
            if moments is not None:
                x.kernels("bn_moments", target, len(target), outputs, moments)
    return out


def pointwise_backward(
    x: Activated, weights: Tensor, grad: Gradient, *, wanted: bool = True
) -> tuple[Tensor | None, Tensor]:
    """Return the gradients of the activated rows (P, C), if wanted, and of the weights (G, O, C) float32."""
    outputs = weights.shape[1]
    d_rows = torch.empty_like(x.rows) if wanted else None
    d_weights = torch.zeros_like(weights)
    width = max(outputs, x.channels) * x.rows.element_size()
    buffers = _buffer(x.rows, width), _buffer(x.rows, width, outputs)
    product = None if x.rows.dtype is torch.float32 else x.rows.new_empty(outputs, x.channels)
    for group, (matrix, d_matrix) in enumerate(zip(weights.to(x.rows.dtype), d_weights, strict=True)):
        for part in _group_chunks(len(x.rows), len(weights), group, width):
            g = grad.compute(part, buffers[1])
            if d_rows is not None:
                torch.mm(g, matrix, out=d_rows[part])
            _add_product(d_matrix, g.t(), x.compute(part, buffers[0]), product)
    return d_rows, d_weights


def _add_product(total: Tensor, a: Tensor, b: Tensor, product: Tensor | None) -> None:
    """Add a·b to a float32 matrix; where a and b are not float32 themselves, by way of ``product``."""
    if product is None:
        total.addmm_(a, b)
    else:
        total.add_(torch.mm(a, b, out=product))


def _buffer(like: Tensor, width: int, columns: int | None = None) -> Tensor:
    return like.new_empty(_chunk_rows(width), like.shape[1] if columns is None else columns)


def _chunk_rows(width: int) -> int:
    """Return how many rows of so many bytes a chunk has."""
    return max(64, CHUNK // width)


def _group_chunks(num_rows: int, groups: int, group: int, width: int) -> Iterator[slice]:
    """Cut the rows of one of ``groups`` equal parts into slices of about CHUNK bytes."""
    size, step = num_rows // groups, _chunk_rows(width)
    for start in range(group * size, (group + 1) * size, step):
        yield slice(start, min(start + step, (group + 1) * size))


def depthwise(x: Activated, weight: Tensor, sizes: Tensor, moments: Tensor | None) -> Tensor:
    """Return the depthwise convolution of the rows: (B·H'·W', C).

    Args:
        x: (B·H·W, C).
        weight: (C, 1, k, k).
        sizes: (9,) int64: images, height, width, channels, stride, rows of padding above, columns of padding on the
            left, height and width of the output.
        moments: From ``new_moments``, to be filled with those of the output.
    """
    images, *_, out_height, out_width = sizes.tolist()
    norm = x.norm or Norm.identity(x.kernels, x.channels)
    out = x.rows.new_empty(images * out_height * out_width, x.channels)
    x.kernels(
        *("depthwise_forward", x.rows, norm.scale, norm.shift, x.activation),
        *(_by_position(weight), weight.shape[-1], sizes, out, moments),
    )
    return out


def depthwise_backward(x: Activated, weight: Tensor, sizes: Tensor, grad: Gradient) -> tuple[Tensor, Tensor, Tensor]:
    """Return three gradients of ``depthwise``.

    Returns:
        dz (B·H·W, C), the gradient of what BN puts before the activation of x, or of x itself where that has no BN;
        the sums Σ dz and Σ dz·(x - mean) over all rows, (2C,) float64;
        the gradient of the weight, (C, 1, k, k).
    """
    size, positions, out = weight.shape[-1], _by_position(weight), grad.of
    dz, d_positions = torch.empty_like(x.rows), torch.empty_like(positions)
    sums = torch.zeros(2 * x.channels, dtype=torch.float64)
    after = (None, None, None, None, 0, None, None, None)
    if out.norm is not None and grad.back is not None:
        a, b, k, *_ = grad.back
        after = (out.rows, grad.extra, out.norm.scale, out.norm.shift, out.activation, a, b, k)  # type: ignore[assignment]
    before = (x.norm.scale, x.norm.shift, x.activation, x.norm.mean) if x.norm else (None, None, 0, None)
    x.kernels(
        *("depthwise_backward", grad.grad, *after, x.rows, *before), *(positions, size, sizes, dz, d_positions, sums)
    )
    return dz, sums, d_positions.t().reshape(weight.shape)


def dot(kernels: Kernels, a: Tensor, b: Tensor) -> Tensor:
    """Return ``Σ a·b`` over all numbers of two maps (P, C): () float32."""
    channels, sums = a.shape[1], torch.zeros(2 * a.shape[1], dtype=torch.float64)
    norm = Norm.identity(kernels, channels)  # Σ a and Σ a·(b - mean), with the mean 0
    kernels("act_reduce", a, b, 1, len(a), channels, None, norm.scale, norm.shift, 0, norm.mean, sums)
    return sums[channels:].sum().float()


def _by_position(weight: Tensor) -> Tensor:
    """(C, 1, k, k) → (k·k, C)."""
    return weight.flatten(1).t().contiguous()
