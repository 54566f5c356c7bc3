import math

import pytest
import torch

from effdet.models.heads import DenseHead


def make_head(**changes):
    torch.manual_seed(0)
    head = DenseHead(**{"channels": 4, "num_layers": 2, "num_levels": 3, "num_anchors": 9, "num_outputs": 5} | changes)
    return head.eval()


def test_outputs_run_by_level_row_column_anchor():
    head = make_head()
    pyramid = [torch.randn(2, 4, h, w) for h, w in [(4, 6), (2, 3), (1, 2)]]
    rows = []
    for level, x in enumerate(pyramid):
        tower = x
        for conv, bns in zip(head.convs, head.bns, strict=True):
            tower = torch.nn.functional.silu(bns[level](conv(tower)))
        out = head.predict(tower)
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                for a in range(9):
                    rows.append(out[:, a * 5 : a * 5 + 5, i, j])
    torch.testing.assert_close(head(pyramid), torch.stack(rows, dim=1))


def test_convolutions_are_shared_by_levels_and_bn_is_not():
    head = make_head()
    pyramid = [torch.randn(1, 4, 2, 2) for _ in range(3)]
    before = head(pyramid)
    head.bns[0][1].bias.data += 1.0
    changed = (head(pyramid) != before).any(-1).any(0).view(3, -1).any(1)
    assert changed.tolist() == [False, True, False]


def test_every_anchor_starts_with_the_prior_as_its_score():
    head = make_head(prior=0.01)
    assert head.predict.pointwise.bias.detach().unique().tolist() == pytest.approx([-4.59512], abs=1e-5)
    scores = head([torch.zeros(1, 4, 2, 2)] * 3).sigmoid()
    torch.testing.assert_close(scores, torch.full_like(scores, 0.01))


def test_full_convolutions_without_bias_still_predict_with_one():
    head = make_head(separable=False, bias=False, prior=0.01)
    assert {name: tuple(value.shape) for name, value in head.named_parameters() if "bns" not in name} == {
        "convs.0.weight": (4, 4, 3, 3),
        "convs.1.weight": (4, 4, 3, 3),
        "predict.weight": (45, 4, 3, 3),
        "predict.bias": (45,),
    }
    assert head.output_conv.bias.detach().unique().tolist() == pytest.approx([-4.59512], abs=1e-5)


def test_without_a_prior_the_bias_is_zero():
    assert not make_head().predict.pointwise.bias.any()
    assert math.prod(make_head()([torch.randn(1, 4, 2, 2)] * 3).shape) == 3 * 4 * 9 * 5


def test_gradient_checkpointing_changes_no_gradient():
    head = make_head().train()
    pyramid = [torch.randn(2, 4, 4, 4) for _ in range(3)]
    gradients = []
    for head.gradient_checkpointing in (False, True):
        head.zero_grad()
        head(pyramid).square().sum().backward()
        gradients.append([p.grad.clone() for p in head.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_tower_may_be_narrower_or_wider_than_the_pyramid():
    head = make_head(width=7, num_layers=3)
    assert [tuple(conv.pointwise.weight.shape[:2]) for conv in head.convs] == [(7, 4), (7, 7), (7, 7)]
    assert [bn.num_features for bns in head.bns for bn in bns] == [7] * 9
    assert head([torch.randn(1, 4, 2, 2) for _ in range(3)]).shape == (1, 3 * 2 * 2 * 9, 5)
