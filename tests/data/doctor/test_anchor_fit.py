"""Anchors and boxes: compared with all anchors, one by one."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from effdet.data.doctor.anchor_fit import Network, best_overlap, suggest_anchors
from effdet.models.architecture import EXACT_RATIOS, ROUNDED_RATIOS
from effdet.ops.anchors import level_sizes, make_anchors


def network(image_size=(256, 320), **changes):
    return Network(**{"name": "a network", "image_size": image_size, "aspect_ratios": EXACT_RATIOS, **changes})


def random_boxes(seed, count, image_size):
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(math.log(3), math.log(min(image_size)), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array(image_size)[::-1] - sides)
    return np.concatenate([corners, sides], axis=1)


@pytest.mark.parametrize(
    ("image_size", "changes"),
    [
        ((256, 320), {}),
        ((200, 333), {"aspect_ratios": ROUNDED_RATIOS}),  # no multiple of a stride
        ((128, 128), {"min_level": 2, "max_level": 6, "anchor_scale": 2.5, "scales_per_octave": 2}),
    ],
)
def test_the_best_overlap_is_that_with_all_anchors(image_size, changes):
    net = network(image_size, **changes)
    boxes = random_boxes(0, 300, image_size)
    anchors = make_anchors(
        image_size,
        level_sizes(image_size, net.min_level, net.max_level),
        scale=net.anchor_scale,
        scales_per_octave=net.scales_per_octave,
        aspect_ratios=net.aspect_ratios,
    )
    corners = torch.tensor(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))
    expected = box_iou(corners, anchors.double()).amax(dim=1)
    np.testing.assert_allclose(best_overlap(boxes, net), expected.numpy(), atol=1e-5)


def test_boxes_that_are_small_and_wide_get_smaller_and_wider_anchors():
    rng = np.random.default_rng(1)
    widths = rng.uniform(40, 60, 500)
    boxes = np.stack([rng.uniform(0, 200, 500), rng.uniform(0, 200, 500), widths, widths / 6], axis=1)
    net = network()
    before = float((best_overlap(boxes, net) >= 0.5).mean())
    suggestion, recall = suggest_anchors(boxes, net)
    assert recall > before + 0.3
    assert suggestion["anchor_scale"] < 4
    assert len(suggestion["aspect_ratios"]) == 3
    assert min(suggestion["aspect_ratios"]) > 3
    changed = network(
        anchor_scale=suggestion["anchor_scale"],
        aspect_ratios=tuple((math.sqrt(ratio), 1 / math.sqrt(ratio)) for ratio in suggestion["aspect_ratios"]),
    )
    assert float((best_overlap(boxes, changed) >= 0.5).mean()) == pytest.approx(recall, abs=0.01)


def test_boxes_that_are_anchors_keep_the_anchors():
    anchors = make_anchors((256, 320), level_sizes((256, 320))).numpy()[::37].astype(float)
    boxes = np.concatenate([anchors[:, :2], anchors[:, 2:] - anchors[:, :2]], axis=1)
    np.testing.assert_allclose(best_overlap(boxes, network()), 1, atol=1e-5)
    assert suggest_anchors(boxes, network()) == ({}, 1.0)
