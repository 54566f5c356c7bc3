from dataclasses import replace

import pytest
import torch

from effdet.models.architecture import Architecture
from effdet.models.cost import Cost, network_cost
from effdet.models.network import Network

D0 = Architecture.named("d0")


def test_d0_costs_what_was_published():
    cost = network_cost(D0)
    assert cost.parameters == 3_880_067
    assert cost.macs == pytest.approx(2.54e9, rel=0.02)


def test_macs_are_those_of_a_loop_over_the_convolutions():
    small = replace(D0, image_size=(64, 96), channels=16, head_repeats=1)
    network = Network(small, 3, stochastic_depth=0.0).eval()
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += output.numel() * module.weight[0].numel()  # each output is a sum over one filter

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 96))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert network_cost(small, num_classes=3) == Cost(macs=total, parameters=parameters)


def test_another_input_size_changes_macs_but_not_parameters():
    small, large = network_cost(D0, image_size=(128, 128)), network_cost(D0, image_size=(256, 256))
    assert large.macs == pytest.approx(4 * small.macs, rel=0.01)  # squeeze-and-excite does not grow
    assert large.parameters == small.parameters
