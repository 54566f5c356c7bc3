import math

import pytest
import torch
from torch import nn

from effdet.models.layers import (
    Lateral,
    SeparableConv,
    downsample,
    init_glorot_uniform,
    init_scaled_normal,
    upsample,
)


def same_max_pool_by_loops(x):
    """TensorFlow's SAME max-pool, 3×3 stride 2, written out: pad = max((⌈H/2⌉-1)·2 + 3 - H, 0), smaller half first."""
    height, width = x.shape
    rows, cols = math.ceil(height / 2), math.ceil(width / 2)
    top, left = max((rows - 1) * 2 + 3 - height, 0) // 2, max((cols - 1) * 2 + 3 - width, 0) // 2
    out = torch.full((rows, cols), -math.inf)
    for i in range(rows):
        for j in range(cols):
            for y in range(2 * i - top, 2 * i - top + 3):
                for z in range(2 * j - left, 2 * j - left + 3):
                    if 0 <= y < height and 0 <= z < width:
                        out[i, j] = max(out[i, j], x[y, z])
    return out


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (7, 8), (5, 2), (2, 2), (1, 4), (1, 1), (3, 1)])
def test_downsample_is_a_same_max_pool_that_padding_never_wins(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 5  # zeros would win
    expected = torch.stack([torch.stack([same_max_pool_by_loops(c) for c in image]) for image in x])
    torch.testing.assert_close(downsample(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("small", "large"), [((2, 3), (4, 6)), ((3, 3), (5, 5)), ((1, 2), (1, 3)), ((10, 7), (19, 14))]
)
def test_upsample_takes_cell_floor_of_i_times_in_over_out(small, large):
    x = torch.arange(math.prod(small)).float().reshape(1, 1, *small)
    expected = torch.zeros(large)
    for i in range(large[0]):
        for j in range(large[1]):
            expected[i, j] = x[0, 0, i * small[0] // large[0], j * small[1] // large[1]]
    assert torch.equal(upsample(x, large)[0, 0], expected)


def test_separable_conv_is_depthwise_then_pointwise():
    conv = SeparableConv(4, 6)
    x = torch.randn(1, 4, 5, 5)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    by_hand = torch.zeros(6)
    for c in range(4):  # the output at row 2, column 3
        response = (padded[0, c, 2:5, 3:6] * conv.depthwise.weight[c, 0]).sum()
        by_hand += conv.pointwise.weight[:, c, 0, 0] * response
    torch.testing.assert_close(conv(x)[0, :, 2, 3], by_hand + conv.pointwise.bias)


def test_batch_norm_has_the_published_constants():
    bn = Lateral(3, 8).bn
    assert (bn.eps, bn.momentum) == (1e-3, 0.01)


def test_scaled_normal_has_variance_one_over_fan_in_with_the_depthwise_fan_in_of_keras():
    torch.manual_seed(0)
    conv = SeparableConv(512, 256)
    init_scaled_normal(conv)
    assert conv.depthwise.weight.std().item() == pytest.approx(math.sqrt(1 / (9 * 512)), rel=0.05)
    assert conv.pointwise.weight.std().item() == pytest.approx(math.sqrt(1 / 512), rel=0.05)
    assert conv.pointwise.weight.abs().max() <= 2 / 0.8796 * math.sqrt(1 / 512)  # cut at two sigma
    assert not conv.pointwise.bias.any()


def test_glorot_uniform_has_the_limits_of_keras():
    torch.manual_seed(0)
    conv = nn.Conv2d(100, 200, 1)
    init_glorot_uniform(nn.Sequential(conv))
    limit = math.sqrt(6 / (100 + 200))
    assert conv.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert conv.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
