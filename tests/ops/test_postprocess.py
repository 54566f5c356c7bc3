import json
import math
from dataclasses import asdict

import pytest
import torch
import torchvision

from effdet.ops.anchors import level_sizes, make_anchors
from effdet.ops.boxes import decode, encode
from effdet.ops.postprocess import postprocess
from effdet.ops.settings import PRESETS, PostprocessSettings
from effdet.structures import Predictions

K = 4
ANCHORS = make_anchors((128, 128), level_sizes((128, 128), 3, 7), scale=4.0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random_predictions(batch: int, num_classes: int = K) -> Predictions:
    n = len(ANCHORS)
    return Predictions(torch.randn(batch, n, num_classes) * 2 - 3, torch.randn(batch, n, 4) * 0.3)


def predictions_of(boxes, scores) -> Predictions:
    """One image that holds exactly these boxes (M, 4), with scores (M, K): anchor i predicts box i."""
    logits = torch.full((1, len(ANCHORS), K), -20.0)
    deltas = torch.zeros(1, len(ANCHORS), 4)
    logits[0, : len(boxes)] = torch.tensor(scores).logit()
    deltas[0, : len(boxes)] = encode(torch.tensor(boxes), ANCHORS[: len(boxes)])
    return Predictions(logits, deltas)


def run(predictions, *, scale=1.0, size=(128, 128), **settings):
    """Post-process images that all have one scale and original (height, width)."""
    batch = len(predictions.class_logits)
    return postprocess(
        predictions,
        ANCHORS,
        scales=torch.full((batch,), scale),
        original_sizes=torch.tensor([size] * batch),
        settings=PostprocessSettings(**settings),
        image_size=(128, 128),
    )


def test_boxes_typed_by_hand_come_back_in_pixels_of_the_original():
    """A photo of 400 × 512 (height × width) was scaled by ¼ to 100 × 128 and letterboxed to 128 × 128."""
    predictions = predictions_of(
        [[10.0, 20.0, 30.0, 60.0], [100.0, 90.0, 140.0, 120.0], [20.0, 105.0, 60.0, 120.0]],
        [[0.01, 0.9, 0.0, 0.0], [0.0, 0.0, 0.0, 0.8], [0.7, 0.0, 0.0, 0.0]],
    )
    [(boxes, labels, scores)] = run(predictions, scale=0.25, size=(400, 512), score_threshold=0.05)

    # The second box is cut at the right and lower border; the third lies in the padding.
    torch.testing.assert_close(boxes, torch.tensor([[40.0, 80.0, 120.0, 240.0], [400.0, 360.0, 512.0, 400.0]]))
    assert labels.tolist() == [1, 3]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.8]))
    assert (boxes.dtype, labels.dtype, scores.dtype) == (torch.float32, torch.int64, torch.float32)


def test_without_clipping_boxes_keep_what_lies_outside():
    predictions = predictions_of([[100.0, 90.0, 140.0, 120.0]], [[0.0, 0.0, 0.0, 0.8]])
    [(boxes, _, _)] = run(predictions, scale=0.25, size=(400, 512), clip="none")
    torch.testing.assert_close(boxes, torch.tensor([[400.0, 360.0, 560.0, 480.0]]))


def test_boxes_of_a_stretched_image_are_mapped_back_axis_by_axis():
    predictions = predictions_of([[10.0, 20.0, 30.0, 60.0], [100.0, 90.0, 140.0, 120.0]], [[0.0, 0.9, 0.0, 0.0]] * 2)
    for clip, second in (("after", [200.0, 900.0, 256.0, 1200.0]), ("before", [200.0, 900.0, 256.0, 1200.0])):
        [(boxes, _, _)] = postprocess(
            predictions,
            ANCHORS,
            scales=torch.tensor([[0.5, 0.1]]),  # x, y of a photo of 1280 × 256 (height × width)
            original_sizes=torch.tensor([[1280, 256]]),
            settings=PostprocessSettings(score_threshold=0.5, clip=clip, nms="hard"),
        )
        torch.testing.assert_close(boxes, torch.tensor([[20.0, 200.0, 60.0, 600.0], second]))


def test_each_image_has_its_own_scale_and_size():
    one = predictions_of([[10.0, 20.0, 30.0, 60.0]], [[0.9, 0.0, 0.0, 0.0]])
    twice = Predictions(one.class_logits.repeat(2, 1, 1), one.box_deltas.repeat(2, 1, 1))
    results = postprocess(
        twice, ANCHORS, scales=torch.tensor([0.5, 2.0]), original_sizes=torch.tensor([[100, 50], [64, 64]])
    )
    torch.testing.assert_close(results[0][0], torch.tensor([[20.0, 40.0, 50.0, 100.0]]))
    torch.testing.assert_close(results[1][0], torch.tensor([[5.0, 10.0, 15.0, 30.0]]))


