"""The kernel that picks boxes on a GPU, run by Triton's interpreter on the CPU, beside PyTorch's operators."""

import importlib.util
import os
import subprocess
import sys

import pytest

COMPARE = """
import itertools, torch
from effdet.ops.batched_postprocess import _pick_boxes
from effdet.ops.triton_nms import pick_boxes

def random_boxes(num_images, count):
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(num_images, count, 2, generator=generator) * 60
    sides = torch.rand(num_images, count, 2, generator=generator) * 30
    scores = torch.rand(num_images, count, generator=generator).double()
    scores[:, count // 2 :] = torch.where(scores[:, count // 2 :] > 0.7, -1.0, scores[:, count // 2 :])
    scores[0, :5] = 0.5  # of equal scores the first is picked
    labels = torch.randint(0, 3, (num_images, count), generator=generator)
    return torch.cat([corner, corner + sides], dim=2), scores, labels

sizes = ((2, 200), (1, 33), (3, 1))
for (num_images, count), sigma, class_agnostic in itertools.product(sizes, (None, 0.5), (False, True)):
    boxes, scores, labels = random_boxes(num_images, count)
    settings = dict(steps=min(60, count), floor=0.0 if sigma is None else 0.125, sigma=sigma, iou_threshold=0.5)
    settings["class_agnostic"] = class_agnostic
    picks, pick_scores = pick_boxes(boxes, scores, labels, **settings)
    expected, expected_scores = _pick_boxes(boxes, scores, labels, **settings)
    is_pick = expected_scores >= settings["floor"]
    assert torch.equal(picks, torch.where(is_pick, expected, 0)), settings
    torch.testing.assert_close(pick_scores, torch.where(is_pick, expected_scores, -1.0), rtol=1e-12, atol=0)
    print("equal", int(is_pick.sum()))
"""


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from effdet.ops.triton_nms import _pick

pointers = {"boxes": "*fp32", "scores": "*fp64", "labels": "*i64", "picks": "*i64", "pick_scores": "*fp64"}
numbers = {"count": "i32", "steps": "i32", "floor": "fp32"}
constants = {"limit": 0.5, "min_area": 0.0, "soft": True, "class_agnostic": False, "block": 8192}
source = ASTSource(_pick, {**pointers, **numbers, **dict.fromkeys(constants, "constexpr")}, constants)
for capability in (75, 90):  # Turing and Hopper
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 32})
    print("made", len(made.asm["cubin"]))
"""

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton comes with PyTorch for CUDA"
)


@needs_triton
def test_the_kernel_compiles_for_gpus():
    result = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("made") == 2


@needs_triton
def test_the_kernel_picks_what_the_operators_pick():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # is read when Triton is imported
    result = subprocess.run([sys.executable, "-c", COMPARE], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("equal") == 12
