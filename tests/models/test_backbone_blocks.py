from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from effdet.models.architecture import Architecture
from effdet.models.backbone_blocks import expansion_ratio, squeeze_ratio, written_out
from effdet.models.backbones import build_backbone, family_of, probe_of
from effdet.models.block_strings import parse_block

D0 = Architecture.named("d0")
SMALL = (  # one stage for each stride; widths that no published model has
    ("ds_r1_k3_s1_c12",),
    ("ir_r2_k3_s2_e3.5_c20_se0.25", "ir_r1_k5_s1_e2_c20_nhs"),
    ("er_r1_k3_s2_e4_c36",),
    ("uir_r1_a3_k5_s2_e2_c44_se0.1",),
    ("ir_r1_k3.5_s2_e6_c52",),
    ("cn_r1_k1_s1_c60",),
)


def named(backbone, **changes):
    return replace(D0, backbone=backbone, **changes)


def build(architecture):
    torch.manual_seed(0)
    return build_backbone(architecture, 0.2)


NAMES = [
    "tf_efficientnet_b0",
    "efficientnet_b3",
    "tf_efficientnet_lite0",
    "tf_efficientnetv2_b0",
    "mobilenetv2_100",
    "mobilenetv3_large_100",
    "tf_mobilenetv3_small_minimal_100",
    "mobilenetv4_conv_small",
    "mnasnet_100",
    "tf_mixnet_s",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_written_out_is_the_same_network(name):
    architecture = named(name)
    plain, written = build(architecture).eval(), build(written_out(architecture)).eval()
    ours = written.state_dict()
    assert list(ours) == list(plain.state_dict())
    assert all(torch.equal(ours[key], value) for key, value in plain.state_dict().items())  # also as random numbers go
    assert written.feature_info.info == plain.feature_info.info
    for module in (*plain.modules(), *written.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(0.1)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(plain(images), written(images), strict=True))
    rates = [[m.drop_prob for m in model.modules() if hasattr(m, "drop_prob")] for model in (plain, written)]
    assert rates[0] == rates[1]


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_b7",
        "tf_efficientnet_cc_b0_4e",  # experts
        "mobilenet_edgetpu_v2_s",  # groups
        "mobilenetv4_hybrid_medium",  # attention
        "fbnetv3_b",
        "hardcorenas_a",
        "lcnet_050",
        "mobilenetv3_rw",
        "mobilenetv1_100",
        "tinynet_e",
        "efficientnet_es",
    ],
)
def test_the_layers_of_every_family_are_the_same(name):
    plain, written = probe_of(named(name)), probe_of(written_out(named(name)))
    assert [(key, value.shape) for key, value in written.state_dict().items()] == [
        (key, value.shape) for key, value in plain.state_dict().items()
    ]
    assert layers(written) == layers(plain)


def layers(model):
    """Return every layer with its settings; the epsilon of BN is set by ``build_backbone``."""
    return [repr(module).replace("eps=1e-05", "eps=0.001") for module in model.modules() if not list(module.children())]


def test_every_block_has_a_string_with_exact_widths():
    written = written_out(named("tf_efficientnet_b3"))
    assert written.stem_channels == 40
    assert written.backbone_blocks[:2] == (
        ("ds_r1_k3_s1_c24_se0.25", "ds_r1_k3_s1_c24_se0.25"),
        tuple(f"ir_r1_k3_s{stride}_e6_c32_se0.25" for stride in (2, 1, 1)),
    )
    assert [len(stage) for stage in written.backbone_blocks] == [2, 3, 3, 5, 5, 6, 2]
    assert written_out(written) == written


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "mobilenetv3_large_100", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("expanded_features", [False, True])
def test_any_blocks_make_a_backbone(name, expanded_features):
    architecture = named(name, backbone_blocks=SMALL, stem_channels=14, expanded_features=expanded_features)
    if expanded_features:
        architecture = replace(architecture, backbone_blocks=SMALL[:-1])
    backbone = build(architecture)
    assert backbone.conv_stem.out_channels == 14
    features = backbone(torch.randn(2, 3, 96, 64))
    assert [tuple(x.shape[2:]) for x in features] == [(12, 8), (6, 4), (3, 2)]
    sum(x.square().sum() for x in features).backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
    first, second, third = written_out(architecture).backbone_blocks[1]  # 12 · 3.5 → 40 and 20 · 3.5 → 72 channels
    assert (first, second) == ("ir_r1_k3_s2_e3_c20_se0.25", "ir_r1_k3_s1_e3.6_c20_se0.25")
    assert third == "ir_r1_k5_s1_e2_c20" + ("" if name == "mobilenetv3_large_100" else "_nhs")


