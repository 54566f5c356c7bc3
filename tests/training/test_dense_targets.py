"""Targets and losses with one entry per anchor, as a GPU computes them, beside the lists that a CPU computes."""

import pytest
import torch

from effdet.ops.anchors import level_sizes, make_anchors
from effdet.structures import Predictions, Target
from effdet.training import dense_targets, focal
from effdet.training.dense_targets import assign_dense
from effdet.training.focal import sparse_focal_loss
from effdet.training.losses import DetectionLoss
from effdet.training.targets import assign

SIZE = (128, 192)
K = 5


def anchors():
    return make_anchors(SIZE, level_sizes(SIZE, 3, 7), scale=4.0)


def random_boxes(count, generator):
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([150.0, 90.0])
    side = torch.rand(count, 2, generator=generator) * 60 + 2
    return torch.cat([corner, corner + side], dim=1)


def random_targets(seed, counts=(4, 0, 9), crowds=(1, 2, 0)):
    generator = torch.Generator().manual_seed(seed)
    return [
        Target(
            random_boxes(count, generator),
            torch.randint(0, K, (count,), generator=generator),
            random_boxes(crowd, generator),
        )
        for count, crowd in zip(counts, crowds, strict=True)
    ]


def assert_same(dense, lists, num_anchors_of_batch, all_anchors):
    positive = dense.is_positive.nonzero().flatten()
    torch.testing.assert_close(positive, lists.positive)
    torch.testing.assert_close(dense.classes[positive], lists.classes)
    torch.testing.assert_close(dense.boxes[positive], lists.boxes)
    assert dense.num_positives == lists.num_positives
    ignored = torch.zeros(num_anchors_of_batch, dtype=torch.bool)
    ignored[lists.ignored] = True
    assert torch.equal(ignored, torch.zeros_like(ignored) if dense.is_ignored is None else dense.is_ignored)
    rest = ~dense.is_positive
    assert torch.equal(dense.boxes[rest], all_anchors[rest])
    assert not dense.classes[rest].any()


@pytest.mark.parametrize("block", [dense_targets.MAX_BLOCK, 3 * 4000, 1])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("positive_iou", [0.5, 0.3, 1.0])
def test_dense_targets_equal_the_lists(monkeypatch, block, seed, positive_iou):
    monkeypatch.setattr(dense_targets, "MAX_BLOCK", block)
    targets = random_targets(seed)
    dense = assign_dense(anchors(), targets, positive_iou=positive_iou)
    lists = assign(anchors(), targets, positive_iou=positive_iou)
    assert_same(dense, lists, 3 * len(anchors()), anchors().repeat(3, 1))


def test_ties_and_contested_anchors_are_decided_alike():
    square = torch.tensor([[32.0, 32.0, 64.0, 64.0]])  # as large as an anchor, between four of its size
    twice = square.repeat(2, 1)
    far = torch.tensor([[-500.0, -500.0, -490.0, -490.0]])  # touches no anchor
    exact = anchors()[77:78]
    targets = [
        Target(torch.cat([far, twice]), torch.tensor([2, 1, 0]), torch.zeros(0, 4)),
        Target(torch.cat([exact, exact]), torch.tensor([4, 3]), torch.zeros(0, 4)),
    ]
    dense = assign_dense(anchors(), targets)
    assert dense.is_ignored is None
    assert_same(dense, assign(anchors(), targets), 2 * len(anchors()), anchors().repeat(2, 1))


def test_a_batch_without_boxes_has_no_positive_anchor():
    targets = random_targets(0, counts=(0, 0), crowds=(0, 0))
    dense = assign_dense(anchors(), targets)
    assert dense.num_positives == 0
    assert dense.is_ignored is None


def test_the_smallest_iou_of_a_match_is_checked():
    with pytest.raises(ValueError, match=r"positive_iou must lie in \(0, 1\], got 0"):
        assign_dense(anchors(), random_targets(0), positive_iou=0)


@pytest.mark.parametrize(
    ("dtype", "chunk"),
    [
        (torch.float32, 40),
        *((dtype, focal.DEVICE_CHUNK) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)),
    ],
)
@pytest.mark.parametrize("crowds", [(0, 0, 0), (1, 2, 0)])
@pytest.mark.parametrize("settings", [{}, {"box_loss": "ciou", "label_smoothing": 0.1}, {"mask_zero_targets": True}])
def test_losses_and_gradients_equal_those_of_the_lists(monkeypatch, dtype, crowds, chunk, settings):
    monkeypatch.setattr(focal, "DEVICE_CHUNK", chunk)
    generator = torch.Generator().manual_seed(3)
    targets = random_targets(7, crowds=crowds)
    shape = (3, len(anchors()))
    logits = torch.randn(*shape, K, generator=generator).mul(4).to(dtype)
    deltas = torch.randn(*shape, 4, generator=generator).mul(0.3).to(dtype)
    deltas[0, 0] = 1e4  # a wild prediction of an anchor without a box must not reach the loss
    criterion = DetectionLoss(**settings)
    results = []
    for method in (assign, assign_dense):
        x, d = logits.clone().requires_grad_(), deltas.clone().requires_grad_()
        losses = criterion(Predictions(x, d), anchors(), targets, assignment=method(anchors(), targets))
        (3 * losses["class_loss"] + losses["box_loss"]).backward()
        results.append((losses, x.grad, d.grad))
    (by_list, *list_gradients), (dense, *dense_gradients) = results
    for name in by_list:
        torch.testing.assert_close(dense[name], by_list[name], rtol=2e-5, atol=1e-6)
    for got, expected in zip(dense_gradients, list_gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-2 if got.element_size() == 2 else 1e-4, atol=1e-7)
        assert got.isfinite().all()


def test_the_dense_focal_gradient_matches_finite_differences():
    targets = [Target(torch.tensor([[0.0, 0.0, 40.0, 40.0]]), torch.tensor([1]), torch.tensor([[90.0, 0, 190, 120]]))]
    few = anchors()[::400]
    assignment = assign_dense(few, targets)
    assert assignment.num_positives >= 1
    assert assignment.is_ignored is not None
    assert assignment.is_ignored.any()
    logits = torch.randn(len(few), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sparse_focal_loss(x, assignment, label_smoothing=0.1), (logits,))
