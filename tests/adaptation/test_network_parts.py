from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from effdet import Architecture
from effdet.adaptation.network_parts import parts_of
from effdet.adaptation.widths import widths_of
from effdet.models.cost import network_cost


def macs(part):
    """Count the multiply-adds of a part with torch's counter."""
    with torch.device("meta"):
        maps = [torch.empty(1, *size) for size in part.inputs] or torch.empty(1, *part.image)
        module = part.build().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        outputs = module(maps)
    if part.outputs:
        assert [tuple(output.shape[1:]) for output in outputs] == list(part.outputs)
    return counter.get_total_flops() // 2


SMALL = {"image_size": (128, 160), "channels": 24, "neck_repeats": 2, "head_repeats": 2}
PLAIN = {**SMALL, "stochastic_depth": 0.0}
ARCHITECTURES = {
    "lite0": Architecture.named("lite0"),
    "d0": Architecture.named("d0"),
    "quad": replace(Architecture.named("d0"), neck="quad", head_channels=40),
    "mobilenetv3": Architecture(backbone="mobilenetv3_large_100", neck="pan", **PLAIN),
    "mobilenetv4": Architecture(backbone="mobilenetv4_conv_small", separable=False, max_level=6, **PLAIN),
    "resnet18": Architecture(backbone="resnet18", neck="nas_fpn", **PLAIN),
    "expanded": Architecture(backbone="efficientnet_b0", expanded_features=True, neck="fpn", **SMALL),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parts_of_a_network_have_all_its_multiply_adds(name):
    architecture, size = ARCHITECTURES[name], (96, 160)
    parts = parts_of(architecture, 5, size)
    assert sum(macs(part) for part in parts) == network_cost(architecture, num_classes=5, image_size=size).macs


def test_equal_keys_belong_to_equal_parts(small_architecture):
    widths = widths_of(small_architecture)
    found = {}
    for name in ("stage 1 output", "block 2.1 expansion", "heads"):
        for part in parts_of(widths[name].set(8), 3, (64, 96)):
            size = (part.inputs, part.outputs, macs(part))
            assert found.setdefault(part.key, size) == size
