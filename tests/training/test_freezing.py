import pytest
import torch
from torch import nn

from effdet.training.freezing import freeze, train_mode


def stage():
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_stem, self.bn1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.blocks = nn.Sequential(*[stage() for _ in range(4)])

    def forward(self, x):
        return self.blocks(self.bn1(self.conv_stem(x)))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.class_head = Backbone(), stage(), stage()

    def forward(self, x):
        return self.class_head(self.neck(self.backbone(x)))

    def stem_modules(self):
        return [self.backbone.conv_stem, self.backbone.bn1, *self.backbone.blocks[:2]]


PARTS = {
    "none": (),
    "stem": ("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0", "backbone.blocks.1"),
    "backbone": ("backbone",),
    "backbone+neck": ("backbone", "neck"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_frozen_part_keeps_weights_and_bn_statistics_and_the_rest_moves(part):
    torch.manual_seed(0)
    network = Network()
    frozen = freeze(network, part)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    train_mode(network, frozen)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    (network(torch.randn(4, 3, 8, 8)) ** 2 * torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()

    for name, value in network.state_dict().items():
        is_frozen = name.startswith(tuple(f"{prefix}." for prefix in PARTS[part]))
        dead = name.endswith("0.bias") or name == "backbone.conv_stem.bias"  # a bias before BN has no gradient
        if is_frozen:
            assert torch.equal(value, before[name]), name
        elif not dead:
            assert not torch.equal(value, before[name]), name


def test_the_real_backbone_has_the_parts():
    from effdet.detector.efficientdet import EfficientDet

    network = EfficientDet("lite0", 1).network
    frozen = freeze(network, "stem")
    names = {name for name, p in network.named_parameters() if not p.requires_grad}
    prefixes = ("conv_stem.", "bn1.", "blocks.0.", "blocks.1.")
    assert names == {n for n, _ in network.named_parameters() if n.startswith(tuple("backbone." + p for p in prefixes))}
    assert len(frozen) == 4


def test_kept_bn_statistics_stay_while_the_weights_around_them_learn():
    torch.manual_seed(0)
    network = Network()
    frozen = freeze(network, "none", bn_statistics=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    train_mode(network, frozen)
    network(torch.randn(4, 3, 8, 8)).square().sum().backward()
    statistics = {name for name in before if "running" in name}
    moved = {name for name in statistics if not torch.equal(network.state_dict()[name], before[name])}
    assert moved == {name for name in statistics if not name.startswith("backbone.")}
    assert all(p.grad is not None for p in network.backbone.parameters())
