"""Batches for the tests of assigners, and a way to read every assignment alike."""

import pytest
import torch

from effdet.ops.anchors import level_sizes, make_anchors
from effdet.structures import Predictions, Target

K = 4
SIZE = (64, 96)
ANCHORS = make_anchors(SIZE, level_sizes(SIZE, 3, 7))


def random_boxes(count, generator, size=SIZE):
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([size[1], size[0]]) * 0.7
    side = 3 + torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corner, corner + side], dim=1)


def random_targets(generator, counts=((3, 0), (0, 2), (12, 1), (1, 0), (0, 0))):
    return [
        Target(
            random_boxes(boxes, generator),
            torch.randint(0, K, (boxes,), generator=generator),
            random_boxes(crowds, generator),
        )
        for boxes, crowds in counts
    ]


def random_predictions(generator, num_images, anchors=ANCHORS):
    return Predictions(
        torch.randn(num_images, len(anchors), K, generator=generator) * 2 - 2,
        torch.randn(num_images, len(anchors), 4, generator=generator) * 0.2,
    )


def assert_equals_loop(assigned, targets, literally, *, tolerance=0.0):
    """Compare an assignment with a literal loop, image by image.

    Args:
        assigned: The assignment of the batch.
        targets: One per image.
        literally: Returns {anchor: (row of its box, score)} of the image with an index.
        tolerance: Of scores, relative.

    Returns:
        What ``by_anchor`` returns.
    """
    expected, expected_ignored, n = {}, set(), len(ANCHORS)
    for image, target in enumerate(targets):
        matches = literally(image)
        expected |= {
            image * n + a: (int(target.classes[m]), target.boxes[m].tolist(), s) for a, (m, s) in matches.items()
        }
        expected_ignored |= {image * n + a for a in in_crowd(ANCHORS, target, matches)}
    learned, ignored = by_anchor(assigned)
    assert learned.keys() == expected.keys()
    for flat, (*box, score) in expected.items():
        assert learned[flat][:2] == tuple(box)
        assert learned[flat][2] == (None if score is None else pytest.approx(score, rel=tolerance, abs=1e-5))
    assert ignored == expected_ignored
    return learned, ignored


def by_anchor(assignment):
    """{flat index: (class, box, score)} and the set of ignored flat indices, of lists and of dense assignments."""
    if hasattr(assignment, "is_positive"):
        positive = assignment.is_positive.nonzero().flatten()
        classes, boxes = assignment.classes[positive], assignment.boxes[positive]
        scores = None if assignment.scores is None else assignment.scores[positive]
        ignored = assignment.is_ignored
        ignored = set() if ignored is None else set(ignored.nonzero().flatten().tolist())
    else:
        positive, classes, boxes, scores = assignment.positive, assignment.classes, assignment.boxes, assignment.scores
        ignored = set(assignment.ignored.tolist())
    scores = [None] * len(positive) if scores is None else scores.tolist()
    learned = zip(classes.tolist(), boxes.tolist(), scores, strict=True)
    return dict(zip(positive.tolist(), learned, strict=True)), ignored


def in_crowd(anchors, target, learned):
    """The anchors of an image with half their area or more in a crowd box that learn nothing, one by one."""
    ignored = set()
    for n, (x1, y1, x2, y2) in enumerate(anchors.tolist()):
        for cx1, cy1, cx2, cy2 in target.crowd_boxes.tolist():
            shared = max(0, min(x2, cx2) - max(x1, cx1)) * max(0, min(y2, cy2) - max(y1, cy1))
            if n not in learned and shared >= 0.5 * (x2 - x1) * (y2 - y1):
                ignored.add(n)
    return ignored


def centre_inside(anchor, box, shortest=8.0):
    """Whether the anchor's centre lies in the box, whose sides count as the finest stride or more."""
    inside = True
    for low, high, a, b in ((box[0], box[2], anchor[0], anchor[2]), (box[1], box[3], anchor[1], anchor[3])):
        half = max(high - low, shortest) / 2
        inside &= (low + high) / 2 - half <= (a + b) / 2 <= (low + high) / 2 + half
    return inside
