"""The kernel of the focal loss on a GPU, run by Triton's interpreter on the CPU, beside PyTorch's operators."""

import importlib.util
import os
import subprocess
import sys

import pytest

COMPARE = """
import itertools, torch
from effdet.training import focal

generator = torch.Generator().manual_seed(0)
for dtype, smoothing, crowds in itertools.product((torch.float32, torch.float16), (0.0, 0.1), (False, True)):
    rows = (torch.randn(1500, 7, generator=generator) * 6 - 3).to(dtype)
    rows[0, :4] = torch.tensor([-80.0, 80.0, 0.0, -4.6])
    ignored = torch.rand(1500, generator=generator) < 0.3 if crowds else None
    kind = focal.ClassLossKind(gamma=1.5, background=0.75, positive=0.25, smoothing=smoothing, fused=True)
    weight = torch.tensor(0.37)
    total, gradient = focal._background_by_kernel(rows, ignored, kind, weight)
    expected, slopes = focal._background_by_operators(rows.double(), ignored, kind, weight.double())
    assert abs(total.item() / expected.item() - 1) < 1e-6
    assert gradient.dtype == dtype
    rtol = max(2e-5, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(gradient.double(), slopes, rtol=rtol, atol=1e-7)
    print("equal")
"""

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from effdet.training.triton_focal import BLOCK, _background

kinds = {"rows": "*fp16", "ignored": "*i1", "weight": "*fp32", "gradient": "*fp16", "sums": "*fp32", "count": "i64"}
kinds |= {"num_classes": "i32", "gamma": "fp32", "smoothing": "fp32"}
constants = {"has_ignored": True, "block": BLOCK}
source = ASTSource(_background, {**kinds, **dict.fromkeys(constants, "constexpr")}, constants)
for capability in (75, 90):  # Turing and Hopper
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
    print("made", len(made.asm["cubin"]))
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with PyTorch for CUDA")
@pytest.mark.parametrize(("code", "word", "count"), [(COMPARE, "equal", 8), (COMPILE, "made", 2)])
def test_the_kernel_computes_what_the_operators_compute_and_compiles_for_gpus(code, word, count):
    interpreter = {"TRITON_INTERPRET": "1"} if code is COMPARE else {}  # is read when Triton is imported
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env={**os.environ, **interpreter}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(word) == count