@pytest.mark.parametrize(
    "last",
    ["ir_r1_k3_s1_e2_c16", "ds_r1_k3_s1_c16", "er_r1_k3_s1_e2_c16", "uir_r1_a3_k3_p3_s1_e2_c16", "cn_r1_k1_s1_c16"],
)
def test_what_lies_behind_the_last_expanded_feature_is_not_trained(last):
    architecture = named("tf_efficientnet_b0", backbone_blocks=(*SMALL[:-1], (last,)), expanded_features=True)
    backbone = build(architecture)
    sum(x.square().sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all((p.grad is not None) == p.requires_grad for p in backbone.parameters())


def test_attention_can_be_a_block():
    blocks = (*SMALL[:-1], ("mqa_r1_k3_s1_c52_h2_d16_v2", "cn_r1_k1_s1_c52"))
    backbone = build(named("mobilenetv4_conv_small", backbone_blocks=blocks))
    assert backbone.blocks[-1][0].attn.num_heads == 2
    sum(x.square().sum() for x in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize(
    ("backbone", "channels", "features", "bias", "published"),
    [
        ("mobilenetv3_large_100", 960, 1280, True, 5_483_032),
        ("semnasnet_100", 320, 1280, False, 3_887_038),  # MnasNet-A1
        ("mnasnet_100", 320, 1280, False, 4_383_312),  # MnasNet-B1
    ],
)
def test_the_blocks_have_the_published_numbers_of_parameters(backbone, channels, features, bias, published):
    """At 1000 classes: a 1×1 convolution behind the blocks, with a bias or a BN, and the classifier."""
    blocks = sum(p.numel() for p in probe_of(written_out(named(backbone))).parameters())
    assert blocks + channels * features + (features if bias else 2 * features) + features * 1000 + 1000 == published
    with torch.device("meta"):
        assert sum(p.numel() for p in timm.create_model(backbone).parameters()) == published


def test_a_width_is_changed_in_its_string():
    written = written_out(named("tf_efficientnet_b0"))
    stages = [list(stage) for stage in written.backbone_blocks]
    block = replace(parse_block(stages[2][1]), expansion=expansion_ratio(40, 136), kernel=(3,))
    stages[2][1] = str(block)
    changed = build(replace(written, backbone_blocks=tuple(map(tuple, stages)))).blocks[2][1]
    assert changed.conv_dw.weight.shape == (136, 1, 3, 3)


@pytest.mark.parametrize("in_channels", [3, 12, 16, 24, 37, 40, 112, 1000])
def test_every_multiple_of_8_is_an_expanded_width(in_channels):
    for expanded in range(8, 1200, 8):
        ratio = expansion_ratio(in_channels, expanded)
        blocks = [(f"ir_r1_k3_s2_e{ratio!r}_c{in_channels}",)] * 4
        if expanded % 232 == 0:
            model = probe_of(named("efficientnet_b0", backbone_blocks=tuple(blocks), stem_channels=in_channels))
            assert {stage[0].conv_dw.out_channels for stage in model.blocks} == {expanded}


@pytest.mark.parametrize(
    ("name", "widths"), [("efficientnet_b0", range(1, 50)), ("mobilenetv3_large_100", [8, 16, 72])]
)
def test_squeezed_widths_are_exact(name, widths):
    family = family_of(name)
    for squeezed in widths:
        ratio = squeeze_ratio(family, 240, squeezed, 6)
        blocks = ((f"ir_r1_k3_s2_e6_c40_se{ratio!r}",),) * 4
        if squeezed % 8 == 0:
            model = probe_of(named(name, backbone_blocks=blocks, stem_channels=40))
            assert {stage[0].se.conv_reduce.out_channels for stage in model.blocks} == {squeezed}


def test_widths_that_timm_cannot_make_are_refused():
    with pytest.raises(ValueError, match="expanded width of a block must be a multiple of 8, got 62"):
        expansion_ratio(32, 62)
    with pytest.raises(ValueError, match=r"squeezed width of a block must be a multiple of 8 in this family .* got 10"):
        squeeze_ratio(family_of("mobilenetv3_large_100"), 240, 10, 6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "backbone must be of timm's EfficientNet or MobileNet classes .* got 'resnet50'; choose"),
        ("efficientnet_b0_gn", "but 'efficientnet_b0_gn' has GroupNormAct; choose another model of the family"),
        ("efficientnet_x_b3", "but 'efficientnet_x_b3' has space to depth"),
        ("gc_efficientnetv2_rw_t", "but 'gc_efficientnetv2_rw_t' has GlobalContext"),
        ("efficientnet_blur_b0", "but 'efficientnet_blur_b0' has BlurPool2d"),
        ("efficientnet_b1_pruned", "expanded width of a block must be a multiple of 8, got 62"),
    ],
)
def test_a_backbone_that_strings_cannot_say_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        written_out(named(name))


def test_blocks_that_timm_cannot_build_are_refused():
    blocks = (("er_r1_k3_s2_e4_c24_gs7",), *SMALL[1:3], *SMALL[4:5])
    with pytest.raises(ValueError, match=r"backbone_blocks must be blocks that timm can build, .* gs must divide"):
        build(named("tf_efficientnet_b0", backbone_blocks=blocks))
