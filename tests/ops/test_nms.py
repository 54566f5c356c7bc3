import math

import pytest
import torch
import torchvision

from effdet.ops import nms


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def select_candidates(logits, **settings):
    indices, scores = nms.select_candidates(logits.float().numpy(), **settings)
    return torch.from_numpy(indices), torch.from_numpy(scores)


def hard_nms(boxes, scores, labels, **settings):
    return torch.from_numpy(nms.hard_nms(*_arrays(boxes, scores, labels), **settings))


def soft_nms(boxes, scores, labels, **settings):
    kept, decayed = nms.soft_nms(*_arrays(boxes, scores, labels), **settings)
    return torch.from_numpy(kept), torch.from_numpy(decayed)


def _arrays(*tensors):
    return [None if tensor is None else tensor.numpy() for tensor in tensors]


def crowded_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * 100
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 60], dim=-1)


# -- candidates ---------------------------------------------------------------------------------------------------


def candidates_by_sort(logits, score_threshold, max_candidates):
    """Sigmoid of everything, then a stable sort of everything."""
    scores = logits.flatten().double().sigmoid().float()
    order = logits.flatten().float().sort(descending=True, stable=True).indices[:max_candidates]
    order = order[scores[order] >= score_threshold]
    return order, scores[order]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("score_threshold", [0.0, 0.001, 0.05, 0.9])
@pytest.mark.parametrize("shape", [(3000, 90), (3001, 7), (50, 3), (1, 1), (16, 1)], ids=str)
@pytest.mark.parametrize("max_candidates", [1, 10, 300, 10**6])
def test_candidates_equal_those_of_a_full_sort(dtype, score_threshold, shape, max_candidates):
    logits = (torch.randn(shape) * 2 - 3).to(dtype)  # few distinct values in half precision: many ties
    indices, scores = select_candidates(logits, score_threshold=score_threshold, max_candidates=max_candidates)
    expected_indices, expected_scores = candidates_by_sort(logits, score_threshold, max_candidates)
    assert indices.tolist() == expected_indices.tolist()
    assert torch.equal(scores, expected_scores)
    assert (indices.dtype, scores.dtype) == (torch.int64, torch.float32)


def test_candidates_in_one_corner_of_the_logits_are_all_found():
    """The chunks of the tournament must be opened as a whole, not only their best value be taken."""
    logits = torch.full((5000, 10), -9.0)
    logits[:40] = torch.linspace(3, 5, 400).view(40, 10)
    indices, _ = select_candidates(logits, score_threshold=0.001, max_candidates=300)
    assert indices.tolist() == list(range(399, 99, -1))


def test_tied_candidates_are_taken_in_index_order():
    indices, _ = select_candidates(torch.zeros(4000, 20), score_threshold=0.001, max_candidates=50)
    assert indices.tolist() == list(range(50))


@pytest.mark.parametrize("score", [0.7, 0.3, 0.001])
def test_a_score_equal_to_the_threshold_is_kept(score):
    logits = torch.linspace(-8, 8, 4001)[:, None]
    scores = logits.flatten().double().sigmoid().float()
    threshold = scores[(scores - score).abs().argmin()].item()
    indices, kept = select_candidates(logits, score_threshold=threshold, max_candidates=5000)
    assert kept[-1].item() == threshold
    assert len(indices) == (scores >= threshold).sum()


def test_threshold_zero_keeps_even_impossible_candidates():
    logits = torch.tensor([[-math.inf, 0.0], [-200.0, math.inf]])
    indices, scores = select_candidates(logits, score_threshold=0.0, max_candidates=10)
    assert indices.tolist() == [3, 1, 2, 0]
    assert scores.tolist() == [1, 0.5, 0, 0]


def test_threshold_one_keeps_only_certain_candidates():
    logits = torch.tensor([[math.inf, 40.0, 15.0, 0.0]])
    indices, _ = select_candidates(logits, score_threshold=1.0, max_candidates=10)
    assert indices.tolist() == [0, 1]


def test_no_candidate_above_the_threshold_is_an_empty_result():
    indices, scores = select_candidates(torch.full((100, 3), -20.0), score_threshold=0.001, max_candidates=10)
    assert (indices.shape, indices.dtype) == ((0,), torch.int64)
    assert (scores.shape, scores.dtype) == ((0,), torch.float32)


