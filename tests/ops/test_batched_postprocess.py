"""Post-processing as a GPU computes it, beside the path that a CPU takes."""

from dataclasses import replace

import pytest
import torch

from effdet.ops import batched_postprocess
from effdet.ops.anchors import level_sizes, make_anchors
from effdet.ops.batched_postprocess import postprocess_batch
from effdet.ops.postprocess import postprocess
from effdet.ops.settings import PRESETS, PostprocessSettings
from effdet.structures import Predictions

SIZE = (96, 128)
K = 4
SETTINGS = {
    **{name: replace(preset, max_candidates=min(preset.max_candidates, 900)) for name, preset in PRESETS.items()},
    "class-agnostic": PostprocessSettings(class_agnostic=True, max_candidates=300),
    "hard, few": PostprocessSettings(nms="hard", max_detections=7, score_threshold=0.3),
    "more candidates than there are": PostprocessSettings(max_detections=150),
    "best class, soft": PostprocessSettings(best_class_only=True, clip="before"),
    "nothing reaches the threshold": PostprocessSettings(score_threshold=1.0),
}


def random_predictions(dtype, seed=0, num_images=3):
    anchors = make_anchors(SIZE, level_sizes(SIZE), scale=4.0)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, len(anchors), K, generator=generator) * 2 - 2
    deltas = torch.randn(num_images, len(anchors), 4, generator=generator) * 0.4
    logits[1] -= 30  # an image without a score that counts
    logits[0, 5, 2] = torch.nan
    deltas[0, 7] = torch.nan
    logits[0, 7] = 3
    deltas[2, 9, 2:] = 500  # a box that the exponential makes infinite
    logits[2, 9] = 4
    return Predictions(logits.to(dtype), deltas.to(dtype)), anchors


def run(method, predictions, anchors, settings, scales=(1.0, 0.5, 1.6)):
    return method(
        predictions,
        anchors,
        scales=torch.tensor(scales),
        original_sizes=torch.tensor([[96, 120], [192, 256], [60, 70]]),
        settings=settings,
        image_size=SIZE,
    )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("looks", [batched_postprocess.STEPS_BETWEEN_LOOKS, 3])
def test_a_batch_gives_what_each_image_gives(monkeypatch, settings, looks):
    monkeypatch.setattr(batched_postprocess, "STEPS_BETWEEN_LOOKS", looks)
    predictions, anchors = random_predictions(torch.float32)
    expected = run(postprocess, predictions, anchors, settings)
    got = run(postprocess_batch, predictions, anchors, settings)
    assert [len(boxes) for boxes, _, _ in got] == [len(boxes) for boxes, _, _ in expected]
    for (boxes, labels, scores), (other_boxes, other_labels, other_scores) in zip(got, expected, strict=True):
        torch.testing.assert_close(boxes, other_boxes)
        assert torch.equal(labels, other_labels)
        torch.testing.assert_close(scores, other_scores, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("clip", ["before", "after", "none"])
def test_stretched_images_are_mapped_back_as_one_by_one(clip):
    predictions, anchors = random_predictions(torch.float32)
    settings, scales = PostprocessSettings(nms="hard", clip=clip), ((1.0, 0.5), (0.5, 0.25), (1.6, 3.0))
    expected, got = (run(method, predictions, anchors, settings, scales) for method in (postprocess, postprocess_batch))
    for (boxes, labels, _), (other_boxes, other_labels, _) in zip(got, expected, strict=True):
        torch.testing.assert_close(boxes, other_boxes)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_equal_scores_of_half_precision_keep_the_order_of_anchors(nms):
    predictions, anchors = random_predictions(torch.bfloat16)
    settings = PostprocessSettings(nms=nms, max_candidates=10**6)
    expected, got = (run(method, predictions, anchors, settings) for method in (postprocess, postprocess_batch))
    for (boxes, labels, scores), (other_boxes, other_labels, other_scores) in zip(got, expected, strict=True):
        torch.testing.assert_close(boxes, other_boxes)
        assert torch.equal(labels, other_labels)
        torch.testing.assert_close(scores, other_scores, rtol=1e-6, atol=1e-7)