@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("max_candidates", [200, 5000])
def test_hard_results_are_those_of_torchvision_ops(class_agnostic, max_candidates):
    predictions = random_predictions(1)
    [(boxes, labels, scores)] = run(
        predictions,
        scale=0.8,
        size=(120, 160),
        nms="hard",
        iou_threshold=0.4,
        class_agnostic=class_agnostic,
        max_candidates=max_candidates,
    )

    all_scores, order = predictions.class_logits[0].sigmoid().flatten().sort(descending=True)
    all_scores, order = all_scores[:max_candidates], order[:max_candidates]
    order, all_scores = order[all_scores >= 0.001], all_scores[all_scores >= 0.001]
    all_boxes = decode(predictions.box_deltas[0], ANCHORS)[order // K]
    groups = torch.zeros_like(order) if class_agnostic else order % K
    keep = torchvision.ops.batched_nms(all_boxes.double(), all_scores.double(), groups, 0.4)[:100]
    expected = torchvision.ops.clip_boxes_to_image(all_boxes[keep] / 0.8, (120, 160))
    has_area = torchvision.ops.box_area(expected) > 0

    torch.testing.assert_close(boxes, expected[has_area])
    assert labels.tolist() == (order[keep] % K)[has_area].tolist()
    torch.testing.assert_close(scores, all_scores[keep][has_area])


def test_one_anchor_may_give_several_classes():
    predictions = predictions_of([[10.0, 20.0, 30.0, 60.0]], [[0.9, 0.0, 0.6, 0.0]])
    [(_, labels, scores)] = run(predictions)
    assert labels.tolist() == [0, 2]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.6]))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"nms": "hard"}, [0.9]),
        ({"nms": "soft"}, [0.9, 0.6 * math.exp(-2)]),  # the same box, so IoU 1 and exp(−1/σ)
        ({"nms": "soft", "sigma": 1.0}, [0.9, 0.6 * math.exp(-1)]),
        ({"nms": "soft", "score_threshold": 0.1}, [0.9]),  # the threshold cuts decayed scores too
    ],
)
def test_class_agnostic_nms_works_across_classes(settings, expected):
    predictions = predictions_of([[10.0, 20.0, 30.0, 60.0]], [[0.9, 0.0, 0.6, 0.0]])
    [(_, _, scores)] = run(predictions, class_agnostic=True, **settings)
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_boxes_meet_in_nms_before_they_are_clipped():
    """Side by side above the border they overlap by ⅓; the parts inside the image are one box."""
    predictions = predictions_of([[10.0, -40.0, 50.0, 20.0], [10.0, 0.0, 50.0, 20.0]], [[0.9, 0, 0, 0], [0.8, 0, 0, 0]])
    [(boxes, _, _)] = run(predictions, nms="hard", iou_threshold=0.5)
    torch.testing.assert_close(boxes, torch.tensor([[10.0, 0.0, 50.0, 20.0]]).repeat(2, 1))


SIDE_BY_SIDE = [[10.0, -40.0, 50.0, 20.0], [10.0, 0.0, 50.0, 20.0]], [[0.9, 0, 0, 0], [0.8, 0, 0, 0]]


@pytest.mark.parametrize(("clip", "left"), [("after", 2), ("none", 2), ("before", 1), ("network", 1)])
def test_boxes_clipped_before_nms_meet_inside_the_image(clip, left):
    [(boxes, _, _)] = run(predictions_of(*SIDE_BY_SIDE), nms="hard", clip=clip)
    assert len(boxes) == left


def test_clipping_to_the_network_input_stops_at_its_last_pixel():
    predictions = predictions_of([[-9.0, -9.0, 140.0, 150.0]], [[0.9, 0, 0, 0]])
    [(boxes, _, _)] = run(predictions, clip="network", scale=0.5, size=(10, 10))
    assert boxes.tolist() == [[0, 0, 254, 254]]
    with pytest.raises(ValueError, match=r"image_size must be given when settings\.clip is 'network'"):
        postprocess(
            predictions,
            ANCHORS,
            scales=torch.ones(1),
            original_sizes=torch.tensor([[128, 128]]),
            settings=PostprocessSettings(clip="network"),
        )


def test_boxes_outside_the_image_stay_on_request():
    predictions = predictions_of([[130.0, 10.0, 150.0, 30.0]], [[0.9, 0, 0, 0]])
    assert [len(run(predictions, clip=clip)[0][0]) for clip in ("before", "after")] == [0, 0]
    for clip in ("before", "after"):
        [(boxes, _, _)] = run(predictions, clip=clip, drop_empty=False)
        assert boxes.tolist() == [[128, 10, 128, 30]]


