"""The fused passes under autocast to bfloat16, against the plain modules in float64 and under autocast.

Inputs and convolution weights are bfloat16 numbers, so that all start with the same values.
"""

import copy
from typing import get_args

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual, SqueezeExcite
from torch import nn

from effdet.detector.efficientdet import EfficientDet
from effdet.kernels.blocks import (
    FusedDepthwiseSeparable,
    FusedHead,
    FusedInvertedResidual,
    FusedNode,
    FusedStemNorm,
    fuse_for_training,
)
from effdet.kernels.library import load_kernels
from effdet.models.architecture import Fusion
from effdet.models.heads import DenseHead
from effdet.models.necks.fusion import FusionNode
from tests.kernels.block_passes import BLOCKS, OneList, fused_copy, lively, needs_kernels, passes

pytestmark = needs_kernels

ROUNDING = 2.0**-9  # largest relative error of rounding to bfloat16, which has 8 significant bits
BOUND = 8 * ROUNDING  # of the length of a tensor: a block rounds some ten maps one after the other, there and back


def found_errors(plain, kind, inputs, *, frozen=False):
    """Return the distances of the fused and of the plain block under autocast from float64, by name."""
    lively(plain)
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.bfloat16())
    fused = kind(plain)
    inputs = [x.bfloat16().float() for x in inputs]
    exact = passes(copy.deepcopy(plain).double(), inputs, frozen=frozen)
    found = passes(fused, inputs, frozen=frozen, bf16=True)
    autocast = passes(plain, inputs, frozen=frozen, bf16=True)
    assert found["output"].dtype is autocast["output"].dtype
    assert {value.dtype for name, value in found.items() if name != "output"} == {torch.float32}
    return distances(exact, found), distances(exact, autocast)


def distances(exact, found):
    """Return by name the distance of a tensor from that in float64, over the length of the latter."""
    largest = max(value.norm().item() for value in exact.values())
    result = {}
    for name, value in exact.items():
        length = value.norm().item() + 1e-3 * largest  # gradients before a BN cancel to 0
        result[name] = (found[name].double() - value).norm().item() / length
    return result


def assert_within_rounding(plain, kind, inputs, *, frozen=False):
    fused, autocast = found_errors(plain, kind, inputs, frozen=frozen)
    for name, error in fused.items():
        bound = ROUNDING / 20 if "running" in name else BOUND
        assert error < bound, f"{name}: {error / ROUNDING:.2f} roundings, of autocast {autocast[name] / ROUNDING:.2f}"
    assert sum(fused.values()) < sum(autocast.values())


@pytest.mark.parametrize("options", BLOCKS)
@pytest.mark.parametrize("squeeze", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_an_inverted_residual_is_within_rounding(options, squeeze, frozen):
    torch.manual_seed(0)
    block = InvertedResidual(**options, act_layer=nn.SiLU, se_layer=SqueezeExcite if squeeze else None)
    x = torch.randn(3, options["in_chs"], 15, 20)
    assert_within_rounding(block, lambda block: fused_copy(block, FusedInvertedResidual), [x], frozen=frozen)


def test_an_inverted_residual_with_kinks_is_as_exact_as_under_autocast():
    """Near the kinks of ReLU6 rounding decides between the slopes 0 and 1, so gradients have no such bound."""
    torch.manual_seed(0)
    block = InvertedResidual(**BLOCKS[0], act_layer=nn.ReLU6)
    x = torch.randn(3, BLOCKS[0]["in_chs"], 16, 20)
    fused, autocast = found_errors(block, lambda block: fused_copy(block, FusedInvertedResidual), [x])
    assert fused["output"] < BOUND
    assert sum(fused.values()) < 1.1 * sum(autocast.values())


def test_a_depthwise_separable_block_is_within_rounding():
    torch.manual_seed(0)
    block = DepthwiseSeparableConv(24, 16, pad_type="same", act_layer=nn.SiLU)
    assert_within_rounding(
        block, lambda block: fused_copy(block, FusedDepthwiseSeparable), [torch.randn(2, 24, 13, 18)]
    )


def test_the_norm_of_the_stem_is_within_rounding():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 24, 3, bias=False), BatchNormAct2d(24, act_layer=nn.SiLU))

    def fused(stem):
        return nn.Sequential(copy.deepcopy(stem[0]), fused_copy(stem[1], FusedStemNorm))

    assert_within_rounding(stem, fused, [torch.randn(2, 3, 9, 14)])


