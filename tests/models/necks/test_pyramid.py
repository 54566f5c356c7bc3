import pytest
import torch

from effdet.models.necks.pyramid import LAYERS, FeaturePyramid


def test_first_layer_has_a_second_lateral_for_c4_and_c5_but_not_for_c3():
    neck = FeaturePyramid([8, 12, 16], 4, 2)
    assert [lateral.conv.in_channels for lateral in neck.input_laterals] == [8, 12, 16]
    assert [lateral.conv.in_channels for lateral in neck.skip_laterals] == [12, 16]


def test_second_lateral_feeds_only_the_bottom_up_edges(randomise):
    neck = randomise(FeaturePyramid([8, 12, 16], 4, 1))
    features = [torch.randn(1, c, s, s) for c, s in [(8, 16), (12, 8), (16, 4)]]
    before = neck(features)
    neck.skip_laterals[0].conv.bias.data += 1.0
    changed = [not torch.equal(a, b) for a, b in zip(before, neck(features), strict=True)]
    assert changed[:2] == [False, True]  # P3 depends on the top-down nodes alone


def test_every_edge_from_the_backbone_has_a_lateral_of_its_own(randomise):
    features = [torch.randn(1, c, s, s) for c, s in [(8, 16), (12, 8), (16, 4)]]
    for kind, count in [("bifpn", 5), ("fpn", 3), ("quad", 11), ("pan", 3), ("nas_fpn", 3), ("full", 15)]:
        neck = randomise(FeaturePyramid([8, 12, 16], 4, 1, kind=kind))
        laterals = [m for name in neck.finest_laterals for m in getattr(neck, name)]
        assert len(laterals) == count
        before = neck(features)
        for lateral in laterals:
            lateral.bn.bias.data += 1.0
            assert any(not torch.equal(a, b) for a, b in zip(before, neck(features), strict=True))
            lateral.bn.bias.data -= 1.0


def test_a_level_that_has_the_necks_width_enters_as_it_is(randomise):
    neck = randomise(FeaturePyramid([8, 4, 16], 4, 1))
    assert not list(neck.input_laterals[1].parameters())
    assert not list(neck.skip_laterals[0].parameters())
    assert len(neck([torch.randn(1, c, s, s) for c, s in [(8, 16), (4, 8), (16, 4)]])) == 5


@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        (kind, channels)
        for kind in LAYERS
        for channels in ([6, 8, 12, 16], [8, 12, 16], [12, 16], [16])
        if kind != "nas_fpn" or len(channels) == 3  # its graph joins five levels
    ],
)
def test_the_pyramid_begins_at_the_finest_feature(kind, channels):
    neck = FeaturePyramid(channels, 4, 2, kind=kind).eval()
    sides = [2 ** (5 - i) for i in range(len(channels))]
    levels = neck([torch.randn(1, c, side, side) for c, side in zip(channels, sides, strict=True)])
    coarsest = sides[-1]
    assert [level.shape for level in levels] == [(1, 4, s, s) for s in (*sides, coarsest // 2, coarsest // 4)]


@pytest.mark.parametrize("max_level", [7, 8])
def test_coarse_levels_are_pooled_from_c5(max_level):
    neck = FeaturePyramid([8, 12, 16], 4, 1, max_level=max_level)
    features = [torch.randn(2, c, s, s) for c, s in [(8, 64), (12, 32), (16, 16)]]
    sides = [level.shape[-1] for level in neck(features)]
    assert sides == [64, 32, 16, 8, 4, 2][: max_level - 2]


@pytest.mark.parametrize("kind", LAYERS)
def test_gradient_checkpointing_changes_no_gradient(kind):
    neck = FeaturePyramid([8, 12, 16], 4, 2, kind=kind)
    features = [torch.randn(2, c, s, s) for c, s in [(8, 32), (12, 16), (16, 8)]]
    gradients = []
    for neck.gradient_checkpointing in (False, True):
        neck.zero_grad()
        sum(level.square().sum() for level in neck(features)).backward()
        gradients.append([p.grad.clone() for p in neck.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])
