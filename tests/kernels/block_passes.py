"""Blocks with weights that leave nothing to chance, their passes, and how far two of these are apart."""

import copy

import pytest
import torch
from torch import nn

from effdet.kernels import blocks as training_blocks
from effdet.kernels.library import load_kernels
from effdet.models.layers import BN_EPS

needs_kernels = pytest.mark.skipif(load_kernels() is None, reason="this machine cannot compile the kernels")


BLOCKS = [
    {"in_chs": 16, "out_chs": 24, "dw_kernel_size": 3, "stride": 2, "pad_type": "same", "exp_ratio": 6},
    {"in_chs": 24, "out_chs": 24, "dw_kernel_size": 5, "stride": 1, "pad_type": "same", "exp_ratio": 6},
    {"in_chs": 24, "out_chs": 40, "dw_kernel_size": 5, "stride": 2, "pad_type": "", "exp_ratio": 1},
]


def lively(module):
    """Give every BN statistics and weights that leave nothing to chance."""
    generator = torch.Generator().manual_seed(1)
    for bn in module.modules():
        if isinstance(bn, nn.BatchNorm2d):
            bn.eps = BN_EPS
            with torch.no_grad():
                bn.weight.copy_(torch.rand(bn.weight.shape, generator=generator) + 0.5)
                bn.bias.copy_(torch.randn(bn.bias.shape, generator=generator) * 0.3)
                bn.running_mean.copy_(torch.randn(bn.bias.shape, generator=generator) * 0.3)
                bn.running_var.copy_(torch.rand(bn.bias.shape, generator=generator) + 0.5)
    return module.to(memory_format=torch.channels_last)


def passes(module, inputs, *, frozen=False, bf16=False):
    """Return outputs, gradients and buffers of one forward and backward pass, by name; ``bf16``: under autocast."""
    module.train(not frozen)
    dtype = next(module.parameters()).dtype
    inputs = [x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_() for x in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        y = module(*inputs)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    y.backward(weights.bfloat16().to(y.dtype))
    found = {f"input {i}": x.grad for i, x in enumerate(inputs)} | {"output": y.detach()}
    found |= {name: parameter.grad for name, parameter in module.named_parameters()}
    return found | {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}


def errors(exact, found):
    """Return by name the largest difference to the value in float64, as a share of the value's largest element."""
    largest = max(value.abs().max().item() for value in exact.values())
    result = {}
    for name, value in exact.items():
        scale = value.abs().max().item() + 1e-3 * largest  # gradients before a BN cancel to 0
        result[name] = (found[name].double() - value).abs().max().item() / scale
    return result


def fused_copy(block, kind):
    """Return a copy that takes the fused passes."""
    result = copy.deepcopy(block)
    assert not hasattr(block, "conv_dw") or training_blocks._fits(result)
    result.__class__ = kind
    return result


class OneList(nn.Module):
    """Takes the maps of a pyramid one by one."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, *pyramid):
        return self.head(pyramid)
