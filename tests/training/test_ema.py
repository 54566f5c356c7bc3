import copy

import torch
from torch import nn

from effdet.training.ema import EMA


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.bn = nn.BatchNorm2d(2)
        self.register_buffer("mean", torch.tensor([7.0]), persistent=False)


def train_a_little(model):
    model.train()
    model.bn(model.conv(torch.randn(4, 3, 5, 5)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def floats(model):
    return {k: v.double() for k, v in model.state_dict().items() if v.is_floating_point()}


def test_ema_follows_the_formula_for_weights_and_bn_statistics():
    torch.manual_seed(0)
    model = Tiny()
    ema = EMA(model, decay=0.25)
    expected = floats(copy.deepcopy(model))
    for t in range(6):
        train_a_little(model)
        ema.update(model)
        decay = min(0.25, (1 + t) / (10 + t))  # 0.1, 0.18, then 0.25
        expected = {k: decay * expected[k] + (1 - decay) * v for k, v in floats(model).items()}
    for name, value in floats(ema.model).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert ema.count == 6
    assert ema.model.bn.num_batches_tracked == 6
    assert not torch.equal(ema.model.bn.running_mean, torch.zeros(2))


def test_decay_zero_keeps_an_exact_copy():
    model = Tiny()
    ema = EMA(model, decay=0.0)
    train_a_little(model)
    ema.update(model)
    for name, value in model.state_dict().items():
        assert torch.equal(ema.model.state_dict()[name], value)


def test_the_average_is_in_eval_mode_without_gradients_and_apart():
    model = Tiny().train()
    ema = EMA(model)
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    before = ema.model.conv.weight.clone()
    train_a_little(model)
    assert torch.equal(ema.model.conv.weight, before)


def test_a_restored_average_goes_on_exactly():
    torch.manual_seed(0)
    model = Tiny()
    ema = EMA(model)
    for _ in range(3):
        train_a_little(model)
        ema.update(model)
    restored = EMA(Tiny())
    restored.load_state_dict(copy.deepcopy(ema.state_dict()))
    train_a_little(model)
    for average in (ema, restored):
        average.update(model)
    assert restored.count == 4
    for name, value in ema.state_dict()["model"].items():
        assert torch.equal(restored.state_dict()["model"][name], value)
