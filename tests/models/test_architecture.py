import json
from dataclasses import FrozenInstanceError, fields, replace
from math import sqrt
from typing import get_args

import pytest
import yaml

from effdet.models.architecture import _CHECKS, Activation, Architecture, Downsampling, Neck, Upsampling
from effdet.models.layers import ACTIVATIONS, DOWNSAMPLING, UPSAMPLING
from effdet.models.necks.pyramid import LAYERS
from effdet.models.published import PUBLISHED

BLOCKS = tuple((f"ir_r1_k3_s2_e2_c{channels}",) for channels in (16, 24, 32, 40))
SMALL = Architecture(backbone="resnet18", image_size=(96, 128), channels=24, neck_repeats=2, head_repeats=1)


def test_a_name_gives_a_published_architecture_and_the_architecture_gives_its_name_back():
    assert {name: Architecture.named(name).name for name in PUBLISHED} == {name: name for name in PUBLISHED}
    assert replace(Architecture.named("d0"), channels=72).name == "custom"


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'D0'; did you mean 'd0'"):
        Architecture.named("D0")
    with pytest.raises(ValueError, match=r"known: d0, d1, .*, and those of list_variants\('effdet'\)"):
        Architecture.named("???")


def test_equal_fields_are_equal_values():
    same = Architecture(backbone="resnet18", image_size=[96, 128], channels=24, neck_repeats=2, head_repeats=1)
    assert (same, hash(same)) == (SMALL, hash(SMALL))
    assert same != replace(SMALL, channels=32)
    with pytest.raises(FrozenInstanceError):
        same.channels = 32


@pytest.mark.parametrize(
    ("changes", "levels", "anchors", "stride"),
    [({}, 5, 9, 128), ({"max_level": 8}, 6, 9, 256), ({"min_level": 2, "scales_per_octave": 2}, 6, 6, 128)],
)
def test_levels_anchors_and_stride_follow_from_the_fields(changes, levels, anchors, stride):
    architecture = replace(SMALL, **changes)
    found = (architecture.num_levels, architecture.anchors_per_cell, architecture.coarsest_stride)
    assert found == (levels, anchors, stride)


@pytest.mark.parametrize(
    "name", ["d0", "d7x", "lite3x", "d2_ap", "cspdarkdet53m", "efficientdet_w0", "efficientdet-d8"]
)
def test_json_and_yaml_hold_all_of_it(name):
    architecture = Architecture.named(name)
    assert set(architecture.to_dict()) == {field.name for field in fields(Architecture)}
    assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture
    assert Architecture.from_dict(yaml.safe_load(yaml.safe_dump(architecture.to_dict()))) == architecture


def test_a_number_as_aspect_ratio_keeps_the_area():
    architecture = replace(SMALL, aspect_ratios=[1, 2.0, 0.5, (1.4, 0.7)])
    assert architecture.aspect_ratios == ((1, 1), (sqrt(2), 1 / sqrt(2)), (sqrt(0.5), 1 / sqrt(0.5)), (1.4, 0.7))
    assert replace(SMALL, aspect_ratios=[1, 2, 0.5]) == SMALL


