from dataclasses import replace

import pytest
import torch
from timm.models.efficientnet import _gen_efficientnet

from effdet.models.architecture import Architecture
from effdet.models.backbone_blocks import written_out
from effdet.models.backbone_scaling import (
    EFFICIENTNET_COEFFICIENTS,
    efficientnet_coefficients,
    scale_backbone,
    scaled_repeats,
    scaled_width,
)
from effdet.models.backbones import build_backbone

D0, LITE0 = Architecture.named("d0"), Architecture.named("lite0")

# Trainable parameters at 1000 classes, B0 to B7, as published.
PUBLISHED = (5_288_548, 7_794_184, 9_109_994, 12_233_232, 19_341_616, 30_389_784, 43_040_704, 66_347_960)


def shapes(architecture):
    with torch.device("meta"):
        backbone = build_backbone(architecture, 0.0)
    return {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}


@pytest.mark.parametrize("phi", range(8))
def test_the_backbones_have_the_published_numbers_of_parameters(phi):
    width, depth = efficientnet_coefficients(phi)
    with torch.device("meta"):
        backbone = build_backbone(scale_backbone(D0, width=width, depth=depth), 0.0)
    last, features = scaled_width(320, width), scaled_width(1280, width)
    head = last * features + 2 * features + features * 1000 + 1000  # 1×1 convolution, its BN, the classifier
    assert sum(p.numel() for p in backbone.parameters()) + head == PUBLISHED[phi]


@pytest.mark.parametrize(("base", "names"), [(D0, "tf_efficientnet_b{}"), (LITE0, "tf_efficientnet_lite{}")])
def test_the_tensors_are_those_of_timms_models(base, names):
    for phi in (1, 2, 4):
        width, depth = EFFICIENTNET_COEFFICIENTS[phi]
        timms = replace(base, backbone=names.format(phi))
        assert shapes(scale_backbone(base, width=width, depth=depth)) == shapes(timms)


def test_a_backbone_between_b1_and_b2_computes_what_timms_generator_makes():
    assert efficientnet_coefficients(1.5) == (1.05, 1.15)
    options = {"pad_type": "same", "bn_eps": 1e-3, "features_only": True, "out_indices": (2, 3, 4)}
    timms = _gen_efficientnet("tf_efficientnet_b0", channel_multiplier=1.05, depth_multiplier=1.15, **options).eval()
    ours = build_backbone(scale_backbone(D0, width=1.05, depth=1.15), 0.0).eval()
    ours.load_state_dict(timms.state_dict())
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(ours(images), timms(images), strict=True))


def test_a_backbone_between_b1_and_b2_has_these_blocks():
    found = scale_backbone(D0, width=1.05, depth=1.15)
    assert found.stem_channels == 32  # 33.6
    widths = [{text.split("_c")[1].split("_")[0] for text in stage} for stage in found.backbone_blocks]
    assert widths == [{"16"}, {"24"}, {"40"}, {"88"}, {"120"}, {"200"}, {"336"}]  # 16.8 25.2 42 84 117.6 201.6 336
    assert [len(stage) for stage in found.backbone_blocks] == [2, 3, 3, 4, 4, 5, 2]
    assert [["s2" in text.split("_") for text in stage].count(True) for stage in found.backbone_blocks] == [
        0, 1, 1, 1, 0, 1, 0,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1.1, 32), (32, 1.2, 40), (24, 1.05, 24), (40, 2.0, 80), (16, 1.4, 24), (100, 1.0, 100), (24, 0.5, 16)],
)  # 35.2, 38.4, 25.2, 80, 22.4; untouched; 12, which 8 would make a third less
def test_widths_are_rounded_to_multiples_of_8_but_not_by_more_than_a_tenth_down(channels, width, expected):
    assert scaled_width(channels, width) == expected


@pytest.mark.parametrize(
    ("repeats", "depth", "expected"), [(1, 1.1, 2), (4, 1.8, 8), (3, 1.0, 3), (10, 1.1, 11), (4, 0.5, 2), (1, 0.3, 1)]
)
def test_repeats_are_rounded_up(repeats, depth, expected):
    assert scaled_repeats(repeats, depth) == expected


def test_the_factor_1_changes_no_block():
    assert scale_backbone(D0, width=1, depth=1) == written_out(D0)


def test_a_shallower_stage_loses_its_last_blocks():
    before, after = written_out(D0).backbone_blocks, scale_backbone(D0, width=1, depth=0.5).backbone_blocks
    assert [len(stage) for stage in after] == [1, 1, 1, 2, 2, 2, 1]
    assert all(stage == whole[: len(stage)] for stage, whole in zip(after, before, strict=True))


def test_scaling_twice_starts_from_the_blocks_of_the_first():
    once = scale_backbone(D0, width=1.0, depth=2.0)
    assert [len(stage) for stage in scale_backbone(once, width=1.0, depth=1.5).backbone_blocks] == [
        3,
        6,
        6,
        9,
        9,
        12,
        3,
    ]


def test_coefficients_go_on_beyond_b8_in_its_last_step():
    assert efficientnet_coefficients(8) == (2.2, 3.6)
    assert efficientnet_coefficients(10) == (2.6, 4.6)


@pytest.mark.parametrize(("width", "depth", "name"), [(0, 1, "width"), (1, -1, "depth"), (float("nan"), 1, "width")])
def test_factors_must_be_positive(width, depth, name):
    with pytest.raises(ValueError, match=f"{name} must be a positive number, got"):
        scale_backbone(D0, width=width, depth=depth)
