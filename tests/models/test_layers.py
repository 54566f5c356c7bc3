import math

import pytest
import torch
from torch import nn

from effdet.models.layers import (
    ACTIVATIONS,
    DOWNSAMPLING,
    Lateral,
    SeparableConv,
    conv3x3,
    downsample,
    downsample_bilinear,
    downsample_symmetric,
    downsample_zeros,
    init_glorot_uniform,
    init_scaled_normal,
    init_small_normal,
    lateral,
    upsample,
    upsample_bilinear,
)


def same_max_pool_by_loops(x, outside=-math.inf):
    """TensorFlow's SAME max-pool, 3×3 stride 2, written out: pad = max((⌈H/2⌉-1)·2 + 3 - H, 0), smaller half first."""
    height, width = x.shape
    rows, cols = math.ceil(height / 2), math.ceil(width / 2)
    top, left = max((rows - 1) * 2 + 3 - height, 0) // 2, max((cols - 1) * 2 + 3 - width, 0) // 2
    out = torch.full((rows, cols), -math.inf)
    for i in range(rows):
        for j in range(cols):
            for y in range(2 * i - top, 2 * i - top + 3):
                for z in range(2 * j - left, 2 * j - left + 3):
                    inside = 0 <= y < height and 0 <= z < width
                    out[i, j] = max(out[i, j], x[y, z] if inside else torch.tensor(outside))
    return out


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (7, 8), (5, 2), (2, 2), (1, 4), (1, 1), (3, 1)])
def test_downsample_is_a_same_max_pool_that_padding_never_wins(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 5  # zeros would win
    expected = torch.stack([torch.stack([same_max_pool_by_loops(c) for c in image]) for image in x])
    torch.testing.assert_close(downsample(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (7, 8), (5, 2), (1, 4), (1, 1)])
def test_downsample_zeros_is_a_same_max_pool_over_a_frame_of_zeros(size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 1
    expected = torch.stack([torch.stack([same_max_pool_by_loops(c, outside=0.0) for c in image]) for image in x])
    torch.testing.assert_close(downsample_zeros(x), expected, rtol=0, atol=0)


def test_downsample_symmetric_looks_one_cell_to_every_side():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]]) - 9
    assert downsample_symmetric(x[None, None]).tolist() == [[[[-7.0, -5.0]]]]  # cells -1…1, then 1…3
    assert downsample(x[None, None]).tolist() == [[[[-6.0, -5.0]]]]  # cells 0…2, then 2…4


def test_downsample_bilinear_takes_the_middle_of_two_cells_without_antialias():
    x = torch.tensor([[0.0, 1.0, 4.0, 9.0]])
    assert downsample_bilinear(x[None, None]).tolist() == [[[[0.5, 6.5]]]]


def test_upsample_bilinear_keeps_pixel_centres():
    x = torch.tensor([[0.0, 4.0]])
    assert upsample_bilinear(x[None, None], (1, 4)).tolist() == [[[[0.0, 1.0, 3.0, 4.0]]]]


@pytest.mark.parametrize("name", DOWNSAMPLING)
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 3), (1, 1)])
def test_every_way_down_halves_and_rounds_up(name, size):
    halved = DOWNSAMPLING[name](torch.zeros(1, 1, *size))
    assert tuple(halved.shape[-2:]) == (math.ceil(size[0] / 2), math.ceil(size[1] / 2))


@pytest.mark.parametrize(
    ("name", "values"),  # at -4, -1, 0, 1 and 7
    [
        ("silu", [-0.0719, -0.2689, 0.0, 0.7311, 6.9936]),
        ("relu", [0.0, 0.0, 0.0, 1.0, 7.0]),
        ("relu6", [0.0, 0.0, 0.0, 1.0, 6.0]),
        ("leaky_relu", [-0.04, -0.01, 0.0, 1.0, 7.0]),
        ("hardswish", [0.0, -0.3333, 0.0, 0.6667, 7.0]),
        ("mish", [-0.0726, -0.3034, 0.0, 0.8651, 7.0]),
    ],
)
def test_activations_have_the_values_of_their_formulas(name, values):
    x = torch.tensor([-4.0, -1.0, 0.0, 1.0, 7.0])
    torch.testing.assert_close(ACTIVATIONS[name](x), torch.tensor(values), atol=1e-4, rtol=0)


def test_a_level_of_the_necks_width_needs_no_lateral():
    assert not list(lateral(8, 8).parameters())
    assert isinstance(lateral(6, 8), Lateral)


def test_convolutions_may_be_full_and_without_bias():
    full = conv3x3(4, 6, separable=False, bias=False)
    assert [tuple(p.shape) for p in full.parameters()] == [(6, 4, 3, 3)]
    assert "pointwise.bias" not in conv3x3(4, 6, separable=True, bias=False).state_dict()


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


def test_small_normal_has_standard_deviation_one_hundredth():
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 3)
    init_small_normal(conv)
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not conv.bias.any()