def test_a_missing_or_unknown_key_is_named():
    with pytest.raises(ValueError, match="unknown key 'chanels'; did you mean 'channels'"):
        Architecture.from_dict(SMALL.to_dict() | {"chanels": 3})
    with pytest.raises(ValueError, match="missing: channels, head_repeats"):
        Architecture.from_dict({"backbone": "resnet18", "image_size": [64, 64], "neck_repeats": 2})
    with pytest.raises(TypeError, match="section of keys and values, got list"):
        Architecture.from_dict(["resnet18"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("backbone", 18, "backbone must be text, got 18"),
        ("image_size", 512, "image_size must be two whole numbers .*, got 512"),
        ("image_size", [512.5, 512], r"image_size\[0\] must be a whole number, got 512.5"),
        ("channels", "64", "channels must be a whole number, got '64'"),
        ("channels", True, "channels must be a whole number, got True"),
        ("neck_repeats", 3.0, "neck_repeats must be a whole number, got 3.0"),
        ("anchor_scale", "4", "anchor_scale must be a number, got '4'"),
        ("separable", 1, "separable must be true or false, got 1"),
        ("mean", 0.5, "mean must be a list of numbers, one per channel, got 0.5"),
        ("aspect_ratios", 1.0, "aspect_ratios must be a list"),
        ("backbone_blocks", "ir_r1_k3_s2_e2_c16", "backbone_blocks must be a list of stages, got 'ir_r1"),
        (
            "backbone_blocks",
            ["ir_r1_k3_s2_e2_c16"],
            r"backbone_blocks\[0\] must be a list of block strings, got 'ir_r1",
        ),
        ("backbone_blocks", [[3]], r"backbone_blocks\[0\]\[0\] must be a block string such as .*, got 3"),
        ("stem_channels", 8.0, "stem_channels must be a whole number, got 8.0"),
        ("aspect_ratios", ["2:1"], r"aspect_ratios\[0\] must be a number, or two factors .*, got '2:1'"),
    ],
)
def test_a_value_of_a_wrong_type_is_named(field, value, message):
    with pytest.raises(TypeError, match=message):
        Architecture.from_dict(SMALL.to_dict() | {field: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": ""}, "backbone must be the name of a model of timm, got ''"),
        ({"image_size": (512, 0)}, r"image_size\[1\] must be 1 or more, got 0"),
        ({"image_size": (512,)}, r"image_size must be two whole numbers \[height, width\], got \[512\]"),
        ({"image_size": ()}, "image_size must be two whole numbers .*, got an empty list"),
        ({"channels": 0}, "channels must be 1 or more, got 0"),
        ({"head_repeats": -1}, "head_repeats must be 1 or more, got -1"),
        (
            {"neck": "bifnp"},
            "neck must be one of bifpn, fpn, pan, nas_fpn, full, quad, got 'bifnp'; did you mean 'bifpn'",
        ),
        ({"neck": None}, "neck must be one of bifpn, fpn, pan, nas_fpn, full, quad, got None"),
        (
            {"fusion": "attention"},
            "fusion must be one of fast, softmax, sum, unbounded, channel_fast, .*, got 'attention'",
        ),
        ({"fusion": "channel_fastattn"}, "fusion must be one of .*; did you mean 'channel_fast'"),
        ({"conv_order": "bn_act_conv"}, "conv_order must be one of act_conv_bn, conv_bn_act, got 'bn_act_conv'"),
        (
            {"neck": "fpn", "skip_edges": False},
            "skip_edges must be true for the neck 'fpn', got false; only .* 'bifpn'",
        ),
        ({"neck": "pan", "single_input_nodes": True}, "single_input_nodes must be false for the neck 'pan', got true"),
        ({"neck": "nas_fpn", "min_level": 2}, "'nas_fpn' must have 5 levels, .*, got min_level 2 and max_level 7"),
        ({"neck": "nas_fpn", "max_level": 8}, "'nas_fpn' must have 5 levels, .*, got min_level 3 and max_level 8"),
        ({"activation": "swish"}, "activation must be one of silu, .*, got 'swish'"),
        ({"head_activation": "gelu"}, "head_activation must be one of silu, .*, got 'gelu'"),
        ({"min_level": 1}, "min_level must be 2 or more, got 1"),
        ({"min_level": 6}, "min_level must lie in 2…5 and max_level must be 6 or more, got 6 and 7"),
        ({"max_level": 5}, "min_level must lie in 2…5 and max_level must be 6 or more, got 3 and 5"),
        ({"anchor_scale": 0}, "anchor_scale must be positive, got 0"),
        ({"anchor_scale": float("nan")}, "anchor_scale must be finite, got nan"),
        ({"scales_per_octave": 0}, "scales_per_octave must be 1 or more, got 0"),
        ({"aspect_ratios": ()}, "aspect_ratios must be a list .*, got an empty list"),
        ({"aspect_ratios": (-1.0,)}, r"aspect_ratios\[0\] must be positive, got -1.0"),
        ({"aspect_ratios": ((1.0, 2.0, 3.0),)}, r"aspect_ratios\[0\] must be a number, or two factors"),
        ({"std": (1.0, 0.0, 1.0)}, r"std\[1\] must be positive, got 0.0"),
        ({"mean": (1.0,)}, r"mean must have one number for each of in_channels=3 channels, got \[1.0\]"),
        ({"in_channels": 1}, "mean must have one number for each of in_channels=1 .* together with in_channels"),
        ({"stem_channels": 8}, "stem_channels must come together with backbone_blocks, got 8 without them"),
        ({"backbone_blocks": BLOCKS, "stem_channels": 0}, "stem_channels must be 1 or more, got 0"),
        ({"backbone_blocks": ()}, "backbone_blocks must be a list of stages, got an empty list"),
        ({"backbone_blocks": ((),)}, r"backbone_blocks\[0\] must be a list of block strings, got an empty list"),
        ({"backbone_blocks": (("ir_k3",),)}, r"backbone_blocks\[0\]\[0\]: a block of kind 'ir' must have r, s, c, e"),
        ({"backbone_blocks": BLOCKS[:3]}, "backbone_blocks must have 4 stages that begin with stride 2"),
        ({"stochastic_depth": 1.0}, r"stochastic_depth must lie in \[0, 1\), got 1.0"),
    ],
)
def test_a_value_out_of_range_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_every_field_is_checked_and_every_name_has_its_part():
    assert list(_CHECKS) == [field.name for field in fields(Architecture)]
    assert list(LAYERS) == list(get_args(Neck))
    assert list(ACTIVATIONS) == list(get_args(Activation))
    assert list(DOWNSAMPLING) == list(get_args(Downsampling))
    assert list(UPSAMPLING) == list(get_args(Upsampling))
