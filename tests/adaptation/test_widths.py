from dataclasses import replace

import pytest
import torch

from effdet import Architecture
from effdet.adaptation.widths import narrowed_uniformly, widths_of
from effdet.models.network import Network


def values(architecture):
    return {name: width.value for name, width in widths_of(architecture).items()}


def test_widths_of_a_small_network_have_their_names_and_values(small_architecture):
    assert values(small_architecture) == {
        "stem": 16,
        "stage 0 output": 16,
        "stage 1 output": 16,
        "stage 2 output": 24,
        "stage 3 output": 40,
        "block 1.0 expansion": 32,
        "block 1.1 expansion": 48,
        "block 2.0 expansion": 32,
        "block 2.1 expansion": 48,
        "block 3.0 expansion": 48,
        "stage 1 expansions": 48,
        "stage 2 expansions": 48,
        "neck": 32,
        "heads": 32,
        "neck layers": 2,
        "head layers": 2,
    }


def test_narrowing_one_width_changes_no_other(small_architecture):
    before = values(small_architecture)
    for name, width in widths_of(small_architecture).items():
        value = next(width.smaller())
        changed = {key for key, now in values(width.set(value)).items() if now != before[key]}
        parts = {key for key in before if key.startswith(f"block {name[6]}.")} if width.is_several else set()
        assert changed - {f"stage {name[6:7]} expansions"} <= {name} | parts, name
        assert values(width.set(value))[name] == value


def test_an_output_is_narrowed_with_all_that_skip_connections_tie_to_it(small_architecture):
    narrower = widths_of(small_architecture)["stage 1 output"].set(8)
    assert narrower.backbone_blocks[1] == ("ir_r1_k3_s2_e2_c8", "ir_r1_k3_s1_e6_c8")  # the expansions stay 32 and 48
    assert narrower.backbone_blocks[2][0] == "ir_r1_k5_s2_e4_c24_se0.5"  # and so do 32 and 4 squeezed channels


def test_a_skip_connection_may_tie_the_stem():
    architecture = replace(Architecture.named("d0"), backbone="tf_mobilenetv3_large_100")
    assert "stem" not in values(architecture)
    narrower = widths_of(architecture)["stage 0 output"].set(8)
    assert (narrower.stem_channels, narrower.backbone_blocks[0][0]) == (8, "ds_r1_k3_s1_c8_nre")


def test_no_skip_connection_comes_where_two_widths_become_equal():
    architecture = Architecture.named("lite0")
    assert widths_of(architecture)["stem"].set(16).backbone_blocks[0] == ("ds_r1_k3_s1_c16_noskip",)


def test_neck_and_backbone_never_get_the_same_width(small_architecture):
    widths = widths_of(small_architecture)
    assert list(widths["neck"].smaller()) == [8]  # not 24 and 16
    assert 32 not in widths["stage 3 output"].smaller()
    same = replace(small_architecture, channels=24)
    assert {"neck", "stage 2 output"} & set(widths_of(same)) == set()


def test_heads_keep_their_width_when_the_neck_is_narrowed(small_architecture):
    narrower = widths_of(small_architecture)["neck"].set(8)
    assert (narrower.channels, narrower.head_channels) == (8, 32)
    assert widths_of(narrower)["heads"].set(8).head_channels is None  # that of the neck


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_b0"])
def test_a_backbone_that_cannot_be_cut_has_no_widths(backbone, small_architecture):
    plain = replace(small_architecture, backbone=backbone, backbone_blocks=None, stem_channels=None)
    uncut = replace(plain, expanded_features=True) if backbone != "resnet18" else plain
    assert set(widths_of(uncut)) == {"neck", "heads", "neck layers", "head layers"}


@pytest.mark.parametrize("block", ["ir_r1_k3.5_s1_e2_c16", "ir_r1_k3_s1_e2_c16_gs8"])
def test_blocks_with_groups_or_several_kernels_are_not_cut(block, small_architecture):
    blocks = (*small_architecture.backbone_blocks[:1], ("ir_r1_k3_s2_e2_c16", block))
    architecture = replace(small_architecture, backbone_blocks=blocks + small_architecture.backbone_blocks[2:])
    assert "stem" not in widths_of(architecture)


def test_a_uniform_multiplier_narrows_every_width(small_architecture):
    half = narrowed_uniformly(small_architecture, 0.5)
    found = {name: value for name, value in values(half).items() if "expansions" not in name}
    assert found == {
        "stem": 8,
        "stage 0 output": 8,
        "stage 1 output": 8,
        "stage 2 output": 16,  # of 8 and 16, which are as near to 12
        "stage 3 output": 24,
        "block 1.0 expansion": 16,
        "block 1.1 expansion": 24,
        "block 2.0 expansion": 16,
        "block 2.1 expansion": 24,
        "block 3.0 expansion": 24,
        "neck": 32,  # 8, 16 and 24 are outputs of the backbone
        "heads": 16,
        "neck layers": 2,
        "head layers": 2,
    }


def test_a_uniform_multiplier_must_make_narrower(small_architecture):
    with pytest.raises(ValueError, match=r"factor must lie in \(0, 1\], got 1.5"):
        narrowed_uniformly(small_architecture, 1.5)


def test_every_narrower_network_can_be_built(small_architecture):
    for width in widths_of(small_architecture).values():
        for value in width.smaller():
            with torch.device("meta"):
                Network(width.set(value), 3, stochastic_depth=0.0)
