import inspect
import re
import subprocess
import sys

import pytest
import timm
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual, SqueezeExcite
from torch import nn

from effdet.kernels.blocks import PARTS, _fits

WHAT_TO_DO = (
    f"timm {timm.__version__} changed a private class that effdet/kernels/blocks.py computes in another way: read its "
    "new forward and change the fused block, PARTS and this test; until then require the older timm in setup.cfg"
)


@pytest.mark.parametrize("kind", [InvertedResidual, DepthwiseSeparableConv])
def test_timms_blocks_have_the_parts_that_the_fused_ones_compute(kind):
    calls = re.findall(r"self\.(\w+)\(", inspect.getsource(kind.forward))
    assert tuple(name for name in calls if not name.endswith("_s2d")) == PARTS[kind], WHAT_TO_DO
    assert tuple(name for name, _ in kind(16, 16).named_children()) == PARTS[kind], WHAT_TO_DO
    assert hasattr(kind(16, 16), "has_skip"), WHAT_TO_DO


def test_timms_squeeze_and_excitation_is_the_one_that_the_fused_blocks_compute():
    calls = re.findall(r"self\.(\w+)\(", inspect.getsource(SqueezeExcite.forward))
    assert calls == ["conv_reduce", "act1", "conv_expand", "gate"], WHAT_TO_DO
    assert ".mean((2, 3)" in inspect.getsource(SqueezeExcite.forward), WHAT_TO_DO


def test_timms_norm_has_an_activation_and_a_drop():
    assert [name for name, _ in BatchNormAct2d(8).named_children()] == ["drop", "act"], WHAT_TO_DO


def test_a_block_with_another_part_keeps_its_plain_forward():
    block = InvertedResidual(16, 16, act_layer=nn.SiLU)
    assert _fits(block)
    block.extra = nn.Identity()
    assert not _fits(block)
    assert not _fits(InvertedResidual(16, 16, act_layer=nn.SiLU, s2d=1))


def test_without_timms_blocks_the_error_says_what_to_do():
    code = (
        "import timm.models._efficientnet_blocks as blocks; del blocks.InvertedResidual; import effdet.kernels.blocks"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "this version of timm has other classes" in done.stderr
    assert "train with train.fused=false" in done.stderr
