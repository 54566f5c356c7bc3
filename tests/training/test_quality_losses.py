import math

import pytest
import torch

from effdet.config import ClassLoss
from effdet.kernels.library import load_kernels
from effdet.training.dense_targets import DenseAssignment
from effdet.training.focal import sparse_class_loss
from effdet.training.losses import class_loss_kind
from effdet.training.quality_losses import quality_focal_loss, varifocal_loss
from effdet.training.targets import Assignment

K = 3
LOSSES = {"quality_focal": quality_focal_loss, "varifocal": varifocal_loss}


def test_quality_focal_loss_equals_the_formula_by_hand():
    p, y = 0.7, 0.4
    expected = abs(y - p) ** 2 * -((1 - y) * math.log(1 - p) + y * math.log(p))
    got = quality_focal_loss(torch.tensor(p).logit(), torch.tensor(y))
    assert got.item() == pytest.approx(expected, rel=1e-5)
    assert quality_focal_loss(torch.tensor(y).logit(), torch.tensor(y)).item() == pytest.approx(0, abs=1e-10)


def test_varifocal_loss_equals_the_formula_by_hand():
    p, q = 0.7, 0.4
    positive = -q * (q * math.log(p) + (1 - q) * math.log(1 - p))
    negative = -0.75 * p**2 * math.log(1 - p)
    got = varifocal_loss(torch.tensor([p, p]).logit(), torch.tensor([q, 0.0]))
    assert got.tolist() == pytest.approx([positive, negative], rel=1e-5)


def an_assignment(rows, generator):
    """A fifth of the anchors positive, some of them with the score 0 or 1, and some ignored."""
    order = torch.randperm(rows, generator=generator)
    positive, ignored = order[: rows // 5].sort().values, order[rows // 5 : rows // 3].sort().values
    classes = torch.randint(0, K, (len(positive),), generator=generator)
    scores = torch.rand(len(positive), generator=generator)
    scores[0], scores[1] = 0, 1
    return Assignment(positive, classes, torch.zeros(len(positive), 4), ignored, scores)


def as_dense(rows, lists):
    is_positive, is_ignored = torch.zeros(2, rows, dtype=torch.bool)
    classes, scores = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows)
    is_positive[lists.positive], is_ignored[lists.ignored] = True, True
    classes[lists.positive], scores[lists.positive] = lists.classes, lists.scores
    return DenseAssignment(is_positive, classes, torch.zeros(rows, 4), is_ignored, scores)


@pytest.mark.parametrize("how", ["lists", "dense", "kernel"])
@pytest.mark.parametrize("gamma", [None, 1.5, 0.5])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_equal_those_of_autograd_in_float64(name, gamma, how):
    if how == "kernel" and load_kernels() is None:
        pytest.skip("this machine cannot compile the kernels")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, K, generator=generator).mul(6).requires_grad_()
    lists = an_assignment(60, generator)
    assignment = as_dense(60, lists) if how == "dense" else lists
    kind = class_loss_kind(ClassLoss(name), gamma=gamma, fused=how == "kernel")
    got = sparse_class_loss(logits, assignment, kind, scale=0.3)

    targets, counts = torch.zeros(60, K, dtype=torch.float64), torch.ones(60, 1)
    targets[lists.positive, lists.classes] = lists.scores.double()
    counts[lists.ignored] = 0
    double = logits.detach().double().requires_grad_()
    exponent = {} if gamma is None else {"beta" if name == "quality_focal" else "gamma": gamma}
    expected = 0.3 * (LOSSES[name](double, targets, **exponent) * counts).sum()
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0)
    (gradient,), (slope,) = torch.autograd.grad(got, logits), torch.autograd.grad(expected, double)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_have_finite_losses(name):
    logits = torch.tensor([[-1e4, 0.0, 1e4], [1e4, -1e4, 90.0]], requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    assignment = Assignment(
        torch.tensor([0, 1]), torch.tensor([2, 1]), torch.zeros(2, 4), nothing, torch.tensor([0.5, 0.5])
    )
    loss = sparse_class_loss(logits, assignment, class_loss_kind(ClassLoss(name)))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_parameters_that_a_loss_does_not_have_are_refused():
    with pytest.raises(ValueError, match="alpha must be None with class_loss 'quality_focal', which has none"):
        class_loss_kind(ClassLoss.quality_focal, alpha=0.5)
    with pytest.raises(ValueError, match="label_smoothing needs class_loss 'focal', got 'varifocal'"):
        class_loss_kind(ClassLoss.varifocal, label_smoothing=0.1)