def test_the_best_class_of_an_anchor_may_be_its_only_candidate():
    predictions = predictions_of(
        [[10.0, 20.0, 30.0, 60.0], [70.0, 20.0, 90.0, 60.0]], [[0.9, 0.0, 0.6, 0.0], [0.2, 0.3, 0.1, 0.7]]
    )
    [(boxes, labels, scores)] = run(predictions, best_class_only=True)
    assert labels.tolist() == [0, 3]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7]))
    torch.testing.assert_close(boxes, torch.tensor([[10.0, 20.0, 30.0, 60.0], [70.0, 20.0, 90.0, 60.0]]))


def test_the_google_preset_is_the_published_evaluation_written_as_a_loop():
    """Joint top 5000, Gaussian decay class by class with up to 100 picks each, then the best 100, not clipped."""
    predictions = random_predictions(1, num_classes=10)
    [(boxes, labels, scores)] = run(predictions, scale=0.5, **asdict(PostprocessSettings.preset("google")))

    flat = predictions.class_logits[0].double().flatten().sigmoid()
    best = flat.argsort(descending=True)[:5000]
    all_boxes = decode(predictions.box_deltas[0], ANCHORS).double()
    found = []
    for label in range(10):
        members = best[best % 10 == label]
        left, theirs = flat[members].clone(), all_boxes[members // 10]
        for _ in range(100):
            top = int(left.argmax())
            if left[top] < 0.001:
                break
            found.append((float(left[top]), label, theirs[top] / 0.5))
            left *= torch.exp(-(torchvision.ops.box_iou(theirs[top : top + 1], theirs)[0] ** 2) / 0.5)
            left[top] = -1
    found = sorted(found, key=lambda row: -row[0])[:100]

    assert labels.tolist() == [label for _, label, _ in found]
    torch.testing.assert_close(scores, torch.tensor([score for score, _, _ in found]), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(boxes, torch.stack([box for _, _, box in found]).float(), rtol=1e-5, atol=1e-3)
    assert (boxes < 0).any()


def test_the_effdet_preset_is_torchvisions_nms_of_clipped_boxes_without_a_score_floor():
    predictions = random_predictions(1)
    predictions = Predictions(predictions.class_logits - 20, predictions.box_deltas)  # all far below 0.001
    [(boxes, labels, scores)] = run(
        predictions, scale=0.5, size=(200, 240), **asdict(PostprocessSettings.preset("effdet"))
    )
    all_scores, order = predictions.class_logits[0].sigmoid().flatten().sort(descending=True)
    order, all_scores = order[:5000], all_scores[:5000]
    all_boxes = decode(predictions.box_deltas[0], ANCHORS)[order // K]
    all_boxes = torchvision.ops.clip_boxes_to_image(all_boxes, (100, 120))
    keep = torchvision.ops.batched_nms(all_boxes, all_scores, order % K, 0.5)[:100]
    torch.testing.assert_close(boxes, all_boxes[keep] / 0.5)
    assert labels.tolist() == (order[keep] % K).tolist()
    torch.testing.assert_close(scores, all_scores[keep])
    assert len(scores) == 100


@pytest.mark.parametrize("score", [0.5, 0.9])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_threshold_before_nms_leaves_what_a_threshold_after_it_leaves(name, score):
    settings, predictions = PRESETS[name], random_predictions(2)
    whole = run(predictions, **asdict(settings))
    least = run(predictions, **asdict(settings.with_least_score(score * (1 - 1e-6))))
    for (boxes, labels, scores), found in zip(whole, least, strict=True):
        keep, kept = scores >= score, found[2] >= score
        assert keep.any()
        for expected, got in zip((boxes, labels, scores), found, strict=True):
            assert torch.equal(expected[keep], got[kept])
    assert settings.with_least_score(0.0) is settings


def test_presets_are_settings_that_files_can_hold():
    for name, settings in PRESETS.items():
        assert PostprocessSettings.preset(name) == PostprocessSettings(**json.loads(json.dumps(asdict(settings))))
    assert PostprocessSettings.preset("default") == PostprocessSettings()
    with pytest.raises(ValueError, match="preset must be one of default, fast, google, effdet, zylo, got 'torch'"):
        PostprocessSettings.preset("torch")


def test_files_of_version_0_1_hold_a_boolean_for_clipping():
    old = {"nms": "hard", "clip": True, "class_agnostic": False}
    assert PostprocessSettings(**old).clip == "after"
    assert PostprocessSettings(**old | {"clip": False}).clip == "none"


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_a_batch_equals_its_images_one_by_one(nms):
    predictions = random_predictions(3)
    together = run(predictions, nms=nms)
    for b in range(3):
        [alone] = run(Predictions(predictions.class_logits[b : b + 1], predictions.box_deltas[b : b + 1]), nms=nms)
        assert all(torch.equal(x, y) for x, y in zip(together[b], alone, strict=True))


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_the_order_of_classes_only_renames_labels(nms):
    predictions = random_predictions(1)
    permutation = torch.tensor([2, 0, 3, 1])
    [(boxes, labels, scores)] = run(predictions, nms=nms)
    renamed = Predictions(predictions.class_logits[:, :, permutation], predictions.box_deltas)
    [(renamed_boxes, renamed_labels, renamed_scores)] = run(renamed, nms=nms)
    torch.testing.assert_close(renamed_scores, scores)
    torch.testing.assert_close(renamed_boxes, boxes)
    assert permutation[renamed_labels].tolist() == labels.tolist()


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_scores_fall_and_limits_hold(nms):
    [(boxes, labels, scores)] = run(random_predictions(1), nms=nms, max_detections=37, score_threshold=0.2, clip="none")
    assert len(boxes) == len(labels) == len(scores) == 37
    assert (scores.diff() <= 0).all()
    assert (scores >= 0.2).all()


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_equal_scores_are_ordered_by_anchor_then_class(nms):
    predictions = Predictions(torch.zeros(1, len(ANCHORS), K), torch.full((1, len(ANCHORS), 4), 0.0))
    predictions.box_deltas[..., 2:] = -3.0  # so small that anchors do not overlap much
    [(_, labels, _)] = run(predictions, nms=nms, max_candidates=8, max_detections=8, clip="none", iou_threshold=1.0)
    assert labels[:4].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_fewer_candidates_than_the_limits_are_normal(nms):
    [(boxes, _, _)] = run(predictions_of([[10.0, 20.0, 30.0, 60.0]], [[0.9, 0, 0, 0]]), nms=nms)
    assert len(boxes) == 1


@pytest.mark.parametrize("nms", ["hard", "soft"])
@pytest.mark.parametrize("clip", ["after", "before", "network", "none"])
def test_no_candidates_give_empty_tensors(nms, clip):
    predictions = Predictions(torch.full((2, len(ANCHORS), K), -20.0), torch.zeros(2, len(ANCHORS), 4))
    for boxes, labels, scores in run(predictions, nms=nms, clip=clip):
        assert (boxes.shape, boxes.dtype) == ((0, 4), torch.float32)
        assert (labels.shape, labels.dtype) == ((0,), torch.int64)
        assert (scores.shape, scores.dtype) == ((0,), torch.float32)


def test_no_images_give_no_results():
    assert run(random_predictions(0)) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_half_precision_predictions_give_what_their_float32_copies_give(dtype, nms):
    full = random_predictions(1)
    half = Predictions(full.class_logits.to(dtype), full.box_deltas.to(dtype))
    for x, y in zip(run(half, nms=nms)[0], run(half.float(), nms=nms)[0], strict=True):
        assert torch.equal(x, y)
        assert x.dtype == y.dtype


def test_predictions_that_require_a_gradient_give_detached_results():
    predictions = random_predictions(1)
    [(boxes, _, scores)] = run(
        Predictions(predictions.class_logits.requires_grad_(), predictions.box_deltas.requires_grad_())
    )
    assert not boxes.requires_grad
    assert not scores.requires_grad


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_wild_deltas_give_finite_boxes(nms):
    predictions = predictions_of([[10.0, 20.0, 30.0, 60.0]] * 3, [[0.9, 0.0, 0.0, 0.0]] * 3)
    predictions.box_deltas[0, 0, 2:] = 200.0  # exp overflows float32
    predictions.box_deltas[0, 1] = math.nan
    predictions.box_deltas[0, 2] = torch.tensor([3e38, 0.0, 0.0, 0.0])
    [(boxes, _, _)] = run(predictions, nms=nms)
    assert boxes.tolist() == [[0, 0, 128, 128]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nms": "medium"}, "nms must be 'hard' or 'soft', got medium"),
        ({"iou_threshold": 1.5}, r"iou_threshold must lie in \[0, 1\], got 1.5"),
        ({"sigma": 0.0}, "sigma must be positive, got 0.0"),
        ({"score_threshold": -0.1}, r"score_threshold must lie in \[0, 1\], got -0.1"),
        ({"max_candidates": 0}, "max_candidates must be 1 or more, got 0"),
        ({"clip": "never"}, "clip must be one of after, before, network, none, got never"),
        ({"max_detections": 0}, "max_detections must be 1 or more, got 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        PostprocessSettings(**settings)