@pytest.mark.parametrize("fusion", get_args(Fusion))
@pytest.mark.parametrize("order", ["act_conv_bn", "conv_bn_act"])
def test_a_node_is_within_rounding(fusion, order):
    torch.manual_seed(0)
    node = FusionNode(16, 3, fusion=fusion, activation="silu", order=order)
    inputs = [torch.randn(2, 16, 7, 10) for _ in range(3)]
    assert_within_rounding(node, lambda node: fused_copy(node, FusedNode), inputs)


def test_a_head_is_within_rounding():
    torch.manual_seed(0)
    head = DenseHead(24, 2, 2, num_anchors=3, num_outputs=5)
    pyramid = [torch.randn(2, 24, 8, 10), torch.randn(2, 24, 4, 5)]
    assert_within_rounding(OneList(head), lambda plain: OneList(fused_copy(plain.head, FusedHead)), pyramid)


def test_the_focal_loss_of_bfloat16_logits_is_that_of_their_float32_copies():
    torch.manual_seed(0)
    logits = (torch.randn(1000, 7) * 8).bfloat16()
    options, slopes, totals = (1.5, 0.0, 0.75), [], []
    for x in (logits, logits.float()):
        slope, total = torch.empty_like(x), torch.zeros((), dtype=torch.float64)
        load_kernels()("focal_background", x, x.numel(), *options, slope, total)
        slopes.append(slope)
        totals.append(total)
    assert torch.equal(slopes[0], slopes[1].bfloat16())
    assert totals[0] == totals[1]


@pytest.mark.parametrize("channels", [65536, 65536 + 8])
def test_numbers_are_rounded_as_pytorch_rounds_them(channels):
    """Every upper half of a normal float32, with lower halves below, at and above the middle, at both vector widths."""
    upper = torch.arange(channels, dtype=torch.int64) % 65536
    exponent = upper >> 7 & 0xFF
    upper[(exponent == 0) & (upper & 0x7F != 0)] = 0  # instructions take numbers below 1.2e-38 for 0
    nothing = torch.zeros(1, channels, dtype=torch.bfloat16)
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        bits = upper << 16 | torch.where(exponent == 0, 0, lower)
        numbers = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)
        rounded = torch.empty_like(nothing)
        load_kernels()("act_forward", nothing, 1, channels, torch.zeros(channels), numbers, 0, rounded)
        torch.testing.assert_close(rounded[0], numbers.bfloat16(), rtol=0, atol=0, equal_nan=True)


# -- the whole network -----------------------------------------------------------------------------------------------


def network():
    torch.manual_seed(0)
    model = EfficientDet("d0", 3, image_size=(64, 96), stochastic_depth=0.0).network
    return lively(model).train()


def gradients(model, x, **options):
    with torch.autocast("cpu", dtype=torch.bfloat16, **options):
        predictions = model(x)
    (predictions.class_logits.float().sigmoid().sum() + predictions.box_deltas.float().square().sum()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_gradient_of_a_network_is_no_worse_than_under_autocast_without_fusion(checkpointing):
    plain = network().eval()  # the statistics of few cells would magnify every rounding
    exact, fused = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    fuse_for_training(fused)
    x = torch.randn(2, 3, 64, 96).bfloat16().float()
    for model in (plain, fused):
        model.set_gradient_checkpointing(checkpointing)
    truth = gradients(exact, x.double(), enabled=False)
    off = []
    for model in (plain, fused):
        found = gradients(model, x)
        difference = sum((found[name].double() - value).square().sum() for name, value in truth.items())
        off.append((difference / sum(value.square().sum() for value in truth.values())).sqrt().item())
    assert off[1] < 1.1 * off[0] < 0.1, off


def test_large_values_stay_finite():
    model = network()
    fuse_for_training(model)
    for scale in (1e4, 1e18):
        assert all(value.isfinite().all() for value in gradients(model, scale * torch.randn(2, 3, 64, 96)).values())


def test_the_same_step_gives_the_same_bits():
    model = network()
    fuse_for_training(model)
    x = torch.randn(2, 3, 64, 96)
    runs = []
    for _ in range(2):
        model.zero_grad()
        runs.append({name: value.clone() for name, value in gradients(model, x).items()})
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
