import random

import pytest
import torch

from effdet.adaptation.search.blocks import BlockSpace, stages_of
from effdet.models.architecture import Architecture
from effdet.models.backbones import build_backbone
from effdet.models.block_strings import parse_block

BASE = Architecture.named("d0")


class Draw:
    """A trial that draws at random, or takes what ``fixed`` says, and keeps what it chose."""

    def __init__(self, seed=0, fixed=None):
        self.random, self.fixed, self.chosen = random.Random(seed), fixed or {}, {}

    def suggest_categorical(self, name, choices):
        self.chosen[name] = self.fixed.get(name.split(".")[-1], self.random.choice(choices))
        assert self.chosen[name] in choices
        return self.chosen[name]


def test_the_stages_are_those_of_mobilenet_v2_as_its_paper_has_them():
    # MobileNetV2, table 2: width c, repeats n, stride s of each bottleneck.
    table = [(16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)]
    base, stages = stages_of("mobilenetv2_100")
    assert [(stage.channels, stage.repeats, stage.stride) for stage in stages] == table
    assert base.stem_channels == 32


def test_the_defaults_are_the_choices_of_the_paper():
    space = BlockSpace()
    assert (space.kernels, space.se_ratios) == ((3, 5), (0.0, 0.25))
    assert (space.layers, space.widths) == ((-1, 0, 1), (0.75, 1.0, 1.25))


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        (
            {"operation": "inverted_residual", "se_ratio": 0.25, "se_of": "input", "skip": True},
            "ir_r5_k5_s2_e3_c80_se0.25_nhs",
        ),
        (
            {"operation": "inverted_residual", "se_ratio": 0.25, "se_of": "expansion", "skip": False},
            "ir_r5_k5_s2_e3_c80_se0.75_nhs_noskip",  # 0.75 of the input is 0.25 of the expansion by 3
        ),
        ({"operation": "depthwise", "se_ratio": 0.25, "skip": True}, "ds_r5_k5_s2_c80_se0.25_nhs"),
        ({"operation": "convolution", "skip": True}, "cn_r5_k5_s2_c80_nhs_skip"),
        ({"operation": "convolution", "skip": False}, "cn_r5_k5_s2_c80_nhs"),
    ],
)
def test_a_stage_is_written_as_the_block_string_of_its_choices(fixed, expected):
    space = BlockSpace(se_of=("input", "expansion"), activations=("relu", "hardswish"))
    always = {"kernel": 5, "expansion": 3.0, "layers": 1, "width": 1.25, "activation": "hardswish"}
    found = space.propose(Draw(fixed=always | fixed), BASE)
    assert found.backbone_blocks[3] == (expected,)  # the stage of 64 channels and 4 layers


@pytest.mark.parametrize("base", ["mobilenetv2_100", "mobilenetv3_large_100"])  # ratios of the input; of the expansion
@pytest.mark.parametrize("of", ["input", "expansion"])
def test_a_quarter_of_the_expansion_is_a_quarter_of_the_expanded_channels(base, of):
    space = BlockSpace(base=base, operations=("inverted_residual",), expansions=(4.0,), se_ratios=(0.25,), se_of=(of,))
    with torch.device("meta"):
        backbone = build_backbone(space.propose(Draw(), BASE), 0.0)
    for stage in backbone.blocks[5:]:
        expanded, squeezed = stage[-1].conv_dw.out_channels, stage[-1].se.conv_reduce.out_channels
        share = squeezed / expanded * (1 if of == "expansion" else 4)
        assert share == pytest.approx(0.25, rel=0.15)  # some bases round to multiples of 8


def test_layers_are_at_least_one_and_widths_multiples_of_eight():
    for seed in range(20):
        found = BlockSpace(layers=(-3, -1), widths=(0.33, 0.5)).propose(Draw(seed), BASE)
        blocks = [parse_block(stage[0]) for stage in found.backbone_blocks]
        assert min(block.repeats for block in blocks) == 1
        assert all(block.channels % 8 == 0 for block in blocks)


def test_a_single_choice_is_not_asked_for():
    draw = Draw()
    BlockSpace(kernels=(5,), operations=("depthwise",)).propose(draw, BASE)
    assert {name.split(".")[1] for name in draw.chosen} == {"se_ratio", "skip", "width", "layers"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"operations": ["ir"]}, "blocks.operations must be among inverted_residual, depthwise, convolution, got 'ir'"),
        ({"kernels": [4]}, "blocks.kernels must be odd whole numbers, got 4"),
        ({"expansions": [0.5]}, "blocks.expansions must be numbers of 1 or more, got 0.5"),
        ({"se_ratios": [2]}, r"blocks.se_ratios must be numbers in \[0, 1\], got 2"),
        ({"layers": [0.5]}, "blocks.layers must be whole numbers, got 0.5"),
        ({"widths": [-1]}, "blocks.widths must be positive numbers, got -1"),
        ({"activations": ["gelu"]}, "blocks.activations must be among relu, relu6, hardswish, silu, mish, got 'gelu'"),
        ({"kernels": []}, "blocks.kernels must have at least one choice, got an empty list"),
        ({"base": "no_such_model"}, "no_such_model"),
        ({"base": "resnet18"}, "resnet18"),
    ],
)
def test_a_wrong_choice_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BlockSpace(**values)