def test_nan_is_no_candidate():
    logits = torch.randn(2000, 10)
    expected = select_candidates(logits[1000:], score_threshold=0.001, max_candidates=20)
    logits[:1000] = math.nan
    indices, scores = select_candidates(logits, score_threshold=0.001, max_candidates=20)
    assert (indices - 10_000).tolist() == expected[0].tolist()
    assert torch.equal(scores, expected[1])


def test_logits_need_not_be_contiguous():
    logits = torch.randn(90, 500).T
    indices, _ = select_candidates(logits, score_threshold=0.001, max_candidates=30)
    assert indices.tolist() == candidates_by_sort(logits, 0.001, 30)[0].tolist()


# -- hard ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 50, 2000])
@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("max_detections", [1, 100, 10_000])
def test_hard_nms_of_one_class_is_that_of_torchvision(count, iou_threshold, max_detections):
    boxes, scores = crowded_boxes(count), torch.rand(count)
    expected = torchvision.ops.nms(boxes, scores, iou_threshold)[:max_detections]
    kept = hard_nms(boxes, scores, None, iou_threshold=iou_threshold, max_detections=max_detections)
    assert kept.tolist() == expected.tolist()


@pytest.mark.parametrize("count", [50, 3000])
def test_hard_nms_per_class_is_nms_of_each_class_then_the_best(count):
    boxes, scores, labels = crowded_boxes(count), torch.rand(count), torch.randint(0, 20, (count,))
    kept_of_class = [
        members[torchvision.ops.nms(boxes[members], scores[members], 0.5)]
        for members in [(labels == label).nonzero().squeeze(1) for label in range(20)]
    ]
    expected = torch.cat(kept_of_class)
    expected = expected[scores[expected].argsort(descending=True)][:100]
    assert hard_nms(boxes, scores, labels, iou_threshold=0.5, max_detections=100).tolist() == expected.tolist()


def test_hard_nms_per_class_is_batched_nms_of_torchvision():
    boxes, scores, labels = crowded_boxes(800), torch.rand(800), torch.randint(0, 5, (800,))
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.5)
    assert hard_nms(boxes, scores, labels, iou_threshold=0.5, max_detections=800).tolist() == expected.tolist()


