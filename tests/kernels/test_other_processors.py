"""The kernels as the compiler makes them for processors without AVX-512, or without any instructions for bf16."""

import copy
import platform

import pytest
import torch
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from torch import nn

from effdet.kernels import library
from effdet.kernels.blocks import FusedInvertedResidual
from effdet.kernels.library import load_kernels
from tests.kernels.block_passes import BLOCKS, errors, fused_copy, lively, needs_kernels, passes

pytestmark = [needs_kernels, pytest.mark.sweep]  # each compiles for a quarter of a minute


@pytest.fixture
def compiled_for(monkeypatch, tmp_path):
    """Return a function that compiles the kernels for a processor."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def compile_for(processor):
        flags = [flag for flag in library.FLAGS if not flag.startswith("-march")]
        monkeypatch.setattr(library, "FLAGS", (*flags, f"-march={processor}"))
        load_kernels.cache_clear()
        assert load_kernels() is not None

    yield compile_for
    load_kernels.cache_clear()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names of processors are those of x86-64")
@pytest.mark.parametrize("processor", ["x86-64", "haswell"])
@pytest.mark.parametrize("options", BLOCKS)
def test_another_processor_computes_the_same(compiled_for, processor, options):
    torch.manual_seed(0)
    block = lively(InvertedResidual(**options, act_layer=nn.SiLU, se_layer=SqueezeExcite))
    fused = fused_copy(block, FusedInvertedResidual)
    x = torch.randn(3, options["in_chs"], 15, 20)
    native = [passes(copy.deepcopy(fused), [x], bf16=bf16) for bf16 in (False, True)]
    compiled_for(processor)
    other = [passes(copy.deepcopy(fused), [x], bf16=bf16) for bf16 in (False, True)]
    for before, after, bound in zip(native, other, (1e-5, 2.0**-6), strict=True):
        found = errors({name: value.double() for name, value in before.items()}, after)
        assert max(found.values()) < bound, found
