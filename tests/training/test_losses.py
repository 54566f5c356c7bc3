import math

import pytest
import torch
import torch.nn.functional as F
import torchvision

from effdet.kernels.library import load_kernels
from effdet.ops.boxes import decode, encode
from effdet.structures import Predictions, Target
from effdet.training import focal
from effdet.training.box_losses import ciou_loss, diou_loss, giou_loss, huber_loss, iou_loss
from effdet.training.focal import focal_loss, sparse_focal_loss
from effdet.training.losses import DetectionLoss
from effdet.training.quality_losses import quality_focal_loss, varifocal_loss
from effdet.training.targets import Assignment

K = 3


def a_batch(dtype=torch.float32, requires_grad=True):
    """Two images of six anchors: the first with a box and a crowd, the second empty."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 6, K, generator=generator) * 3).to(dtype).requires_grad_(requires_grad)
    deltas = (torch.randn(2, 6, 4, generator=generator) * 0.3).to(dtype).requires_grad_(requires_grad)
    anchors = torch.tensor(
        [[0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [20, 0, 40, 10], [40, 40, 60, 60], [0, 40, 10, 50]],
        dtype=torch.float64 if dtype == torch.float64 else torch.float32,
    )
    box = torch.tensor([[1.0, 0, 10, 9]]).to(anchors.dtype)
    crowd = torch.tensor([[18.0, 0, 31, 12]]).to(anchors.dtype)
    targets = [Target(box, torch.tensor([1]), crowd), Target(box[:0], torch.tensor([], dtype=torch.int64))]
    return Predictions(logits, deltas), anchors, targets


POSITIVE, IGNORED = [0, 1], [2, 3]  # anchors of image 0, by hand: IoU .81, .80; 1 and 11/20 of their area in the crowd


def random_assignment(rows, generator):
    order = torch.randperm(rows, generator=generator)
    positive, ignored = order[: rows // 5].sort().values, order[rows // 5 : rows // 3].sort().values
    classes = torch.randint(0, K, (len(positive),), generator=generator)
    return Assignment(positive, classes, torch.zeros(len(positive), 4), ignored)


@pytest.fixture(params=[False, True], ids=["torch", "kernel"])
def fused(request):
    if request.param and load_kernels() is None:
        pytest.skip("this machine cannot compile the kernels")
    return request.param


def dense_targets(rows, assignment):
    """One-hot targets (rows, K) and the mask (rows, 1) of anchors that count."""
    one_hot, counts = torch.zeros(rows, K), torch.ones(rows, 1)
    one_hot[assignment.positive, assignment.classes] = 1
    counts[assignment.ignored] = 0
    return one_hot, counts


def test_focal_loss_matches_torchvision():
    logits, targets = torch.randn(4, 7) * 5, torch.randint(0, 2, (4, 7)).float()
    expected = torchvision.ops.sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=1.5)
    torch.testing.assert_close(focal_loss(logits, targets, alpha=0.25, gamma=1.5), expected)


@pytest.mark.parametrize(("y", "smoothed"), [(1.0, 0.9), (0.0, 0.1)])
def test_label_smoothing_moves_the_cross_entropy_only(y, smoothed):
    p = 0.7
    cross_entropy = -smoothed * math.log(p) - (1 - smoothed) * math.log(1 - p)
    weight = 0.25 * (1 - p) ** 1.5 if y else 0.75 * p**1.5
    logit = torch.tensor(p).logit()
    got = focal_loss(logit, torch.tensor(y), alpha=0.25, gamma=1.5, label_smoothing=0.2)
    torch.testing.assert_close(got, torch.tensor(weight * cross_entropy))


@pytest.mark.parametrize("chunk", [focal.CHUNK, 10, 1])
@pytest.mark.parametrize(("gamma", "smoothing"), [(1.5, 0.0), (2.0, 0.1), (0.0, 0.0)])
def test_sparse_focal_loss_and_gradient_equal_the_dense_ones(monkeypatch, chunk, gamma, smoothing, fused):
    monkeypatch.setattr(focal, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(60, K, generator=generator).mul(8).requires_grad_()
    assignment = random_assignment(60, generator)
    one_hot, counts = dense_targets(60, assignment)

    kind = {"alpha": 0.3, "gamma": gamma, "label_smoothing": smoothing}
    sparse = sparse_focal_loss(logits, assignment, **kind, fused=fused)
    dense = (focal_loss(logits, one_hot, **kind) * counts).sum()
    torch.testing.assert_close(sparse, dense)
    torch.testing.assert_close(torch.autograd.grad(sparse, logits), torch.autograd.grad(dense, logits))


@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("largest", [-20.0, 4.9, 5.1, 40.0])
def test_background_keeps_its_digits_with_and_without_high_logits(gamma, largest, fused):
    """The quick formula, the careful one and the kernel, each against the dense loss in float64."""
    logits = torch.linspace(-30, 1, 600).view(200, K).clone()
    logits[7, 1] = largest
    nothing = torch.zeros(0, dtype=torch.int64)
    single, double = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = sparse_focal_loss(single, Assignment(nothing, nothing, torch.zeros(0, 4), nothing), gamma=gamma, fused=fused)
    expected = focal_loss(double, torch.zeros(200, K), gamma=gamma).sum()
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=3e-6, atol=0)
    torch.testing.assert_close(single.grad.double(), double.grad, rtol=2e-5, atol=1e-12)


def test_sparse_focal_loss_without_smoothing_matches_torchvision():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(60, K, generator=generator) * 4
    assignment = random_assignment(60, generator)
    one_hot, counts = dense_targets(60, assignment)
    dense = torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha=0.25, gamma=1.5)
    torch.testing.assert_close(sparse_focal_loss(logits, assignment), (dense * counts).sum())


def test_sparse_focal_gradient_matches_finite_differences():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(20, K, generator=generator, dtype=torch.float64).mul(3).requires_grad_()
    assignment = random_assignment(20, generator)
    assert torch.autograd.gradcheck(lambda x: sparse_focal_loss(x, assignment, label_smoothing=0.1), (logits,))


def test_sparse_focal_loss_is_finite_at_extreme_logits(fused):
    logits = torch.tensor([[-1e4, 0.0, 1e4], [1e4, -1e4, 90.0]], requires_grad=True)
    assignment = Assignment(
        torch.tensor([1]), torch.tensor([1]), torch.zeros(1, 4), torch.tensor([], dtype=torch.int64)
    )
    loss = sparse_focal_loss(logits, assignment, fused=fused)
    (gradient,) = torch.autograd.grad(loss, logits)
    # background: 0, ¾·½^1.5·ln 2, ¾·10⁴ | ¾·10⁴, positive ¼·10⁴, ¾·90
    torch.testing.assert_close(loss.item(), 0.75 * 0.5**1.5 * math.log(2) + 0.75e4 + 0.75e4 + 0.25e4 + 0.75 * 90)
    assert gradient.isfinite().all()
    torch.testing.assert_close(gradient[1], torch.tensor([0.75, -0.25, 0.75]))


@pytest.mark.parametrize("rows", [0, 1, 5, 6, 30000])
def test_the_kernel_takes_any_number_of_logits_on_any_number_of_threads(rows):
    if load_kernels() is None:
        pytest.skip("this machine cannot compile the kernels")
    generator = torch.Generator().manual_seed(6)
    logits = (torch.randn(rows, K, generator=generator) * 3).requires_grad_()
    assignment = random_assignment(rows, generator)
    plain = sparse_focal_loss(logits, assignment, scale=0.1)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            kernel = sparse_focal_loss(logits, assignment, scale=0.1, fused=True)
            torch.testing.assert_close(kernel, plain)
            got, expected = (torch.autograd.grad(loss, logits, retain_graph=True) for loss in (kernel, plain))
            torch.testing.assert_close(got, expected)
    finally:
        torch.set_num_threads(threads)


def test_a_logit_that_is_not_a_number_makes_the_loss_one(fused):
    logits = torch.zeros(20, K)
    logits[3, 1] = math.nan
    assert sparse_focal_loss(logits, random_assignment(1, torch.Generator()), fused=fused).isnan()


@pytest.mark.parametrize("scale", [0.2, torch.tensor(0.2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_scale_multiplies_loss_and_gradient(dtype, scale, fused):
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(40, K, generator=generator).to(dtype).requires_grad_()
    assignment = random_assignment(40, generator)
    scaled = sparse_focal_loss(logits, assignment, scale=scale, fused=fused)
    expected = sparse_focal_loss(logits, assignment) * 0.2
    torch.testing.assert_close(scaled, expected, check_dtype=False)
    torch.testing.assert_close(torch.autograd.grad(scaled, logits), torch.autograd.grad(expected, logits))


def test_small_shares_survive_float16_under_a_scaler():
    half = torch.full((10, K), -2.0, dtype=torch.float16, requires_grad=True)
    single = torch.full((10, K), -2.0, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    background = Assignment(nothing, nothing, torch.zeros(0, 4), nothing)
    (sparse_focal_loss(half, background, scale=1e-4) * 2**14).backward()
    (sparse_focal_loss(single, background, scale=1e-4) * 2**14).backward()
    torch.testing.assert_close(half.grad.float(), single.grad, rtol=2e-3, atol=0)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_every_backward_pass_over_a_graph_adds_the_same_gradient(factor, fused):
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(40, K, generator=generator).requires_grad_()
    loss = sparse_focal_loss(logits.view(-1, K), random_assignment(40, generator), scale=0.5, fused=fused) * factor
    (expected,) = torch.autograd.grad(loss, logits, retain_graph=True)
    expected = expected.clone()
    for times in range(1, 4):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(logits.grad, times * expected)
    logits.grad.zero_()
    loss.backward()
    torch.testing.assert_close(logits.grad, expected)


def test_huber_loss_is_quadratic_then_linear():
    errors = torch.tensor([0.0, 0.05, -0.1, 0.3])
    by_hand = torch.tensor([0.0, 0.00125, 0.005, 0.1 * 0.3 - 0.005])
    torch.testing.assert_close(huber_loss(errors + 1, torch.ones(4), delta=0.1), by_hand)


def random_boxes(count, generator):
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 40], dim=1)


def test_iou_loss_matches_torchvision_box_iou():
    generator = torch.Generator().manual_seed(5)
    a, b = random_boxes(200, generator), random_boxes(200, generator)
    torch.testing.assert_close(iou_loss(a, b), 1 - torchvision.ops.box_iou(a, b).diagonal())


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("iou", lambda a, b: 1 - torchvision.ops.box_iou(a, b).diagonal()),
        ("giou", lambda a, b: 1 - torchvision.ops.generalized_box_iou(a, b).diagonal()),
        ("diou", lambda a, b: 1 - torchvision.ops.distance_box_iou(a, b).diagonal()),
        ("ciou", lambda a, b: 1 - torchvision.ops.complete_box_iou(a, b).diagonal()),
    ],
)
def test_iou_losses_compare_decoded_boxes(name, formula):
    predictions, anchors, targets = a_batch()
    got = DetectionLoss(box_loss=name, box_weight=2.0)(predictions, anchors, targets)["box_loss"]
    decoded = decode(predictions.box_deltas[0, POSITIVE], anchors[POSITIVE])
    expected = 2.0 * formula(decoded, targets[0].boxes.expand(2, 4)).sum() / 3
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (giou_loss, torchvision.ops.generalized_box_iou_loss),
        (diou_loss, torchvision.ops.distance_box_iou_loss),
        (ciou_loss, torchvision.ops.complete_box_iou_loss),
    ],
)
def test_iou_losses_and_their_gradients_equal_those_of_torchvision(ours, theirs):
    generator = torch.Generator().manual_seed(6)
    boxes, targets = random_boxes(300, generator), random_boxes(300, generator)
    boxes[:50] += 200  # these do not touch
    boxes[50:60] = targets[50:60]
    mine, other = boxes.double().requires_grad_(), boxes.double().requires_grad_()
    losses, expected = ours(mine, targets.double()), theirs(other, targets.double())
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    expected.sum().backward()
    kept = torch.cat([torch.arange(50), torch.arange(60, 300)])  # equal corners have more than one subgradient
    torch.testing.assert_close(mine.grad[kept], other.grad[kept])
    assert mine.grad.isfinite().all()


@pytest.mark.parametrize("loss", [iou_loss, giou_loss, diou_loss, ciou_loss])
def test_a_box_without_height_or_width_has_a_finite_loss_and_gradient(loss):
    flat = torch.tensor([[4.0, 5.0, 9.0, 5.0], [4.0, 5.0, 4.0, 9.0], [4.0, 5.0, 4.0, 5.0]])
    full = torch.tensor([[3.0, 3.0, 8.0, 9.0]]).expand(3, 4)
    for boxes, targets in ((flat.clone().requires_grad_(), full), (full.clone().requires_grad_(), flat)):
        losses = loss(boxes, targets)
        losses.sum().backward()
        assert losses.isfinite().all()
        assert boxes.grad.isfinite().all()


def test_detection_loss_equals_the_published_formula():
    predictions, anchors, targets = a_batch()
    got = DetectionLoss(label_smoothing=0.1)(predictions, anchors, targets)

    one_hot = torch.zeros(2, 6, K)
    one_hot[0, POSITIVE, 1] = 1
    focal = focal_loss(predictions.class_logits, one_hot, alpha=0.25, gamma=1.5, label_smoothing=0.1)
    focal[0, IGNORED] = 0
    errors = predictions.box_deltas[0, POSITIVE] - encode(targets[0].boxes, anchors[POSITIVE])
    huber = torch.where(errors.abs() <= 0.1, 0.5 * errors**2, 0.1 * errors.abs() - 0.005)
    normaliser = 2 + 1
    torch.testing.assert_close(got["class_loss"], focal.sum() / normaliser)
    torch.testing.assert_close(got["box_loss"], 50 * huber.sum() / (4 * normaliser))


def test_targets_of_exactly_zero_may_be_masked():
    """The box has the width and the centre column of its anchor: dx and dw teach nothing any more."""
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])
    targets = [Target(torch.tensor([[0.0, 1.0, 10.0, 10.0]]), torch.tensor([0]))]
    deltas = torch.full((1, 2, 4), 0.07, requires_grad=True)
    loss = DetectionLoss(mask_zero_targets=True)(Predictions(torch.zeros(1, 2, K), deltas), anchors, targets)
    loss["box_loss"].backward()
    errors = 0.07 - encode(targets[0].boxes, anchors[:1])[0, [1, 3]]
    torch.testing.assert_close(loss["box_loss"], 50 * huber_loss(errors, torch.zeros(2)).sum() / (4 * 2))
    assert (deltas.grad[0] != 0).tolist() == [[False, True, False, True], [False] * 4]
    with pytest.raises(
        ValueError, match="mask_zero_targets needs box_loss 'huber', whose targets it masks; got 'giou'"
    ):
        DetectionLoss(mask_zero_targets=True, box_loss="giou")


@pytest.mark.parametrize("box_loss", ["huber", "iou", "giou", "diou"])  # CIoU's own weight counts as a constant
def test_the_gradient_matches_finite_differences(box_loss):
    predictions, anchors, targets = a_batch(torch.float64)
    criterion = DetectionLoss(box_loss=box_loss)

    def total(logits, deltas):
        return sum(criterion(Predictions(logits, deltas), anchors, targets).values())

    assert torch.autograd.gradcheck(total, (predictions.class_logits, predictions.box_deltas))


@pytest.mark.parametrize("box_loss", ["huber", "iou", "giou", "diou", "ciou"])
def test_a_batch_without_boxes_reaches_every_logit_and_delta(box_loss):
    predictions, anchors, _ = a_batch()
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    loss = DetectionLoss(box_loss=box_loss)(predictions, anchors, [empty, empty])
    torch.testing.assert_close(loss["class_loss"], 0.75 * background(predictions).sum())
    assert loss["box_loss"] == 0
    sum(loss.values()).backward()
    assert (predictions.class_logits.grad > 0).all()
    assert torch.equal(predictions.box_deltas.grad, torch.zeros(2, 6, 4))


def background(predictions):
    return predictions.class_logits.sigmoid() ** 1.5 * F.softplus(predictions.class_logits)


def test_ignored_anchors_have_no_gradient():
    predictions, anchors, targets = a_batch()
    sum(DetectionLoss()(predictions, anchors, targets).values()).backward()
    assert (predictions.class_logits.grad[0, IGNORED] == 0).all()
    assert (predictions.class_logits.grad[1] != 0).all()


def test_a_given_normaliser_replaces_the_count():
    predictions, anchors, targets = a_batch()
    counted = DetectionLoss()(predictions, anchors, targets)
    given = DetectionLoss()(predictions, anchors, targets, normaliser=torch.tensor(30.0))
    for name in counted:
        torch.testing.assert_close(given[name] * 10, counted[name])


def test_micro_batches_under_a_shared_normaliser_add_up_to_the_batch():
    predictions, anchors, targets = a_batch()
    whole = DetectionLoss()(predictions, anchors, targets)
    parts = [
        DetectionLoss()(
            Predictions(predictions.class_logits[i : i + 1], predictions.box_deltas[i : i + 1]),
            anchors,
            targets[i : i + 1],
            normaliser=3,
        )
        for i in range(2)
    ]
    for name in whole:
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name])


def test_loss_is_float32_under_autocast_and_for_half_precision():
    predictions, anchors, targets = a_batch()
    expected = DetectionLoss()(predictions, anchors, targets)
    half = Predictions(predictions.class_logits.bfloat16(), predictions.box_deltas.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = DetectionLoss()(predictions, anchors, targets)
        low = DetectionLoss()(half, anchors, targets)
    for name in expected:
        assert same[name].dtype == low[name].dtype == torch.float32
        assert torch.equal(same[name], expected[name])
        torch.testing.assert_close(low[name], expected[name], rtol=0.02, atol=0.0)
    sum(low.values()).backward()
    assert predictions.class_logits.grad.isfinite().all()


def test_the_box_weight_depends_on_the_kind_of_loss():
    assert DetectionLoss().box_weight == 50
    assert DetectionLoss(box_loss="ciou").box_weight == 5
    assert DetectionLoss(box_loss="ciou", box_weight=0.0).box_weight == 0


def test_an_unknown_box_loss_lists_the_known_ones():
    with pytest.raises(ValueError, match="box_loss must be one of huber, iou, giou, diou, ciou; got 'l1'"):
        DetectionLoss(box_loss="l1")


def test_predictions_targets_and_anchors_must_agree():
    predictions, anchors, targets = a_batch()
    with pytest.raises(ValueError, match="got 2 images × 6 rows for 2 targets and 5 anchors"):
        DetectionLoss()(predictions, anchors[:5], targets)


@pytest.mark.parametrize("box_loss", ["huber", "giou"])
@pytest.mark.parametrize("class_loss", ["quality_focal", "varifocal"])
def test_scores_weigh_the_box_loss_and_are_counted(class_loss, box_loss):
    """The two positive anchors of the first image learn the IoU of what they predict."""
    predictions, anchors, targets = a_batch()
    got = DetectionLoss(class_loss=class_loss, box_loss=box_loss, box_weight=3.0)(predictions, anchors, targets)
    decoded = decode(predictions.box_deltas[0, POSITIVE], anchors[POSITIVE])
    scores = torchvision.ops.box_iou(decoded, targets[0].boxes)[:, 0].detach()
    normaliser = scores.sum() + 1

    one_hot = torch.zeros(2, 6, K)
    one_hot[0, POSITIVE, 1] = scores
    formula = {"quality_focal": quality_focal_loss, "varifocal": varifocal_loss}[class_loss]
    expected = formula(predictions.class_logits, one_hot)
    expected[0, IGNORED] = 0
    torch.testing.assert_close(got["class_loss"], expected.sum() / normaliser)
    if box_loss == "giou":
        losses = 1 - torchvision.ops.generalized_box_iou(decoded, targets[0].boxes)[:, 0]
    else:
        errors = predictions.box_deltas[0, POSITIVE] - encode(targets[0].boxes, anchors[POSITIVE])
        losses = huber_loss(errors, torch.zeros(2, 4)).mean(dim=1)
    torch.testing.assert_close(got["box_loss"], 3 * (scores * losses).sum() / normaliser)


def test_task_aligned_anchors_learn_1_with_the_focal_loss():
    predictions, anchors, targets = a_batch()
    assignment = DetectionLoss(assigner="task_aligned").assign(anchors, targets, predictions)
    assert assignment.scores is None
    assert assignment.num_positives == assignment.total_score


def test_an_assigner_that_needs_predictions_says_so():
    _, anchors, targets = a_batch()
    with pytest.raises(ValueError, match="assign needs predictions with assigner 'task_aligned' and"):
        DetectionLoss(assigner="task_aligned").assign(anchors, targets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assigner": "best"}, "assigner must be one of iou, atss, simota, task_aligned; got 'best'"),
        ({"topk": 5}, "topk must be None with assigner 'iou', which has no such number; got 5"),
        ({"class_loss": "bce"}, "class_loss must be one of focal, quality_focal, varifocal; got 'bce'"),
    ],
)
def test_an_unknown_choice_lists_the_known_ones(settings, message):
    with pytest.raises(ValueError, match=message):
        DetectionLoss(**settings)
