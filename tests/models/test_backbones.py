import pytest
import torch
from torch import nn

from effdet.models.architecture import Architecture
from effdet.models.backbones import build_backbone, recomputed_modules, stem_modules
from effdet.models.network import Network


def build(name, stochastic_depth=0.0):
    return build_backbone(Architecture.named(name), stochastic_depth)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("d0", [40, 112, 320]),
        ("resdet50", [512, 1024, 2048]),
        ("cspdarkdet53", [256, 512, 1024]),
        ("efficientdetv2_dt", [48, 128, 208]),
        ("mobiledetv3_large", [40, 112, 960]),
        ("efficientdet_w0", [240, 672, 1152]),
    ],
)
def test_outputs_lie_at_strides_8_16_32(name, channels):
    backbone = build(name).eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in features] == [
        (c, 64 // s, 96 // s) for c, s in zip(channels, (8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(("name", "eps"), [("d0", 1e-3), ("tf_efficientdet_lite1", 1e-3), ("resdet50", 1e-5)])
def test_batch_norm_has_the_epsilon_of_the_family(name, eps):
    assert {m.eps for m in build(name).modules() if isinstance(m, nn.BatchNorm2d)} == {eps}


def test_every_parameter_that_learns_has_an_effect():
    backbone = build("efficientdet_w0")
    sum(x.square().sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    learning = {name: p.grad for name, p in backbone.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in learning.values())
    assert not backbone.blocks[-1][-1].conv_pwl.weight.requires_grad


def names_of(backbone, modules):
    return [name for name, module in backbone.named_modules() if any(module is m for m in modules)]


@pytest.mark.parametrize(
    ("name", "stem", "recomputed"),
    [
        ("lite0", ["conv_stem", "bn1", "blocks.0", "blocks.1"], ["blocks"]),
        ("efficientdet_w0", ["conv_stem", "bn1", "blocks.0", "blocks.1"], []),
        ("mobiledetv3_large", ["conv_stem", "bn1", "act1", "blocks.0", "blocks.1"], ["blocks"]),
        ("resdet50", ["conv1", "bn1", "act1", "maxpool", "layer1"], ["bn1", "maxpool", "layer1", "layer2", "layer3"]),
        ("cspresdet50", ["stem_conv1", "stem_pool", "stages_0"], ["stem_pool", "stages_0", "stages_1", "stages_2"]),
        (
            "cspdarkdet53",
            ["stem_conv1", "stages_0", "stages_1"],
            ["stages_0", "stages_1", "stages_2", "stages_3"],
        ),
    ],
)
def test_parts_of_every_kind_of_backbone(name, stem, recomputed):
    backbone = build(name)
    assert names_of(backbone, stem_modules(backbone)) == stem
    assert names_of(backbone, recomputed_modules(backbone)) == recomputed


@pytest.mark.parametrize("name", ["lite0", "resdet50", "cspresdet50", "mobiledetv3_large"])
def test_stochastic_depth_reaches_every_kind_of_backbone(name):
    rates = [m.drop_prob for m in build(name, stochastic_depth=0.3).modules() if hasattr(m, "drop_prob")]
    assert max(rates) == pytest.approx(0.3, rel=0.2)
    assert sorted(rates) == rates


def test_a_backbone_that_cannot_be_frozen_or_recomputed_in_part_says_so():
    own = Architecture(backbone="hrnet_w18_small", image_size=(64, 64), channels=8, neck_repeats=1, head_repeats=1)
    with torch.device("meta"):
        network = Network(own, 1, stochastic_depth=0.0)
    with pytest.raises(ValueError, match="stem must be a part of its own to be frozen, which it is not in "):
        network.stem_modules()
    with pytest.raises(ValueError, match="gradient checkpointing must be off for a backbone of"):
        network.set_gradient_checkpointing()
