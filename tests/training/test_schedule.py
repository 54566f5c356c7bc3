import math

import pytest
import torch
from torch import nn

from effdet.training.schedule import (
    bn_momentum,
    build_optimizer,
    learning_rate,
    scale_learning_rate,
    set_learning_rate,
)


class Mixed(nn.Module):
    """One of each kind of parameter, the fusion weights two-dimensional on purpose."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.edge_weights = nn.Parameter(torch.ones(2, 3))


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.02), (1, 0.04), (4, 0.1), (5, 0.1), (10, 0.05), (14, 0.05 * (1 + math.cos(0.9 * math.pi))), (15, 0.0)],
)
def test_learning_rate_rises_linearly_then_falls_as_a_cosine(step, expected):
    assert learning_rate(step, peak=0.1, warmup_steps=5, total_steps=15) == pytest.approx(expected)


def test_learning_rate_without_warm_up_starts_at_the_peak():
    assert learning_rate(0, peak=0.1, warmup_steps=0, total_steps=10) == 0.1


def test_learning_rate_may_warm_up_to_the_end():
    assert [learning_rate(t, peak=1.0, warmup_steps=2, total_steps=2) for t in range(3)] == [0.5, 1.0, 1.0]


def test_learning_rate_stays_zero_behind_the_end():
    assert learning_rate(99, peak=0.1, warmup_steps=1, total_steps=10) == 0


def test_published_peaks():
    assert scale_learning_rate(0.08, 64, "sgd") == 0.08
    assert scale_learning_rate(0.08, 128, "sgd") == pytest.approx(0.16)  # the paper's
    assert scale_learning_rate(0.001, 16, "adamw") == pytest.approx(0.0005)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_only_convolution_kernels_decay(kind):
    network = Mixed()
    optimizer = build_optimizer(network, kind, weight_decay=0.1)
    set_learning_rate(optimizer, 0.5)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # with no gradient only the decay moves anything: v ← v - lr·w·v
    for name, parameter in network.named_parameters():
        factor = 0.95 if name in ("conv.weight", "depthwise.weight") else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


def test_sgd_decay_is_the_gradient_of_half_the_squared_norm():
    network = nn.Conv2d(2, 2, 1, bias=False)
    v, w = network.weight.detach().clone(), 4e-5
    optimizer = build_optimizer(network, "sgd", momentum=0.9, weight_decay=w)
    set_learning_rate(optimizer, 0.1)
    momentum = torch.zeros_like(v)
    for step in range(3):
        gradient = torch.full_like(v, step + 1.0)
        network.weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.9 * momentum + gradient + w * v
        v = v - 0.1 * momentum
    torch.testing.assert_close(network.weight.detach(), v)


def test_frozen_parameters_are_left_out():
    network = Mixed()
    network.conv.requires_grad_(False)
    held = [p for group in build_optimizer(network, "sgd").param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in network.parameters() if p.requires_grad}


def test_something_must_be_left_to_train():
    network = Mixed().requires_grad_(False)
    with pytest.raises(ValueError, match="must have a parameter to train, got only frozen ones"):
        build_optimizer(network, "sgd")


def test_bn_momentum_falls_to_the_published_one():
    assert [bn_momentum(step) for step in (0, 99, 100, 499, 500, 1_000_000)] == [0.1, 0.1, 0.03, 0.03, 0.01, 0.01]