def test_hard_nms_looks_beyond_its_first_window():
    """All the best boxes are one object; the other object stands last of all."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(4 * nms.WINDOW + 5, 1)
    boxes[-1] += 50
    scores = torch.linspace(0.9, 0.1, len(boxes))
    assert hard_nms(boxes, scores, None, iou_threshold=0.5, max_detections=2).tolist() == [0, len(boxes) - 1]


def test_class_separation_is_exact_among_many_classes_and_far_coordinates():
    """An IoU of 0.5 ± 1e-5 is decided as without the shift that separates the classes."""
    pair = torch.tensor([[0.0, 0.0, 30.0, 10.0], [10.0, 0.0, 40.0, 10.0]])  # IoU exactly ½
    boxes = torch.cat([pair, pair, torch.tensor([[-9e5, 0.0, 9e5, 10.0]])])
    boxes[3, 0] -= 1e-3
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([88, 88, 89, 89, 0])
    kept = hard_nms(boxes, scores, labels, iou_threshold=0.5, max_detections=10)
    assert kept.tolist() == [0, 1, 2, 4]


# -- soft ---------------------------------------------------------------------------------------------------------


def soft_nms_by_loop(boxes, scores, sigma, score_threshold):
    """Soft-NMS of one class as the paper writes it: pick the best, decay each of the others."""
    boxes, scores, left = boxes.tolist(), scores.double().tolist(), list(range(len(boxes)))
    picks = []
    while left:
        best = max(left, key=lambda i: scores[i])
        if scores[best] < score_threshold:
            break
        left.remove(best)
        picks.append((best, scores[best]))
        for i in left:
            scores[i] *= math.exp(-(iou(boxes[best], boxes[i]) ** 2) / sigma)
    return picks


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize("max_detections", [5, 100, 10_000])
def test_soft_nms_per_class_is_the_loop_for_each_class_then_the_best(max_detections):
    boxes, scores, labels = crowded_boxes(600), torch.rand(600) ** 4, torch.randint(0, 7, (600,))
    expected = []
    for label in range(7):
        members = (labels == label).nonzero().squeeze(1)
        picks = soft_nms_by_loop(boxes[members], scores[members], 0.5, 0.001)
        expected += [(members[i].item(), score) for i, score in picks]
    expected = sorted(expected, key=lambda pick: -pick[1])[:max_detections]

    indices, decayed = soft_nms(boxes, scores, labels, sigma=0.5, score_threshold=0.001, max_detections=max_detections)
    assert indices.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(decayed, torch.tensor([score for _, score in expected]))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 3.0])
def test_soft_nms_without_classes_is_the_loop_over_all(sigma):
    boxes, scores = crowded_boxes(300), torch.rand(300)
    expected = soft_nms_by_loop(boxes, scores, sigma, 0.05)[:100]
    indices, decayed = soft_nms(boxes, scores, None, sigma=sigma, score_threshold=0.05, max_detections=100)
    assert indices.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(decayed, torch.tensor([score for _, score in expected]))


def test_soft_nms_decays_by_the_formula():
    boxes = torch.tensor([[0.0, 0.0, 30.0, 10.0], [10.0, 0.0, 40.0, 10.0], [100.0, 0.0, 110.0, 10.0]])  # IoU ½, 0
    indices, scores = soft_nms(
        boxes, torch.tensor([0.9, 0.8, 0.5]), None, sigma=0.5, score_threshold=0.0, max_detections=3
    )
    assert indices.tolist() == [0, 2, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5, 0.8 * math.exp(-0.5)]))


def test_soft_nms_keeps_a_score_that_equals_the_threshold():
    scores = torch.tensor([0.7])  # in float32 a little less than 0.7
    indices, _ = soft_nms(crowded_boxes(1), scores, None, sigma=0.5, score_threshold=0.7, max_detections=10)
    assert len(indices) == 1


def test_soft_nms_takes_boxes_without_area():
    boxes = torch.tensor([[5.0, 5.0, 5.0, 5.0]]).repeat(2, 1)
    _, scores = soft_nms(boxes, torch.tensor([0.9, 0.8]), None, sigma=0.5, score_threshold=0.0, max_detections=3)
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.8]))


def test_soft_nms_takes_lines_that_cross():
    boxes = torch.tensor([[0.0, 5.0, 10.0, 5.0], [5.0, 0.0, 5.0, 10.0]])
    _, scores = soft_nms(boxes, torch.tensor([0.9, 0.8]), None, sigma=0.5, score_threshold=0.0, max_detections=3)
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.8]))


def test_soft_nms_picks_each_of_many_equal_boxes_once():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(900, 1)  # the last scores are 0, even in float64
    indices, scores = soft_nms(boxes, torch.full((900,), 0.5), None, sigma=0.5, score_threshold=0.0, max_detections=900)
    assert indices.tolist() == list(range(900))
    assert scores[-1] == 0


def test_soft_nms_leaves_its_arguments_alone():
    boxes, scores, labels = crowded_boxes(50), torch.rand(50).double(), torch.randint(0, 3, (50,))
    copies = boxes.clone(), scores.clone(), labels.clone()
    soft_nms(boxes.double(), scores, labels, sigma=0.5, score_threshold=0.0, max_detections=50)
    assert all(torch.equal(a, b) for a, b in zip((boxes, scores, labels), copies, strict=True))


# -- both ---------------------------------------------------------------------------------------------------------


def suppress(kind, boxes, scores, labels):
    if kind == "hard":
        return hard_nms(boxes, scores, labels, iou_threshold=0.5, max_detections=100)
    return soft_nms(boxes, scores, labels, sigma=0.5, score_threshold=0.001, max_detections=100)[0]


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("labels", [None, torch.zeros(0, dtype=torch.int64)], ids=["agnostic", "per class"])
def test_no_boxes_give_an_empty_result(kind, labels):
    kept = suppress(kind, torch.zeros(0, 4), torch.zeros(0), labels)
    assert (kept.shape, kept.dtype) == ((0,), torch.int64)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_order_of_the_boxes_does_not_matter(kind):
    boxes, scores, labels = crowded_boxes(700), torch.rand(700), torch.randint(0, 9, (700,))
    shuffle = torch.randperm(700)
    kept = suppress(kind, boxes[shuffle], scores[shuffle], labels[shuffle])
    assert shuffle[kept].tolist() == suppress(kind, boxes, scores, labels).tolist()


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_ties_go_to_the_lower_index(kind):
    boxes = torch.arange(300)[:, None] * 20.0 + torch.tensor([0.0, 0.0, 10.0, 10.0])  # apart
    kept = suppress(kind, boxes, torch.full((300,), 0.5), torch.arange(300) % 3)
    assert kept.tolist() == list(range(100))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_result_is_never_longer_than_asked(kind):
    boxes = torch.arange(300)[:, None] * 20.0 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    assert len(suppress(kind, boxes, torch.rand(300), None)) == 100
